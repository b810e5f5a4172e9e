"""Real text: a slice of the corpus in the normal suite, and the published hashes when asked for."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model.data.prepare import prepare
from model.data.settings import DataSettings
from model.data.sources import TRAIN, VALIDATION

from .conftest import quiet, write_parquet
from .test_packing import reference_rows

# Of nanochat's data path on the same files: vocabulary, then the first 64 rows of 2,049 tokens.
TOKENIZER = "d7d4e74a30d8ecff2cdf80c077684e474a3f8700ed2eef9f99d3e8204e99151e"
VALIDATION_ROWS = "3eea38ed4fc1f3da222dbd0900237c7bac214e52239cf99865a88f658ebfe0e3"
TRAINING_ROWS = "231263f6615cd922f43ae782dc5f28a637538171e13c4e4955ecb7f0f87d1715"


def test_slice_of_the_corpus_round_trips_and_packs_as_the_reference(corpus: Path, tmp_path: Path):
    texts = {
        name: pq.ParquetFile(corpus / f"{name}.parquet").read_row_group(0)["text"].to_pylist()[:300]
        for name in ("train-000", "val-000")
    }
    folder = tmp_path / "text"
    folder.mkdir()
    for name, documents in texts.items():
        write_parquet(folder / f"{name}.parquet", documents, group_rows=200)
    wanted = DataSettings(
        source=str(folder),
        vocab_size=1_024,
        context_tokens=512,
        validation_rows=16,
        order="file",
        cache_dir=str(tmp_path / "cache"),
    )
    prepared = prepare(wanted, quiet)
    documents = prepared.documents(TRAIN)
    for number in range(0, 300, 7):
        tokens = documents.tokens(number)
        assert prepared.tokenizer.decode(tokens[1:]) == texts["train-000"][number]
    text_bytes = sum(len(text.encode()) for text in texts["train-000"])
    counted = sum(int(prepared.bytes_per_token[documents.tokens(n)].sum()) for n in range(300))
    assert counted == text_bytes == prepared.view.train_bytes
    lengths = documents.lengths.tolist()
    expected = reference_rows([lengths[:200], lengths[200:]], 513, 100)
    got = prepared.rows(TRAIN, 100).plan
    assert got.pieces[:, [0, 2]].tolist() == [list(piece) for row in expected for piece in row]


@pytest.mark.slow
def test_corpus_gives_the_published_vocabulary_and_rows(corpus: Path, tmp_path: Path):
    wanted = DataSettings(
        source=str(corpus),
        vocab_size=32_768,
        context_tokens=2_048,
        validation_rows=64,
        order="file",
        cache_dir=str(tmp_path),
    )
    prepared = prepare(wanted, quiet)
    assert prepared.bos_id == 32_759
    assert prepared.tokenizer.sha256 == TOKENIZER
    assert prepared.rows(VALIDATION, 64).sha256(64) == VALIDATION_ROWS
    assert prepared.rows(TRAIN, 64).sha256(64) == TRAINING_ROWS
