"""Rows of tokens: the packing plan applied to the token shards.

A row is the T + 1 tokens of its pieces, concatenated: inputs are its first T tokens, targets its
last T. Reading copies slices of memory-mapped shards.
"""

import hashlib
import itertools
import sys
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.data.packing import Plan
from model.data.shards import Shard


class DocumentTokens:
    """All documents of a split, numbered in file order over its shards.

    A document of more than `longest` tokens counts as several, each of `longest` tokens but the
    last.
    """

    def __init__(self, shards: Sequence[Shard], longest: int | None = None) -> None:
        self._tokens = [shard.tokens for shard in shards]
        self._shard_of = np.repeat(np.arange(len(shards)), [s.record.documents for s in shards])
        self._start_of = np.concatenate([shard.starts[:-1] for shard in shards])
        self.lengths: NDArray[np.int64] = np.concatenate([np.diff(s.starts) for s in shards])
        self.row_groups = [size for shard in shards for size in shard.record.row_groups]
        self.type = self._tokens[0].dtype
        if longest is not None:
            self._split(longest)

    def _split(self, longest: int) -> None:
        parts = -(-self.lengths // longest)
        of = np.repeat(np.arange(len(parts)), parts)
        first = np.repeat(np.cumsum(parts) - parts, parts)
        before = (np.arange(len(of)) - first) * longest
        ends = np.cumsum([0, *self.row_groups])
        sizes = [parts[start:end].sum() for start, end in itertools.pairwise(ends)]
        self.row_groups = [int(size) for size in sizes]
        self.lengths = np.minimum(self.lengths[of] - before, longest)
        self._shard_of, self._start_of = self._shard_of[of], self._start_of[of] + before

    def tokens(self, document: int) -> NDArray[np.unsignedinteger]:
        """The ids of one document, BOS first unless it continues the document before it."""
        shard = self._tokens[int(self._shard_of[document])]
        start = int(self._start_of[document])
        return shard[start : start + int(self.lengths[document])]

    def gather(self, pieces: NDArray[np.int32], out: NDArray[np.int64]) -> None:
        """Concatenate pieces (document, start, length) into `out`, which they fill."""
        documents = pieces[:, 0]
        shards = self._shard_of[documents].tolist()
        starts = (self._start_of[documents] + pieces[:, 1]).tolist()
        at = 0
        for shard, start, length in zip(shards, starts, pieces[:, 2].tolist(), strict=True):
            out[at : at + length] = self._tokens[shard][start : start + length]
            at += length
        assert at == len(out), (at, len(out))


class Rows(Protocol):
    """What a loader reads."""

    @property
    def rows(self) -> int:
        """The number of rows."""

    def tokens(self, start: int, stop: int) -> NDArray[np.int64]:
        """Rows start to stop as (stop - start, T + 1) token ids."""


class PackedRows:
    """The rows of one split. `rows` of them are planned; each has `context_tokens` + 1 tokens."""

    def __init__(self, documents: DocumentTokens, plan: Plan, context_tokens: int) -> None:
        self._documents, self.plan = documents, plan
        self.context_tokens = context_tokens

    @property
    def rows(self) -> int:
        return self.plan.rows

    @property
    def lost_share(self) -> float:
        """Share of the stream's tokens that cropping dropped."""
        packed = len(self.plan.pieces) and int(self.plan.pieces[:, 2].sum(dtype=np.int64))
        return self.plan.lost_tokens / max(1, packed + self.plan.lost_tokens)

    @property
    def epochs(self) -> float:
        """Passes over the documents that fill the planned rows."""
        return self.plan.next_place / len(self._documents.lengths)

    def tokens(self, start: int, stop: int) -> NDArray[np.int64]:
        """Rows start to stop as (stop - start, T + 1) token ids."""
        assert 0 <= start <= stop <= self.rows, (start, stop, self.rows)
        rows = np.empty((stop - start, self.context_tokens + 1), np.int64)
        first, last = self.plan.row_starts[start], self.plan.row_starts[stop]
        self._documents.gather(self.plan.pieces[first:last], rows.reshape(-1))
        return rows

    def sha256(self, rows: int) -> str:
        """SHA-256 of the first rows as little-endian ids of the stored type."""
        digest = hashlib.sha256()
        for start in range(0, rows, 256):
            block = self.tokens(start, min(rows, start + 256))
            digest.update(block.astype(self._documents.type).tobytes())
        return digest.hexdigest()

    def repeats(self, rows: int) -> list[int]:
        """Which of the first rows, numbered from 1, equal an earlier one."""
        seen: set[bytes] = set()
        found = []
        for row in range(rows):
            content = hashlib.sha256(self.tokens(row, row + 1).tobytes()).digest()
            if content in seen:
                found.append(row + 1)
            seen.add(content)
        return found


class RepeatedRows:
    """The first `rows` rows of another `Rows`, repeated without end.

    A requested slice does not cross from the last row to the first: batches divide `rows`.
    """

    def __init__(self, others: Rows, rows: int) -> None:
        assert 0 < rows <= others.rows, (rows, others.rows)
        self._others, self._period = others, rows

    @property
    def rows(self) -> int:
        """Practically infinite."""
        return sys.maxsize

    def tokens(self, start: int, stop: int) -> NDArray[np.int64]:
        """Rows start to stop as (stop - start, T + 1) token ids."""
        first = start % self._period
        assert first + stop - start <= self._period, (start, stop, self._period)
        return self._others.tokens(first, first + stop - start)
