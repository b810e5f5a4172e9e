"""The packing plan: the documents of each row.

Rows of T + 1 tokens are filled by best fit from a buffer of at least 1,000 documents, as in
nanochat: take the longest document that fits, the first in the buffer on ties; if none fits, crop
the shortest (first on ties) to fill the row and drop its rest. Documents arrive in batches of at
most 128 that never cross a row group. At the end of an epoch the stream starts again and the buffer
remains. A txt file is often a whole book, so each row's worth of its tokens counts as a document
and only its end is ever cropped (`rows`).

A plan depends on lengths only, so it is made before training, without tokens, ranks or devices: row
k is the same for every batch size and rank count, and a run can resume anywhere. The buffer is a
sorted list of integers (length, then earlier arrival larger), searched by bisection. A plan is
stored as one file with the state of its buffer, so that a longer plan extends a shorter one.
"""

import hashlib
import json
import struct
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.data.atomic import hash_of, replacing
from model.data.manifest import PACKING
from model.errors import DataError

BUFFER_DOCUMENTS = 1_000
BATCH_DOCUMENTS = 128
SAMPLE_DOCUMENTS, SAMPLE_ROWS = 20_000, 4096  # takes about a second

_ARRIVAL_BITS = 44
_LATEST = (1 << _ARRIVAL_BITS) - 1
_MAGIC = b"rowplan1"
_ALIGNMENT = 64


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Documents in the order of an epoch.

    `lengths[i]` tokens of document i, BOS included; `order[p]` the document at position p of the
    epoch; `edges` the positions at which a batch ends, the last one being the number of documents.
    """

    lengths: NDArray[np.int64]
    order: NDArray[np.int64]
    edges: NDArray[np.int64]

    def digest(self) -> str:
        """SHA-256 of all inputs of a plan except T."""
        digest = hashlib.sha256()
        for values in (self.lengths, self.order, self.edges):
            digest.update(np.ascontiguousarray(values, "<i8").tobytes())
        return digest.hexdigest()


def file_order(lengths: NDArray[np.int64], groups: Sequence[int]) -> Stream:
    """The stream in file order; `groups` are the document counts of the row groups in order."""
    assert sum(groups) == len(lengths) > 0, (sum(groups), len(lengths))
    order = np.arange(len(lengths), dtype=np.int64)
    return Stream(lengths=lengths, order=order, edges=_edges(groups))


def seed_order(lengths: NDArray[np.int64], seed: int) -> Stream:
    """Documents sorted by SHA-256(seed, document index), as one row group."""
    keys = [
        hashlib.sha256(struct.pack("<qq", seed, index)).digest() for index in range(len(lengths))
    ]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    return Stream(lengths=lengths, order=order, edges=_edges([len(lengths)]))


def _edges(groups: Sequence[int]) -> NDArray[np.int64]:
    edges: list[int] = []
    start = 0
    for size in groups:
        edges.extend(range(start + BATCH_DOCUMENTS, start + size, BATCH_DOCUMENTS))
        start += size
        if size:
            edges.append(start)
    return np.array(edges, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Rows as pieces: row r is `pieces[row_starts[r]:row_starts[r + 1]]` concatenated.

    A piece is (document, start, length) in tokens. `buffer` holds the stream positions of the
    buffered documents, `next_place` the first position not yet taken (positions count on over
    epochs), `lost_tokens` the tokens that cropping dropped so far.
    """

    row_starts: NDArray[np.int64]
    pieces: NDArray[np.int32]
    buffer: NDArray[np.int64]
    next_place: int
    lost_tokens: int

    @property
    def rows(self) -> int:
        """The number of rows planned."""
        return len(self.row_starts) - 1


def empty_plan() -> Plan:
    """The plan of no rows."""
    none = np.zeros(0, np.int64)
    return Plan(
        row_starts=np.zeros(1, np.int64),
        pieces=np.zeros((0, 3), np.int32),
        buffer=none,
        next_place=0,
        lost_tokens=0,
    )


def extend(plan: Plan, stream: Stream, context_tokens: int, rows: int) -> Plan:
    """The plan with `rows` rows in total; its first `plan.rows` rows do not change."""
    packer = _Packer(stream, context_tokens + 1, plan)
    pieces: list[tuple[int, int, int]] = []
    ends: list[int] = []
    for _ in range(plan.rows, rows):
        packer.fill_row(pieces)
        ends.append(len(plan.pieces) + len(pieces))
    added = np.array(pieces, dtype=np.int32).reshape(-1, 3)
    return Plan(
        row_starts=np.concatenate((plan.row_starts, np.array(ends, dtype=np.int64))),
        pieces=np.concatenate((plan.pieces, added)),
        buffer=packer.waiting(),
        next_place=packer.next_place,
        lost_tokens=packer.lost_tokens,
    )


class _Packer:
    """The buffer and the position in the stream. A key is length << 44 | (latest - position)."""

    def __init__(self, stream: Stream, row_tokens: int, plan: Plan) -> None:
        self._stream, self._row_tokens = stream, row_tokens
        self._edges: list[int] = stream.edges.tolist()
        self.next_place, self.lost_tokens = plan.next_place, plan.lost_tokens
        documents = stream.order[plan.buffer % len(stream.order)]
        lengths = stream.lengths[documents].tolist()
        places = plan.buffer.tolist()
        self._keys = sorted(
            length << _ARRIVAL_BITS | (_LATEST - place)
            for length, place in zip(lengths, places, strict=True)
        )
        self._document = dict(zip(places, documents.tolist(), strict=True))

    def waiting(self) -> NDArray[np.int64]:
        """Positions of the documents in the buffer, in order of arrival."""
        return np.array(sorted(_LATEST - (key & _LATEST) for key in self._keys), dtype=np.int64)

    def fill_row(self, pieces: list[tuple[int, int, int]]) -> None:
        """Append the pieces of one row."""
        keys, room = self._keys, self._row_tokens
        while room:
            while len(keys) < BUFFER_DOCUMENTS:
                self._add_batch()
            at = bisect_right(keys, room << _ARRIVAL_BITS | _LATEST) - 1
            if at < 0:  # none fits: among the shortest, the earliest has the largest key
                at = bisect_right(keys, keys[0] | _LATEST) - 1
            key = keys.pop(at)
            length = key >> _ARRIVAL_BITS
            taken = min(length, room)
            pieces.append((self._document.pop(_LATEST - (key & _LATEST)), 0, taken))
            self.lost_tokens += length - taken
            room -= taken

    def _add_batch(self) -> None:
        epoch, place = divmod(self.next_place, len(self._stream.order))
        end = self._edges[bisect_left(self._edges, place + 1)]
        documents = self._stream.order[place:end]
        lengths = self._stream.lengths[documents].tolist()
        for document, length in zip(documents.tolist(), lengths, strict=True):
            insort(self._keys, length << _ARRIVAL_BITS | (_LATEST - self.next_place))
            self._document[self.next_place] = document
            self.next_place += 1
        assert self.next_place == epoch * len(self._stream.order) + end


def sampled_loss(lengths: NDArray[np.int64], context_tokens: int, rows: int, seed: int) -> float:
    """Share of the tokens that cropping drops from up to `rows` rows of a sample of documents.

    A plan of all documents of a large source takes minutes.
    """
    sample = lengths[:: -(-len(lengths) // SAMPLE_DOCUMENTS)]
    row_tokens = context_tokens + 1
    rows = max(1, min(rows, SAMPLE_ROWS, int(sample.sum()) // row_tokens))
    plan = extend(empty_plan(), seed_order(sample, seed), context_tokens, rows)
    return plan.lost_tokens / (plan.lost_tokens + rows * row_tokens)


def plan_key(stream: Stream, context_tokens: int) -> str:
    """Hash of a plan's inputs except its length; part of its file name."""
    return hash_of(
        {"packing": PACKING, "stream": stream.digest(), "context_tokens": context_tokens}
    )


def planned(folder: Path, stream: Stream, context_tokens: int, rows: int) -> Plan:
    """The plan of at least `rows` rows, read from `folder` or made and stored there.

    Two processes that extend the same plan at once write the same rows. Raises DataError for a
    damaged plan, or when it cannot be written.
    """
    key = plan_key(stream, context_tokens)
    path = folder / f"{key[:20]}.plan"
    stored = read_plan(path, key) if path.exists() else empty_plan()
    if stored.rows >= rows:
        return stored
    longer = extend(stored, stream, context_tokens, rows)
    write_plan(path, key, longer)
    return longer


def write_plan(path: Path, key: str, plan: Plan) -> None:
    """Write a plan as one file: magic, header length, JSON header, then the arrays."""
    body = (
        np.ascontiguousarray(plan.row_starts, "<i8").tobytes()
        + np.ascontiguousarray(plan.buffer, "<i8").tobytes()
        + np.ascontiguousarray(plan.pieces, "<i4").tobytes()
    )
    header = json.dumps(
        {
            "key": key,
            "rows": plan.rows,
            "pieces": len(plan.pieces),
            "buffer": len(plan.buffer),
            "next_place": plan.next_place,
            "lost_tokens": plan.lost_tokens,
            "sha256": hashlib.sha256(body).hexdigest(),
        }
    ).encode()
    header += b" " * (-(len(_MAGIC) + 8 + len(header)) % _ALIGNMENT)
    with replacing(path) as file:
        file.write(_MAGIC + struct.pack("<q", len(header)) + header)
        file.write(body)


def read_plan(path: Path, key: str) -> Plan:
    """Map a plan's file into memory. Raises DataError when it is not the complete plan of `key`."""
    content = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
    start = len(_MAGIC) + 8
    if bytes(content[: len(_MAGIC)]) != _MAGIC or len(content) < start:
        raise _damaged(path, "a plan file", "another file, or the beginning of one")
    body_at = start + struct.unpack("<q", bytes(content[len(_MAGIC) : start]))[0]
    try:
        header = json.loads(bytes(content[start:body_at]))
    except ValueError as error:
        raise _damaged(path, "a plan file", "a broken header") from error
    if header["key"] != key:
        raise _damaged(path, f"the plan {key}", f"the plan {header['key']}")
    body = content[body_at:]
    digest = hashlib.sha256(body.data).hexdigest()
    if digest != header["sha256"]:
        raise _damaged(path, f"content of SHA-256 {header['sha256']}", digest)
    starts_end = 8 * (header["rows"] + 1)
    buffer_end = starts_end + 8 * header["buffer"]
    return Plan(
        row_starts=np.asarray(body[:starts_end]).view("<i8"),
        pieces=np.asarray(body[buffer_end:]).view("<i4").reshape(-1, 3),
        buffer=np.asarray(body[starts_end:buffer_end]).view("<i8"),
        next_place=header["next_place"],
        lost_tokens=header["lost_tokens"],
    )


def _damaged(path: Path, expected: str, got: str) -> DataError:
    hint = "Delete the file; it is recreated when needed."
    return DataError(path=str(path), expected=expected, got=got, hint=hint)
