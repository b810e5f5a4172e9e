"""Sources and the text in them: order, splits, and an error for everything that can be wrong."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.data.documents import document_hash, held_out_threshold, read_part
from model.data.sources import TRAIN, VALIDATION, describe_source
from model.errors import DataError

from .conftest import sentences, write_jsonl, write_parquet


def texts_of(folder: Path | str, split: str) -> list[str]:
    source = describe_source(str(folder))
    threshold = held_out_threshold(source)
    return [
        text
        for part in source.parts()
        if part.split == split
        for chunk in read_part(source, part, threshold)
        for text in chunk.texts
    ]


def test_files_are_taken_by_name_and_the_last_is_validation(tmp_path: Path):
    for name in ("b", "a", "c"):
        write_jsonl(tmp_path / f"{name}.jsonl", [f"{name}{index}" for index in range(3)])
    assert texts_of(tmp_path, TRAIN) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert texts_of(tmp_path, VALIDATION) == ["c0", "c1", "c2"]


def test_every_txt_file_is_one_document(tmp_path: Path):
    for name in ("1", "2", "3"):
        (tmp_path / f"{name}.txt").write_text(f"line\n\n{name}")
    assert texts_of(tmp_path, TRAIN) == ["line\n\n1", "line\n\n2"]
    assert texts_of(tmp_path, VALIDATION) == ["line\n\n3"]


def test_chunks_of_parquet_keep_their_row_groups(tmp_path: Path):
    write_parquet(tmp_path / "a.parquet", sentences(70), group_rows=30)
    write_parquet(tmp_path / "b.parquet", sentences(5))
    source = describe_source(str(tmp_path))
    chunks = list(read_part(source, source.parts()[0], None))
    assert [(chunk.group, len(chunk.texts)) for chunk in chunks] == [(0, 30), (1, 30), (2, 10)]


def test_single_file_holds_out_a_tenth_by_hash_and_loses_nothing(tmp_path: Path):
    documents = sentences(200)
    write_jsonl(tmp_path / "all.jsonl", documents)
    train, validation = texts_of(tmp_path, TRAIN), texts_of(tmp_path, VALIDATION)
    assert len(validation) == 20
    assert sorted(train + validation) == sorted(documents)
    assert max(map(document_hash, validation)) < min(map(document_hash, train))


def test_a_byte_order_mark_is_no_part_of_a_document(tmp_path: Path):
    (tmp_path / "all.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n', "utf-8-sig")
    assert sorted(texts_of(tmp_path, TRAIN) + texts_of(tmp_path, VALIDATION)) == ["one", "two"]


def test_two_documents_are_enough_for_both_splits(tmp_path: Path):
    write_jsonl(tmp_path / "all.jsonl", ["one", "two"])
    assert len(texts_of(tmp_path, TRAIN)) == len(texts_of(tmp_path, VALIDATION)) == 1


def test_other_files_hidden_files_and_folders_are_left_alone(tmp_path: Path):
    write_jsonl(tmp_path / "a.jsonl", ["one", "two"])
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "below").mkdir()
    assert len(describe_source(str(tmp_path)).files) == 1


@pytest.mark.slow
@pytest.mark.xdist_group("python_docs")  # found once a process
def test_python_docs_are_english_of_about_two_megabytes():
    train, validation = texts_of("python-docs", TRAIN), texts_of("python-docs", VALIDATION)
    size = sum(map(len, train)) + sum(map(len, validation))
    assert 1_000_000 < size < 5_000_000
    assert 0.08 < len(validation) / len(train + validation) < 0.12
    assert not set(train) & set(validation)
    assert any(text.startswith("json.dumps\n\nSerialize") for text in train + validation)


@pytest.mark.xdist_group("python_docs")  # found once a process
@pytest.mark.slow
def test_python_docs_come_in_the_same_order_every_time():
    from model.data.python_docs import python_documents

    files = describe_source("python-docs").files
    first = python_documents(files)
    python_documents.cache_clear()
    assert python_documents(files) == first


Breaker = Callable[[Path], object]


def _cut_parquet(folder: Path, keep: float) -> None:
    write_parquet(folder / "a.parquet", sentences(300))
    content = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(content[: int(len(content) * keep)])


def _damage_parquet(folder: Path) -> None:
    write_parquet(folder / "a.parquet", sentences(300))
    content = bytearray((folder / "a.parquet").read_bytes())
    content[4:400] = b"\xff" * 396
    (folder / "a.parquet").write_bytes(content)


def _lines(*lines: bytes) -> Breaker:
    return lambda folder: (folder / "a.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def _table(**columns: object) -> Breaker:
    return lambda folder: pq.write_table(pa.table(columns), folder / "a.parquet")


def _latin1_parquet(folder: Path) -> None:
    column = pa.array([b"caf\xe9", b"tea"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": column}), folder / "a.parquet")


def _mixed(folder: Path) -> None:
    (folder / "a.txt").write_text("text")
    write_jsonl(folder / "b.jsonl", ["text"])


GOOD = b'{"text": "fine"}'
BROKEN: dict[str, tuple[Breaker, str]] = {
    "empty folder": (lambda folder: None, "parquet, jsonl, txt or bin files in it; got none"),
    "mixed formats": (_mixed, "files of one format; got jsonl and txt"),
    "cut parquet": (
        lambda folder: _cut_parquet(folder, 0.6),
        "a.parquet: expected a whole parquet",
    ),
    "empty parquet": (
        lambda folder: _cut_parquet(folder, 0),
        "a.parquet: expected a whole parquet",
    ),
    "damaged parquet": (_damage_parquet, "a.parquet: expected a whole parquet"),
    "no text column": (_table(body=["x"]), "a column `text` of strings; got columns body"),
    "text of numbers": (_table(text=[1, 2]), r"got columns text \(text is int64\)"),
    "null in parquet": (_table(text=["a", None]), "a text in every row; got null in row group 0"),
    "parquet of latin-1": (_latin1_parquet, "a.parquet: expected UTF-8 text"),
    "half a json line": (_lines(GOOD, b'{"text": "ha'), "a.jsonl, line 2: expected a JSON object"),
    "json but no object": (_lines(GOOD, b"[1]"), "line 2: expected an object with a string"),
    "object without text": (_lines(b'{"body": "x"}'), "line 1: .* got an object with body"),
    "text not a string": (_lines(GOOD, GOOD, b'{"text": 5}'), "line 3: .* `text` is a int"),
    "jsonl of latin-1": (_lines(GOOD, b'{"text": "caf\xe9"}'), "a.jsonl, line 2: expected UTF-8"),
    "deep json": (_lines(GOOD, b"[" * 100_000), "a.jsonl, line 2: expected a JSON object"),
    "lone surrogate": (_lines(b'{"text": "\\ud800"}'), "a.jsonl, line 1: expected UTF-8"),
    "txt of latin-1": (
        lambda folder: (folder / "a.txt").write_bytes(b"one\ntwo caf\xe9 x"),
        r"a.txt, line 2: expected UTF-8 text; got byte 0xe9 at offset 11",
    ),
    "one document": (_lines(GOOD), "at least two different documents; got one file with 1"),
    "no documents": (_lines(), "at least two different documents; got one file with 0"),
    "copies only": (_lines(GOOD, GOOD), "at least two different documents; got one file with 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_source_is_an_error_that_names_the_place(tmp_path: Path, name: str):
    breaker, message = BROKEN[name]
    breaker(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        texts_of(tmp_path, TRAIN)
    assert caught.value.hint.endswith((".", "'"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pyton-docs", r"data.source: .* got pyton-docs. Did you mean python-docs\?"),
        ("python_docs", r"Did you mean python-docs\?"),
        ("climb-mix", r"Did you mean climbmix\?"),
        ("fineweb10b", r"Did you mean fineweb10B\?"),
        (
            "elsewhere",
            "python-docs, climbmix, fineweb10B or the path of a folder; got elsewhere. Give",
        ),
        ("./no/such/folder", "expected a folder; got no such folder"),
    ],
)
def test_missing_source_is_named_with_a_hint(source: str, message: str):
    with pytest.raises(DataError, match=message):
        describe_source(source)


def test_file_given_as_source_asks_for_its_folder(tmp_path: Path):
    write_jsonl(tmp_path / "a.jsonl", ["one", "two"])
    with pytest.raises(DataError, match="a folder of parquet, jsonl, txt or bin files; got a file"):
        describe_source(str(tmp_path / "a.jsonl"))
