"""What the data tests share: small folders of text, settings with their own cache, the corpus."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.data.prepare import Prepared, prepare
from model.data.settings import DataSettings
from model.data.tokenizer import Tokenizer

ROOT = Path(__file__).parents[3]
PANGRAM = "the quick brown fox jumps over a lazy dog and naïve cafés sell tea 1234"


@pytest.fixture(scope="session")
def corpus() -> Path:
    folder = ROOT.parent / "shared" / "corpus"
    if not folder.is_dir():
        pytest.skip(f"the corpus is not at {folder}")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., DataSettings]:
    """Settings for a small vocabulary and short rows, with a cache under the test's folder."""

    def make(source: object, **changes: object) -> DataSettings:
        small = {"vocab_size": 300, "context_tokens": 32, "validation_rows": 4}
        cache = {"cache_dir": str(tmp_path / "cache")}
        return DataSettings(source=str(source), **{**small, **cache, **changes})

    return make


@pytest.fixture(scope="session")
def python_docs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The embedded source as the smallest studies use it, prepared once for all tests."""
    cache = tmp_path_factory.mktemp("python-docs")
    wanted = DataSettings(
        source="python-docs",
        vocab_size=2_048,
        context_tokens=256,
        validation_rows=64,
        cache_dir=str(cache),
    )
    return prepare(wanted, quiet)


@pytest.fixture(scope="session")
def gpt2_sized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary file of GPT-2's size and specials; its tokens are of one and two bytes.

    GPT-2's own is downloaded by tiktoken, and tests have no network.
    """
    tokens = [
        *(bytes([value]) for value in range(256)),
        *(bytes(pair) for pair in itertools.product(range(256), repeat=2)),
    ]
    vocabulary = Tokenizer(
        pattern=r"\w+|\W",
        ordinary=tuple(tokens[:50_256]),
        specials={"<|endoftext|>": 50_256},
        bos="<|endoftext|>",
    )
    path = tmp_path_factory.mktemp("gpt2") / "tokenizer.json"
    vocabulary.save(path)
    return path


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def sentences(count: int, start: int = 0) -> list[str]:
    """Documents of different lengths, each its own, English enough to train a vocabulary on."""
    vocabulary = PANGRAM.split()
    documents = []
    for index in range(start, start + count):
        length = 3 + (index * 7919) % 40
        text = " ".join(
            vocabulary[(index * 31 + step * 17) % len(vocabulary)] for step in range(length)
        )
        documents.append(f"{index}: {text}.")
    return documents


def write_parquet(path: Path, documents: list[str], group_rows: int = 1_000) -> None:
    table = pa.table({"text": documents, "source": ["test"] * len(documents)})
    pq.write_table(table, path, row_group_size=group_rows)


def write_jsonl(path: Path, documents: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def token_file(path: Path, ids: list[int]) -> Path:
    """A `.bin` file as llm.c writes it."""
    header = np.zeros(256, "<i4")
    header[:3] = 20_240_520, 1, len(ids)
    path.write_bytes(header.tobytes() + np.array(ids, "<u2").tobytes())
    return path


def parquet_folder(folder: Path, sizes: tuple[int, ...] = (60, 50, 40), group: int = 25) -> Path:
    """Files of `sizes` documents each in row groups of `group`; the last one is validation."""
    folder.mkdir(parents=True)
    start = 0
    for index, size in enumerate(sizes):
        write_parquet(folder / f"{index:03d}.parquet", sentences(size, start), group)
        start += size
    return folder
