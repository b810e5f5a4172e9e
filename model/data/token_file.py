"""A `.bin` file of GPT-2 tokens, in the format of llm.c (@karpathy) and modded-nanogpt.

256 little-endian int32: magic 20240520, version 1, token count, zeros; then that many little-endian
uint16 ids. Every document begins with GPT-2's end-of-text token, 50256. Shards are cut at a fixed
count, so a shard may begin with the rest of the previous shard's last document: that rest counts as
a document, with the token prepended. Nothing is decoded or encoded again.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.data.sources import GPT2_VOCAB_SIZE
from model.errors import DataError

MAGIC, VERSION = 20_240_520, 1
HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS
TOKEN_BYTES = 2
END_OF_TEXT = GPT2_VOCAB_SIZE - 1

Tokens = NDArray[np.uint16]


def token_documents(path: Path) -> Iterator[Tokens]:
    """The documents of a file in order, each beginning with the end-of-text token.

    Raises DataError naming the fault of the header, the size or an id.
    """
    ids = read_ids(path)
    edges = [*np.flatnonzero(ids == END_OF_TEXT).tolist(), len(ids)]
    if edges[0]:
        yield np.concatenate((np.array([END_OF_TEXT], np.uint16), ids[: edges[0]]))
    for start, end in pairwise(edges):
        yield ids[start:end]


def read_ids(path: Path) -> Tokens:
    """(n,) ids of a file, memory-mapped and checked. Raises DataError."""
    size = path.stat().st_size
    if size < HEADER_BYTES:
        raise _wrong(path, f"a header of {HEADER_BYTES:,} bytes", f"a file of {size:,}")
    header = np.fromfile(path, "<i4", HEADER_INTS)
    magic, version, count = (int(value) for value in header[:3])
    if magic != MAGIC:
        raise _wrong(path, f"magic number {MAGIC} (GPT-2 tokens in uint16)", str(magic))
    if version != VERSION:
        raise _wrong(path, f"version {VERSION} of the format", str(version))
    if count < 0 or size != HEADER_BYTES + TOKEN_BYTES * count:
        expected = f"{HEADER_BYTES + TOKEN_BYTES * count:,} bytes for the {count:,} tokens"
        raise _wrong(path, f"{expected} in its header", f"{size:,} bytes")
    if not count:  # an empty file cannot be mapped
        return np.zeros(0, np.uint16)
    ids = np.asarray(np.memmap(path, "<u2", mode="r", offset=HEADER_BYTES))
    largest = int(ids.argmax())
    if ids[largest] >= GPT2_VOCAB_SIZE:
        got = f"{ids[largest]} at token {largest:,}"
        raise _wrong(path, f"ids below {GPT2_VOCAB_SIZE:,}, GPT-2's vocabulary", got)
    return ids


def _wrong(path: Path, expected: str, got: str) -> DataError:
    hint = "Copy or download the file again; `.bin` files hold GPT-2 tokens as llm.c writes them."
    return DataError(path=str(path), expected=expected, got=got, hint=hint)
