"""Token ids on disk: one shard for each part of a source, memory-mapped when read.

A shard is `<stem>.tokens` (all documents, BOS first, little-endian uint16, or uint32 for a large
vocabulary), `<stem>.starts` (int64: the start of each document, and the end) and `<stem>.json` (its
record, written last: a shard without a record was interrupted and is written again).

Opening compares sizes, the hash of the starts and a hash of up to 64 samples spread over the tokens
(the whole file up to 4 MiB), which takes milliseconds at any size; `verify` reads every byte.
"""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.data.atomic import Progress, file_sha256, read_json, replacing, write_json
from model.data.documents import Chunk, document_hash
from model.data.manifest import ShardRecord
from model.data.tokenizer import Tokenizer
from model.errors import DataError

SAMPLES, SAMPLE_BYTES = 64, 65_536


def token_type(token_bytes: int) -> np.dtype[np.unsignedinteger]:
    """The stored type of a token id: 2 or 4 bytes, little endian."""
    return np.dtype({2: "<u2", 4: "<u4"}[token_bytes])


class Shard:
    """An opened shard. `tokens` (n,) ids; `starts` (documents + 1,) where each document starts."""

    def __init__(
        self,
        record: ShardRecord,
        tokens: NDArray[np.unsignedinteger],
        starts: NDArray[np.int64],
    ) -> None:
        self.record, self.tokens, self.starts = record, tokens, starts


def write_shard(
    folder: Path,
    stem: str,
    chunks: Iterable[Chunk],
    tokenizer: Tokenizer,
    token_bytes: int,
    progress: Progress,
) -> ShardRecord:
    """Encode a part's documents into a shard. Raises DataError on a full disk or bad text.

    Counts the bytes of the tokens, which are those of the text and exist for files of tokens too.
    """
    kind = token_type(token_bytes)
    lengths: list[int] = []
    groups: dict[int, int] = {}
    digest, text_bytes, reported = hashlib.sha256(), 0, 0
    with replacing(folder / f"{stem}.tokens") as file:
        for chunk in chunks:
            groups[chunk.group] = groups.get(chunk.group, 0) + len(chunk.documents)
            encoded = tokenizer.encode_documents(chunk.documents)
            ids = np.concatenate(encoded)
            file.write(ids.astype(kind).tobytes())
            lengths.extend(map(len, encoded))
            text_bytes += int(tokenizer.bytes_per_token[ids].sum())
            for document in chunk.documents:
                digest.update(document_hash(document))
            if text_bytes - reported > 100_000_000:
                reported = text_bytes
                progress(f"{stem}: {text_bytes / 1e6:,.0f} MB of text encoded")
    starts = np.array([0, *itertools.accumulate(lengths)], "<i8")
    with replacing(folder / f"{stem}.starts") as file:
        file.write(starts.tobytes())
    record = ShardRecord(
        stem=stem,
        documents=len(lengths),
        tokens=int(starts[-1]),
        text_bytes=text_bytes,
        row_groups=list(groups.values()),
        documents_sha256=digest.hexdigest(),
        starts_sha256=file_sha256(folder / f"{stem}.starts"),
        tokens_sha256=file_sha256(folder / f"{stem}.tokens"),
        sample_sha256=sample_sha256(folder / f"{stem}.tokens"),
    )
    write_json(folder / f"{stem}.json", asdict(record))
    return record


def finished_shard(folder: Path, stem: str) -> ShardRecord | None:
    """The record of a complete shard, else None."""
    path = folder / f"{stem}.json"
    return ShardRecord(**read_json(path)) if path.exists() else None


def open_shard(folder: Path, record: ShardRecord, token_bytes: int) -> Shard:
    """Map a shard. Raises DataError when it is missing or differs from its record."""
    tokens_path, starts_path = _paths(folder, record)
    for name, size in record.sizes(token_bytes).items():
        _require_size(folder / name, size)
    _require_hash(tokens_path, record.sample_sha256, sample_sha256(tokens_path))
    _require_hash(starts_path, record.starts_sha256, file_sha256(starts_path))
    starts = np.fromfile(starts_path, "<i8")
    kind = token_type(token_bytes)
    if not record.tokens:  # an empty file cannot be mapped
        return Shard(record, np.zeros(0, kind), starts)
    return Shard(record, np.asarray(np.memmap(tokens_path, kind, mode="r")), starts)


def verify_shard(folder: Path, record: ShardRecord, token_bytes: int) -> None:
    """Compare every byte of a shard with its record. Raises DataError."""
    open_shard(folder, record, token_bytes)
    tokens_path, _ = _paths(folder, record)
    _require_hash(tokens_path, record.tokens_sha256, file_sha256(tokens_path))


def sample_sha256(path: Path) -> str:
    """SHA-256 of evenly spread samples of a file, the first and last bytes included."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= SAMPLES * SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for index in range(SAMPLES):
                file.seek((size - SAMPLE_BYTES) * index // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _paths(folder: Path, record: ShardRecord) -> tuple[Path, Path]:
    return folder / f"{record.stem}.tokens", folder / f"{record.stem}.starts"


def _require_size(path: Path, expected_bytes: int) -> None:
    if not path.exists():
        raise _mismatch(path, f"a shard of {expected_bytes:,} bytes", "no such file")
    size = path.stat().st_size
    if size != expected_bytes:
        raise _mismatch(path, f"{expected_bytes:,} bytes, as in the manifest", f"{size:,} bytes")


def _require_hash(path: Path, expected: str, got: str) -> None:
    if expected != got:
        raise _mismatch(path, f"SHA-256 {expected}, as in the manifest", got)


def _mismatch(path: Path, expected: str, got: str) -> DataError:
    return DataError(
        path=str(path),
        expected=expected,
        got=got,
        hint=f"The shard was changed or truncated. Delete {path.parent.parent} and run "
        "`python -m model.data prepare` again, or copy the folder again.",
    )
