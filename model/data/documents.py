"""Documents of source files, in order, in chunks small enough for memory.

A document is a text, or GPT-2 tokens where the file holds tokens (`token_file`). A chunk never
crosses a row group of a parquet file; a jsonl, txt or bin file counts as one group. Errors name the
file and the line, row group or byte. Only blank jsonl lines are skipped.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.data.python_docs import python_documents
from model.data.sources import PYTHON_DOCS, TRAIN, Part, Source, SourceFile
from model.data.token_file import Tokens, token_documents
from model.errors import DataError

Document = str | Tokens

HELD_OUT_SHARE = 0.1
CHUNK_DOCUMENTS = 1_000


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive documents of one row group (`group` counts from 0 in the part)."""

    group: int
    documents: Sequence[Document]

    @property
    def texts(self) -> list[str]:
        """The documents, which must be text."""
        texts = [document for document in self.documents if isinstance(document, str)]
        assert len(texts) == len(self.documents), "a file of tokens has no text"
        return texts


def read_part(source: Source, part: Part, threshold: str | None) -> Iterator[Chunk]:
    """The documents of one part in order. `threshold` is the result of `held_out_threshold`.

    Raises DataError naming the file and the position in it.
    """
    for chunk in _read(source.kind, part.files):
        documents = chunk.documents
        if part.held_out:
            assert threshold is not None, "a part made by document hashes needs their threshold"
            wanted = part.split != TRAIN
            documents = [
                each for each in documents if (document_hash(each).hex() <= threshold) == wanted
            ]
        if documents:
            yield Chunk(group=chunk.group, documents=documents)


def held_out_threshold(source: Source) -> str | None:
    """The largest document hash (hex) that belongs to validation; None where validation has a file.

    Holds out the documents with the smallest hashes: one in ten, and at least one. Raises DataError
    when there are fewer than two different documents.
    """
    if not source.held_out:
        return None
    hashes = sorted(
        {
            document_hash(document).hex()
            for chunk in _read(source.kind, source.files)
            for document in chunk.documents
        }
    )
    if len(hashes) < 2:
        raise DataError(
            path=str(source.folder),
            expected="a second file for validation, or at least two different documents",
            got=f"one file with {len(hashes)}",
            hint="Add text; the last file by name is validation.",
        )
    return hashes[max(1, round(HELD_OUT_SHARE * len(hashes))) - 1]


def document_hash(document: Document) -> bytes:
    """SHA-256 of a text's UTF-8 bytes, or of tokens as little-endian uint16."""
    content = document.encode() if isinstance(document, str) else document.astype("<u2").tobytes()
    return hashlib.sha256(content).digest()


def documents_digest(source: Source) -> str:
    """SHA-256 over all document hashes, for a source whose files are not themselves the data."""
    digest = hashlib.sha256()
    for chunk in _read(source.kind, source.files):
        for document in chunk.documents:
            digest.update(document_hash(document))
    return digest.hexdigest()


def _read(kind: str, files: Sequence[SourceFile]) -> Iterator[Chunk]:
    if kind == PYTHON_DOCS:
        yield from _chunks(0, iter(python_documents(tuple(files))))
        return
    read: Callable[[Path], Iterator[Chunk]]
    read = {"parquet": _parquet, "jsonl": _jsonl, "txt": _txt, "bin": _bin}[kind]
    for file in files:
        yield from read(file.path)


def _chunks(group: int, documents: Iterable[Document]) -> Iterator[Chunk]:
    waiting: list[Document] = []
    for document in documents:
        waiting.append(document)
        if len(waiting) == CHUNK_DOCUMENTS:
            yield Chunk(group=group, documents=waiting)
            waiting = []
    if waiting:
        yield Chunk(group=group, documents=waiting)


def _bin(path: Path) -> Iterator[Chunk]:
    yield from _chunks(0, token_documents(path))


def _parquet(path: Path) -> Iterator[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            kind = {field.name: field.type for field in file.schema_arrow}.get("text")
            if kind is None or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise DataError(
                    path=str(path),
                    expected="a column `text` of strings",
                    got=f"columns {', '.join(file.schema_arrow.names)}"
                    + (f" (text is {kind})" if kind is not None else ""),
                    hint="Rename the column that holds the documents, or convert it.",
                )
            for group in range(file.num_row_groups):
                batches = file.iter_batches(CHUNK_DOCUMENTS, row_groups=[group], columns=["text"])
                for batch in batches:
                    texts = batch.column(0).to_pylist()
                    _refuse_missing(path, group, texts)
                    yield Chunk(group=group, documents=texts)
    except UnicodeDecodeError as error:
        raise DataError(
            path=str(path),
            expected="UTF-8 text",
            got=f"bytes that are not ({error.reason})",
            hint="Convert the column to UTF-8.",
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            path=str(path),
            expected="a whole parquet file",
            got=f"one that cannot be read, truncated perhaps ({str(error).splitlines()[0]})",
            hint="Copy or download the file again.",
        ) from error


def _refuse_missing(path: Path, group: int, texts: list[str | None]) -> None:
    if None in texts:
        raise DataError(
            path=str(path),
            expected="a text in every row",
            got=f"null in row group {group} (counted from 0)",
            hint="Drop rows without text, or make them empty strings.",
        )


def _jsonl(path: Path) -> Iterator[Chunk]:
    def texts() -> Iterator[str]:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _jsonl_text(path, number, line)

    yield from _chunks(0, texts())


def _jsonl_text(path: Path, number: int, line: bytes) -> str:
    where = f"{path}, line {number}"
    try:
        value: Any = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        text = value["text"] if isinstance(value, dict) and "text" in value else None
        if isinstance(text, str):
            text.encode()  # an escape such as \ud800 is JSON but no character
            return text
    except UnicodeError as error:
        hint = "Convert the file to UTF-8."
        raise DataError(path=where, expected="UTF-8", got=str(error), hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            path=where,
            expected='a JSON object such as {"text": "..."}',
            got=f"something that is not JSON ({error})",
            hint="Correct the line; a truncated file ends in half a line.",
        ) from error
    got = f"an object with {', '.join(value) or 'nothing'}" if isinstance(value, dict) else "none"
    raise DataError(
        path=where,
        expected="an object with a string under `text`",
        got=got if text is None else f"`text` is a {type(text).__name__}",
        hint="Write each document as one line with the key text.",
    )


def _txt(path: Path) -> Iterator[Chunk]:
    content = path.read_bytes()
    try:
        yield Chunk(group=0, documents=[content.decode("utf-8-sig")])
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            path=f"{path}, line {line}",
            expected="UTF-8 text",
            got=f"byte 0x{content[error.start]:02x} at offset {error.start} ({error.reason})",
            hint="Convert the file to UTF-8.",
        ) from error
