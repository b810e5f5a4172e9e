"""`.bin` files of GPT-2 tokens: documents, faults, and the same path as text from there on."""

import struct
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.manifest import find_view
from model.data.prepare import open_prepared, prepare
from model.data.settings import DataSettings
from model.data.sources import TRAIN, VALIDATION
from model.data.token_file import END_OF_TEXT, HEADER_BYTES, read_ids, token_documents
from model.errors import DataError

from .conftest import quiet, token_file

IDS = st.lists(st.integers(0, 50_255) | st.just(END_OF_TEXT), max_size=60)


@given(ids=IDS)
def test_documents_put_together_are_the_file_and_each_begins_with_end_of_text(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int]
):
    path = token_file(tmp_path_factory.getbasetemp() / "any.bin", ids)
    documents = [document.tolist() for document in token_documents(path)]
    assert all(document[0] == END_OF_TEXT for document in documents)
    assert not any(END_OF_TEXT in document[1:] for document in documents)
    continued = bool(ids) and ids[0] != END_OF_TEXT
    assert list(chain(*documents)) == [END_OF_TEXT] * continued + ids


def changed(at: int, value: int) -> Callable[[bytes], bytes]:
    """The content with one of the header's numbers changed."""
    return lambda content: content[: 4 * at] + struct.pack("<i", value) + content[4 * at + 4 :]


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "expected a header of 1,024 bytes; got a file of 0"),
    "half a header": (lambda content: content[:500], "a header of 1,024 bytes; got a file of 500"),
    "magic": (changed(0, 20_240_801), r"magic number 20240520 .* got 20240801"),
    "version": (changed(1, 7), "version 1 of the format; got 7"),
    "count too large": (
        changed(2, 9),
        "1,042 bytes for the 9 tokens in its header; got 1,030 bytes",
    ),
    "count below zero": (changed(2, -3), "got 1,030 bytes"),
    "cut short": (lambda content: content[:-1], "1,030 bytes for the 3 tokens .* got 1,029 bytes"),
    "too long": (lambda content: content + b"\0\0", "for the 3 tokens .* got 1,032 bytes"),
    "id beyond the vocabulary": (
        lambda content: content[:-2] + struct.pack("<H", 50_257),
        "ids below 50,257, GPT-2's vocabulary; got 50257 at token 2",
    ),
    "a web page": (lambda content: b"<html>".ljust(2_000), "magic number 20240520"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_of_tokens_is_an_error_that_names_the_fault(tmp_path: Path, name: str):
    breaker, message = BROKEN[name]
    path = token_file(tmp_path / "a.bin", [END_OF_TEXT, 1, 2])
    path.write_bytes(breaker(path.read_bytes()))
    with pytest.raises(DataError, match=rf"a\.bin: .*{message}"):
        read_ids(path)


def test_header_is_that_of_llm_c(tmp_path: Path):
    content = token_file(tmp_path / "a.bin", [END_OF_TEXT, 7, 50_255]).read_bytes()
    assert content[:12] == bytes.fromhex("88d83401 01000000 03000000")
    assert content[HEADER_BYTES:] == bytes.fromhex("50c4 0700 4fc4")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training files, the second beginning inside a document of the first; validation."""
    folder = tmp_path / "bins"
    folder.mkdir()
    for index in range(1, 3):
        documents = [[END_OF_TEXT, *range(d % 7 + 2)] for d in range(60 * index, 60 * index + 60)]
        beginning = [11, 12, 13] if index == 2 else []
        token_file(folder / f"fineweb_train_{index:06d}.bin", [*beginning, *chain(*documents)])
    token_file(folder / "fineweb_val_000000.bin", [END_OF_TEXT, 65, 66, 67] * 50)
    return folder


def test_folder_of_token_files_is_prepared_without_encoding_anything_again(
    folder: Path, settings: Callable[..., DataSettings], gpt2_sized: Path
):
    wanted = settings(folder, vocab_size=50_257, tokenizer=str(gpt2_sized))
    prepared = prepare(wanted, quiet)
    documents = prepared.documents(TRAIN)
    assert len(documents.lengths) == 121
    assert documents.row_groups == [60, 61]
    assert documents.tokens(60).tolist() == [END_OF_TEXT, 11, 12, 13]
    assert documents.tokens(0).tolist() == [END_OF_TEXT, *range(60 % 7 + 2)]
    assert documents.type == np.dtype("<u2")
    assert prepared.view.validation_bytes == 150  # three tokens of a byte in each of 50 documents
    assert prepared.rows(VALIDATION, 4).tokens(0, 1)[0, :5].tolist() == [50_256, 65, 66, 67, 50_256]
    assert find_view(wanted) == open_prepared(wanted).view


def test_identity_of_tokens_follows_ids_and_document_edges(
    folder: Path, settings: Callable[..., DataSettings], gpt2_sized: Path
):
    wanted = settings(folder, vocab_size=50_257, tokenizer=str(gpt2_sized))
    before = prepare(wanted, quiet).data_id
    path = folder / "fineweb_train_000001.bin"
    ids = read_ids(path).tolist()
    token_file(path, [*ids[:-1], END_OF_TEXT])
    assert prepare(wanted, quiet).data_id != before
    token_file(path, ids)
    assert prepare(wanted, quiet).data_id == before


def test_one_file_of_tokens_holds_out_a_tenth_of_its_documents(
    tmp_path: Path, settings: Callable[..., DataSettings], gpt2_sized: Path
):
    folder = tmp_path / "one"
    folder.mkdir()
    ids = [token for each in range(100) for token in (END_OF_TEXT, each, each + 1)]
    token_file(folder / "all.bin", ids)
    wanted = settings(folder, vocab_size=50_257, tokenizer=str(gpt2_sized), context_tokens=16)
    view = prepare(wanted, quiet).view
    assert (view.train_documents, view.validation_documents) == (90, 10)


@pytest.mark.parametrize("vocab_size", [300, 50_257])
def test_tokens_with_another_vocabulary_than_their_own_are_refused(
    folder: Path, settings: Callable[..., DataSettings], vocab_size: int
):
    with pytest.raises(DataError, match=r"data\.tokenizer: expected gpt2, .* got train"):
        prepare(settings(folder, vocab_size=vocab_size), quiet)


def test_corrupt_file_among_good_ones_is_named(
    folder: Path, settings: Callable[..., DataSettings], gpt2_sized: Path
):
    path = folder / "fineweb_train_000002.bin"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"fineweb_train_000002\.bin: expected .* bytes for the"):
        prepare(settings(folder, vocab_size=50_257, tokenizer=str(gpt2_sized)), quiet)
