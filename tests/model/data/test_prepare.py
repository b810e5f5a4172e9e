"""Preparing once, opening what is whole, refusing what is not; identity follows the content."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from model.data.atomic import exclusive, replacing
from model.data.documents import read_part
from model.data.manifest import find_view
from model.data.prepare import open_prepared, prepare
from model.data.sources import TRAIN, VALIDATION, describe_source
from model.errors import DataError

from .conftest import ROOT, parquet_folder, quiet, sentences, write_jsonl, write_parquet


def test_rows_are_documents_with_bos_packed_to_the_token(tmp_path, settings):
    prepared = prepare(settings(parquet_folder(tmp_path / "text"), order="file"), quiet)
    source = describe_source(str(tmp_path / "text"))
    texts = [
        t for part in source.parts()[:2] for c in read_part(source, part, None) for t in c.texts
    ]
    rows = prepared.rows(TRAIN, 20)
    assert rows.tokens(0, 20).shape == (20, 33)
    for row in range(20):
        pieces = rows.plan.pieces[rows.plan.row_starts[row] : rows.plan.row_starts[row + 1]]
        expected = [
            token
            for document, start, length in pieces.tolist()
            for token in [prepared.bos_id, *prepared.tokenizer.encode(texts[document])][
                start : start + length
            ]
        ]
        assert rows.tokens(row, row + 1)[0].tolist() == expected


def test_documents_of_all_files_decode_to_their_text(tmp_path, settings):
    prepared = prepare(settings(parquet_folder(tmp_path / "text")), quiet)
    documents = prepared.documents(TRAIN)
    assert len(documents.lengths) == 110
    for number, text in ((0, sentences(1)[0]), (75, sentences(1, 75)[0])):
        assert prepared.tokenizer.decode(documents.tokens(number)) == f"<|bos|>{text}"
    assert documents.row_groups == [25, 25, 10, 25, 25]


def test_preparing_again_changes_no_file(tmp_path, settings):
    wanted = settings(parquet_folder(tmp_path / "text"))
    first = prepare(wanted, quiet)
    before = {path: path.stat().st_mtime_ns for path in wanted.cache.rglob("*") if path.is_file()}
    lines: list[str] = []
    again = prepare(wanted, lines.append)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.data_id == first.data_id
    assert lines == []


def test_view_is_none_before_prepare_and_the_same_after(tmp_path, settings):
    wanted = settings(parquet_folder(tmp_path / "text"))
    assert find_view(wanted) is None
    prepared = prepare(wanted, quiet)
    assert find_view(wanted) == prepared.view
    assert find_view(settings(tmp_path / "nowhere")) is None


def test_finding_a_view_imports_no_library(tmp_path, settings):
    wanted = settings(parquet_folder(tmp_path / "text"))
    data_id = prepare(wanted, quiet).data_id
    script = (
        "import sys\n"
        "from model.data.manifest import find_view\n"
        "from model.data.settings import DataSettings\n"
        f"view = find_view({wanted!r})\n"
        "heavy = {'numpy', 'pyarrow', 'torch', 'tiktoken', 'rustbpe'} & set(sys.modules)\n"
        "print(view.data_id, sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1) == [data_id, "[]\n"]


def test_identity_ignores_seed_order_and_places_but_nothing_else(tmp_path, settings):
    folder = parquet_folder(tmp_path / "text")
    base = prepare(settings(folder), quiet).data_id
    shutil.copytree(folder, tmp_path / "moved")
    same = [
        settings(folder, seed=2),
        settings(folder, order="file"),
        settings(folder, train_files=2),
        settings(tmp_path / "moved", cache_dir=str(tmp_path / "other cache")),
    ]
    assert {prepare(each, quiet).data_id for each in same} == {base}
    other = [
        settings(folder, train_files=1),
        settings(folder, context_tokens=31),
        settings(folder, validation_rows=5),
        settings(folder, vocab_size=301),
        settings(parquet_folder(tmp_path / "regrouped", group=30)),
        settings(parquet_folder(tmp_path / "longer", sizes=(60, 51, 39))),
    ]
    ids = [prepare(each, quiet).data_id for each in other]
    assert len({base, *ids}) == 1 + len(other)


def test_fewer_training_files_share_the_vocabulary_and_encode_no_more(tmp_path, settings):
    folder = parquet_folder(tmp_path / "text")
    one = prepare(settings(folder, train_files=1), quiet)
    assert [part.shard is not None for part in one.manifest.parts] == [True, False, True]
    every = prepare(settings(folder), quiet)
    assert one.tokenizer == every.tokenizer
    assert every.view.train_documents == 110
    assert open_prepared(settings(folder, train_files=1)).view.train_documents == 60


def test_more_training_files_than_there_are_is_an_error(tmp_path, settings):
    with pytest.raises(DataError, match=r"train_files: expected at most 2 training files .* got 3"):
        prepare(settings(parquet_folder(tmp_path / "text"), train_files=3), quiet)


def test_validation_rows_and_file_order_do_not_depend_on_the_seed(tmp_path, settings):
    folder = parquet_folder(tmp_path / "text")
    one, two = (prepare(settings(folder, seed=seed), quiet) for seed in (1, 2))
    assert one.rows(VALIDATION, 8).sha256(8) == two.rows(VALIDATION, 8).sha256(8)
    assert one.rows(TRAIN, 8).sha256(8) != two.rows(TRAIN, 8).sha256(8)
    one, two = (prepare(settings(folder, seed=seed, order="file"), quiet) for seed in (1, 2))
    assert one.rows(TRAIN, 8).sha256(8) == two.rows(TRAIN, 8).sha256(8)


def test_prepared_folder_serves_where_the_text_is_missing(tmp_path, settings):
    folder = parquet_folder(tmp_path / "text")
    original = prepare(settings(folder), quiet)
    rows = original.rows(TRAIN, 6).sha256(6)
    shutil.copytree(original.path, tmp_path / "carried")
    shutil.rmtree(folder)
    carried = settings(tmp_path / "carried", cache_dir=str(tmp_path / "empty"))
    assert find_view(carried).data_id == original.data_id
    assert open_prepared(carried).rows(TRAIN, 6).sha256(6) == rows
    assert prepare(settings(tmp_path / "carried", context_tokens=16), quiet).data_id


def test_prepared_folder_of_another_vocabulary_is_refused(tmp_path, settings):
    original = prepare(settings(parquet_folder(tmp_path / "text")), quiet)
    other = settings(original.path, vocab_size=999)
    assert find_view(other) is None
    for action in (open_prepared, lambda wanted: prepare(wanted, quiet)):
        with pytest.raises(DataError, match=r"a tokenizer of 999 tokens .* got 300"):
            action(other)


def test_vocabulary_of_a_file_is_used_and_its_size_must_fit(tmp_path, settings):
    folder = parquet_folder(tmp_path / "text")
    first = prepare(settings(folder), quiet)
    path = str(first.path / "tokenizer.json")
    assert prepare(settings(folder, tokenizer=path), quiet).data_id == first.data_id
    with pytest.raises(DataError, match=r"a tokenizer of 301 tokens .* got 300"):
        prepare(settings(folder, tokenizer=path, vocab_size=301), quiet)


@pytest.mark.parametrize("suffix", ["tokens", "starts"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_shard_that_differs_from_the_manifest_is_refused(tmp_path, settings, suffix, damage):
    wanted = settings(parquet_folder(tmp_path / "text"))
    home = prepare(wanted, quiet).path
    path = home / "shards" / f"001-train.{suffix}"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "changed" else content[:-2])
    assert (find_view(wanted) is None) == (damage != "changed")  # known before a GPU is taken
    for action in (open_prepared, lambda each: prepare(each, quiet)):
        with pytest.raises(DataError, match=rf"001-train\.{suffix}: expected .* Delete {home}"):
            action(wanted)
    shutil.rmtree(home)
    assert prepare(wanted, quiet).data_id  # the hint works


def test_changed_vocabulary_of_a_prepared_folder_is_refused(tmp_path, settings):
    wanted = settings(parquet_folder(tmp_path / "text"))
    home = prepare(wanted, quiet).path
    prepare(settings(tmp_path / "text", tokenizer="train", vocab_size=301), quiet)
    other = prepare(settings(tmp_path / "text", vocab_size=301), quiet).path
    shutil.copy(other / "tokenizer.json", home / "tokenizer.json")
    with pytest.raises(DataError, match=r"tokenizer\.json: expected tokens of SHA-256"):
        open_prepared(wanted)


def test_changed_source_is_refused_by_name_and_prepared_anew(tmp_path, settings):
    folder = parquet_folder(tmp_path / "text")
    before = prepare(settings(folder), quiet).data_id
    write_parquet(folder / "001.parquet", sentences(50, start=900))
    assert find_view(settings(folder)) is None
    with pytest.raises(DataError, match=r"got 001\.parquet changed since it was prepared"):
        open_prepared(settings(folder))
    assert prepare(settings(folder), quiet).data_id != before


def test_touched_source_is_hashed_and_found_unchanged(tmp_path, settings):
    folder = parquet_folder(tmp_path / "text")
    before = prepare(settings(folder), quiet)
    os.utime(folder / "001.parquet", (1, 1))
    lines: list[str] = []
    assert prepare(settings(folder), lines.append).data_id == before.data_id
    assert not [line for line in lines if "encoding" in line or "training" in line]


def test_empty_validation_file_is_an_error(tmp_path, settings):
    folder = tmp_path / "text"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", sentences(80))
    write_jsonl(folder / "b.jsonl", [])
    with pytest.raises(DataError, match="text in the validation files; got no documents"):
        prepare(settings(folder), quiet)


def test_training_file_without_documents_is_passed_over(tmp_path, settings):
    folder = tmp_path / "text"
    folder.mkdir()
    for name, documents in (("a", sentences(60)), ("b", []), ("c", sentences(60, 60))):
        write_jsonl(folder / f"{name}.jsonl", documents)
    prepared = prepare(settings(folder), quiet)
    assert [part.shard.documents for part in prepared.manifest.parts] == [60, 0, 60]
    assert prepared.rows(TRAIN, 5).tokens(0, 5).shape == (5, 33)


def test_bad_file_met_while_training_the_vocabulary_keeps_its_name(tmp_path, settings):
    folder = parquet_folder(tmp_path / "text")
    content = (folder / "001.parquet").read_bytes()
    (folder / "001.parquet").write_bytes(content[:-30])
    with pytest.raises(DataError, match=r"001\.parquet: expected a whole parquet file"):
        prepare(settings(folder), quiet)


def test_damaged_manifest_is_an_error_with_a_hint(tmp_path, settings):
    wanted = settings(parquet_folder(tmp_path / "text"))
    home = prepare(wanted, quiet).path
    value = json.loads((home / "manifest.json").read_text())
    del value["parts"][0]["shard"]["tokens"]
    (home / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"manifest\.json: .* Delete .* prepare"):
        prepare(wanted, quiet)


def test_large_vocabularies_are_stored_in_four_bytes():
    from model.data.shards import token_type

    assert token_type(2) == np.dtype("<u2")
    assert token_type(4) == np.dtype("<u4")


SCRIPT = """
import sys
from model.data.prepare import prepare
from model.data.settings import DataSettings
from model.errors import DataError
def progress(line): print(line, flush=True)
try:
    print(prepare({settings!r}, progress).data_id)
except DataError as error:
    print("DataError", error)
"""


def start_prepare(wanted, **options) -> subprocess.Popen[str]:
    script = SCRIPT.format(settings=wanted)
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, **options
    )


def test_killed_prepare_reuses_its_finished_shards(tmp_path, settings):
    folder = parquet_folder(tmp_path / "text", sizes=(3_000, 3_000, 3_000, 40), group=1_000)
    wanted = settings(folder)
    process = start_prepare(wanted)
    for line in process.stdout:
        if "encoding 001" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    finished = next(wanted.cache.glob("*/shards/000-train.json")).stat().st_mtime_ns
    assert find_view(wanted) is None
    lines: list[str] = []
    resumed = prepare(wanted, lines.append)
    assert (resumed.path / "shards" / "000-train.json").stat().st_mtime_ns == finished
    assert not any("encoding 000" in line or "training" in line for line in lines)
    assert not list(resumed.path.rglob("*.unfinished"))
    fresh = settings(folder, cache_dir=str(tmp_path / "fresh"))
    assert prepare(fresh, quiet).data_id == resumed.data_id


def test_second_process_waits_and_makes_nothing_again(tmp_path, settings):
    wanted = settings(parquet_folder(tmp_path / "text"))
    with exclusive(wanted.cache, quiet):
        process = start_prepare(wanted)
        assert "waiting for another process" in process.stdout.readline()
        assert not list(wanted.cache.glob("*/manifest.json"))
    output, _ = process.communicate(timeout=60)
    assert output.split()[-1] == prepare(wanted, quiet).data_id


def test_full_disk_is_an_error_with_a_hint_and_leaves_no_partial_file(tmp_path, settings):
    """A limit on file sizes fails a write as a full disk does."""
    import resource

    folder = parquet_folder(tmp_path / "text", sizes=(3_000, 40), group=1_000)
    prepare(settings(folder, train_files=1, validation_rows=1, context_tokens=4), quiet)
    for made in (tmp_path / "cache").glob("*/shards/*"):
        made.unlink()
    shutil.rmtree(tmp_path / "cache" / "sources")
    wanted = settings(folder)

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    process = start_prepare(wanted, preexec_fn=small_files_only)
    output, _ = process.communicate(timeout=60)
    assert "DataError" in output
    assert "disk space for the prepared data; got no space left" in output
    assert not list((tmp_path / "cache").glob("*/shards/*"))
    assert prepare(wanted, quiet).data_id


def test_read_only_cache_is_an_error_with_a_hint(tmp_path, settings):
    (tmp_path / "taken").write_text("a file where the cache should be")
    wanted = settings(parquet_folder(tmp_path / "text"), cache_dir=str(tmp_path / "taken"))
    with pytest.raises(DataError, match=r"a folder that can be written; .* Set data\.cache_dir"):
        prepare(wanted, quiet)


@pytest.mark.parametrize(
    ("field", "value", "key"),
    [
        ("context_tokens", 0, "model.context_tokens"),
        ("validation_rows", 0, "eval.tokens"),
        ("vocab_size", -1, "model.vocab_size"),
        ("train_files", 0, "data.train_files"),
        ("order", "random", "data.order"),
    ],
)
def test_setting_out_of_range_is_refused_by_name(settings, field, value, key):
    with pytest.raises(DataError, match=rf"{key}: expected .* got {value}"):
        settings("python-docs", **{field: value})


def interrupted_write(file) -> None:
    file.write(b"new")
    raise KeyboardInterrupt


def test_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "value"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        interrupted_write(file)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["value"]


def test_small_python_docs_rows_lose_little_to_cropping(python_docs):
    view = python_docs.view
    epoch_rows = view.train_tokens // 257
    rows = python_docs.rows(TRAIN, epoch_rows)
    assert rows.lost_share < 0.1
    assert python_docs.manifest.python.startswith("CPython 3.")
    assert python_docs.manifest.held_out
    assert 2.5 < view.train_bytes / view.train_tokens < 4


def test_finding_a_view_reads_neither_text_nor_tokens(tmp_path, settings):
    folder = parquet_folder(tmp_path / "text")
    prepared = prepare(settings(folder), quiet)
    for path in (*folder.iterdir(), *(prepared.path / "shards").iterdir()):
        times, size = path.stat(), path.stat().st_size
        path.write_bytes(b"?" * size)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert find_view(settings(folder, seed=7)) == prepared.view


def test_lock_of_a_killed_process_holds_nobody_up(tmp_path):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from model.data.atomic import exclusive\n"
        f"with exclusive(Path({str(tmp_path)!r}), print):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    process.stdout.close()
    lines: list[str] = []
    with exclusive(tmp_path, lines.append):
        assert lines == []
