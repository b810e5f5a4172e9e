"""Text that is not cut into documents: txt files become rows; loss and repetition are reported."""

import json

import numpy as np
import pytest

from model.data import packing
from model.data.manifest import find_view
from model.data.prepare import open_prepared, prepare
from model.data.rows import DocumentTokens
from model.data.sources import TRAIN, VALIDATION
from model.errors import DataError

from .conftest import PANGRAM, quiet, sentences, write_jsonl, write_parquet


def book(length, seed=0):
    """A text of so many length without repeated passages."""
    known = PANGRAM.split()
    chosen = np.random.default_rng(seed).integers(0, len(known), length)
    return " ".join(known[word] for word in chosen)


def txt_folder(folder, train=20_000, validation=4_000):
    """One txt file a split, of so many length."""
    folder.mkdir()
    (folder / "a.txt").write_text(book(train))
    (folder / "b.txt").write_text(book(validation, seed=1))
    return folder


def test_one_txt_file_a_split_becomes_as_many_rows_as_it_fills(tmp_path, settings):
    lines: list[str] = []
    wanted = settings(txt_folder(tmp_path / "text"), validation_rows=40)
    prepared = prepare(wanted, lines.append)
    tokens = prepared.view.train_tokens
    whole = tokens // 33
    rows = prepared.rows(TRAIN, whole)
    assert whole > 400
    assert rows.lost_share == 0.0
    assert not rows.repeats(whole)
    assert not prepared.rows(VALIDATION, 40).repeats(40)
    assert not [line for line in lines if line.startswith("warning")]
    in_order = prepare(settings(tmp_path / "text", order="file", validation_rows=40), quiet)
    shown = in_order.tokenizer.decode(in_order.rows(TRAIN, whole).tokens(0, whole).reshape(-1))
    assert shown == ("<|bos|>" + book(20_000))[: len(shown)]


def test_the_vocabulary_is_trained_on_all_of_a_txt_file(tmp_path, settings):
    folder = txt_folder(tmp_path / "text")
    (folder / "a.txt").write_text(book(20_000) + " zyxzyx wvuwvu" * 4_000)
    prepared = prepare(settings(folder), quiet)
    assert b" wvuwvu" in prepared.tokenizer.ordinary


def test_long_documents_are_split_where_their_groups_end():
    class Record:
        documents, row_groups = 4, [1, 3]

    class Part:
        record, tokens = Record(), np.arange(100, dtype=np.uint16)
        starts = np.array([0, 25, 35, 80, 100])

    documents = DocumentTokens([Part()], 10)
    assert documents.lengths.tolist() == [10, 10, 5, 10, 10, 10, 10, 10, 5, 10, 10]
    assert documents.row_groups == [3, 8]
    pieces = [documents.tokens(number) for number in range(11)]
    assert np.concatenate(pieces).tolist() == list(range(100))


def test_a_split_plan_has_an_identity_of_its_own(tmp_path, settings):
    """A prepared folder of an earlier rule is packed again and not used as it is."""
    wanted = settings(txt_folder(tmp_path / "text"))
    first = prepare(wanted, quiet)
    (view,) = (first.path / "views").iterdir()
    value = json.loads(view.read_text())
    assert value["packing"] == "rows_of_long_documents, best_fit_crop_shortest/1"
    view.write_text(json.dumps({**value, "packing": "best_fit_crop_shortest/1"}))
    assert find_view(wanted) is None
    assert prepare(wanted, quiet).data_id == first.data_id == open_prepared(wanted).data_id


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_documents_of_other_formats_are_cropped_as_before(tmp_path, settings, write):
    folder = tmp_path / "text"
    folder.mkdir()
    suffix = write.__name__.removeprefix("write_")
    for name, start in (("a", 0), ("b", 900)):
        documents = [" ".join(sentences(4, start + 4 * n)) for n in range(60)]
        write(folder / f"{name}.{suffix}", documents)
    lines: list[str] = []
    prepared = prepare(settings(folder), lines.append)
    assert json.loads(next((prepared.path / "views").iterdir()).read_text())["packing"] == (
        packing.PACKING
    )
    assert not prepared.rows(TRAIN, 20).plan.pieces[:, 1].any()
    assert prepared.documents(TRAIN).lengths.max() > 33
    warned = [line for line in lines if "of the train tokens" in line]
    assert "longer than a row of 33" in warned[0]


def test_a_source_that_cropping_would_waste_is_refused_with_a_hint(tmp_path, settings):
    folder = tmp_path / "text"
    folder.mkdir()
    for name, start in (("a", 0), ("b", 5_000)):
        write_jsonl(folder / f"{name}.jsonl", [" ".join(sentences(500, start))])
    wanted = settings(folder)
    with pytest.raises(DataError, match=r"got 99\.\d%: their rows keep 33 tokens .* as txt files"):
        prepare(wanted, quiet)
    assert find_view(wanted) is None


def test_repeated_validation_rows_are_named(tmp_path, settings):
    lines: list[str] = []
    prepare(
        settings(txt_folder(tmp_path / "text", validation=100), validation_rows=64), lines.append
    )
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert warning.startswith("warning: validation rows ")
    assert "and " in warning
    assert "of 64 repeat earlier ones: add text for validation, or lower eval.tokens" in warning


@pytest.mark.parametrize("split", ["train", "validation"])
def test_text_shorter_than_one_row_is_refused(tmp_path, settings, split):
    folder = txt_folder(tmp_path / "text", validation=4_000)
    (folder / ("a.txt" if split == "train" else "b.txt")).write_text("To be or not to be.")
    shared = settings(txt_folder(tmp_path / "other"))
    tokenizer = str(prepare(shared, quiet).path / "tokenizer.json")
    message = rf"text of 33 tokens or more in the {split} files, for one row; got \d+"
    with pytest.raises(DataError, match=message):
        prepare(settings(folder, tokenizer=tokenizer), quiet)


def test_a_byte_order_mark_is_no_text(tmp_path, settings):
    folder = txt_folder(tmp_path / "text")
    plain = prepare(settings(folder), quiet).rows(TRAIN, 20).sha256(20)
    text = (folder / "a.txt").read_text()
    (folder / "a.txt").write_text(text, encoding="utf-8-sig")
    assert prepare(settings(folder), quiet).rows(TRAIN, 20).sha256(20) == plain
