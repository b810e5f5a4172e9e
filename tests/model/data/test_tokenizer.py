"""The vocabulary: training, its file, its identity, and what it refuses."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data import tokenizer as tokenizers
from model.errors import DataError

from .conftest import sentences


@pytest.fixture(scope="module")
def small() -> tokenizers.Tokenizer:
    return tokenizers.train(sentences(200), 400)


def test_trained_vocabulary_has_the_requested_size_and_ends_with_specials(small):
    assert small.vocab_size == 400
    assert small.bos_id == 391
    assert sorted(small.specials.values()) == list(range(391, 400))
    assert next(iter(small.specials)) == "<|bos|>"


def test_training_is_deterministic_and_depends_on_the_text(small):
    assert tokenizers.train(sentences(200), 400).sha256 == small.sha256
    assert tokenizers.train(sentences(200, start=9), 400).sha256 != small.sha256


def test_training_reads_10000_characters_of_a_document():
    end = "zebra stripes " * 50
    long = ["word salad " * 1_000, "word sound " * 1_000]
    cut = [text[:10_000] for text in long]
    assert (
        tokenizers.train([text + end for text in long], 268).sha256
        == tokenizers.train(cut, 268).sha256
    )


@given(text=st.text())
def test_decoding_gives_the_text_back(small, text):
    assert small.decode(small.encode(text)) == text


@given(text=st.text())
def test_bytes_of_tokens_add_up_to_the_bytes_of_the_text(small, text):
    assert int(small.bytes_per_token[small.encode(text)].sum()) == len(text.encode())


def test_specials_have_no_bytes_and_ordinary_tokens_their_raw_ones(small):
    counts = small.bytes_per_token
    assert counts.shape == (400,)
    assert not counts[391:].any()
    assert counts[:256].tolist() == [1] * 256


def test_text_that_spells_a_special_token_is_ordinary(small):
    (document,) = small.encode_documents(["<|bos|>"])
    assert document[0] == small.bos_id
    assert len(document) > 2
    assert small.bos_id not in document[1:]


def test_documents_are_encoded_as_one_by_one_with_bos_in_front(small):
    texts = [*sentences(50), ""]
    for text, tokens in zip(texts, small.encode_documents(texts), strict=True):
        assert tokens.tolist() == [small.bos_id, *small.encode(text)]


def test_digit_groups_have_at_most_two_digits():
    trained = tokenizers.train(["1234 1234 12345 year 1234"] * 50, 270)
    assert b"12" in trained.ordinary
    assert not any(len(t.strip()) > 2 and t.strip().isdigit() for t in trained.ordinary)


def test_saved_vocabulary_is_read_back_whole(small, tmp_path: Path):
    small.save(tmp_path / "v.json")
    read = tokenizers.load(tmp_path / "v.json")
    assert read == small
    assert read.encode("lazy cafés") == small.encode("lazy cafés")


def test_too_little_text_for_the_vocabulary_is_an_error():
    with pytest.raises(
        DataError, match=r"enough text .* 5,000 tokens; got text in the data source for \d+ tokens"
    ):
        tokenizers.train(["hello world"], 5_000)


def test_vocabulary_below_the_bytes_is_an_error():
    with pytest.raises(DataError, match="at least 265 tokens"):
        tokenizers.train(["hello world"], 100)


def test_vocabulary_of_another_size_than_the_models_is_refused_with_both_sizes():
    with pytest.raises(
        DataError, match=r"tokenizer of 32,768 tokens .* got 400.*vocab_size to 400"
    ):
        tokenizers.require_size(400, 32_768, "data.tokenizer")


def test_changed_vocabulary_file_is_refused(small, tmp_path: Path):
    path = tmp_path / "v.json"
    small.save(path)
    value = json.loads(path.read_text())
    value["ordinary"][300] += "x"
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match=f"tokens of SHA-256 {small.sha256}"):
        tokenizers.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"ordinary": 3}', b"\xff\xfe"])
def test_file_that_is_no_vocabulary_is_refused_by_name(tmp_path: Path, content: bytes):
    (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(DataError, match=r"v\.json: expected a tokenizer file"):
        tokenizers.load(tmp_path / "v.json")


def test_missing_vocabulary_file_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="got no such file"):
        tokenizers.load(tmp_path / "v.json")


def test_unreachable_gpt2_vocabulary_is_an_error_with_a_hint(monkeypatch, tmp_path: Path):
    import tiktoken.registry

    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens on the discard port
    with pytest.raises(DataError, match=r"GPT-2's vocabulary.*TIKTOKEN_CACHE_DIR"):
        tokenizers.gpt2()
