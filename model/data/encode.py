"""Encodes a source into a prepared folder: vocabulary, token shards, manifest.

The slow half of `prepare`, run while it holds the lock. Each vocabulary and each shard is complete
or absent, so re-running resumes a killed or failed run.
"""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.data import tokenizer as tokenizers
from model.data.atomic import Progress, file_sha256, hash_of, remove_unfinished, write_json
from model.data.documents import Chunk, documents_digest, held_out_threshold, read_part
from model.data.fetch import fetch
from model.data.manifest import (
    LAYOUT,
    SHARDS,
    Manifest,
    PartRecord,
    source_index,
    source_stamp,
    too_many_files,
)
from model.data.progress import Display
from model.data.published import PUBLISHED
from model.data.settings import DataSettings
from model.data.shards import finished_shard, write_shard
from model.data.sources import (
    GPT2_VOCAB_SIZE,
    PYTHON_DOCS,
    TOKENS,
    TRAIN,
    TXT,
    VALIDATION,
    Part,
    Source,
    needs_gpt2,
    source_of,
)
from model.data.token_file import END_OF_TEXT
from model.data.tokenizer import Tokenizer
from model.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Content:
    """A source whose bytes were read once: SHA-256 by file name, and the held-out threshold."""

    source: Source
    hashes: dict[str, str]
    threshold: str | None

    def chunks(self, part: Part) -> Iterator[Chunk]:
        """The documents of a part in order."""
        return read_part(self.source, part, self.threshold)


def encode_source(
    settings: DataSettings, progress: Progress, display: Display | None = None
) -> None:
    """Make the prepared folder of a source, reusing finished parts. Raises DataError."""
    published = PUBLISHED.get(settings.source)
    given = _given_tokenizer(settings)  # raises before a download
    if published is not None:
        _require_tokens_fit(settings, published.kind, given)
        fetch(published, settings, progress, display)
    source, stamp = source_of(settings), source_stamp(settings)
    training = sum(part.split == TRAIN for part in source.parts())
    if settings.train_files is not None and settings.train_files > training:
        raise too_many_files(settings.train_files, training)
    _require_tokens_fit(settings, source.kind, given)
    progress(f"{settings.source}: reading {len(source.files)} files ({source.kind})")
    content = _read(source)
    tokenizer = given or _trained(settings, content, progress)
    key = _key(content, tokenizer)
    home = settings.cache / key
    if not (home / "tokenizer.json").exists():
        tokenizer.save(home / "tokenizer.json")
    token_bytes = 2 if tokenizer.vocab_size <= 1 << 16 else 4
    records = _encode_parts(settings, content, home / SHARDS, tokenizer, token_bytes, progress)
    manifest = Manifest(
        layout=LAYOUT,
        key=key,
        kind=source.kind,
        python=_python_version() if source.kind == PYTHON_DOCS else None,
        held_out=content.threshold,
        tokenizer_name=settings.tokenizer if settings.tokenizer in ("train", "gpt2") else "file",
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        token_bytes=token_bytes,
        parts=records,
    )
    write_json(home / "manifest.json", manifest.as_json())
    write_json(source_index(settings), {"source": settings.source, "key": key, "stamp": stamp})


def _read(source: Source) -> Content:
    if source.kind == PYTHON_DOCS:
        hashes = {PYTHON_DOCS: documents_digest(source)}
    else:
        hashes = {file.name: file.sha256 or file_sha256(file.path) for file in source.files}
    return Content(source=source, hashes=hashes, threshold=held_out_threshold(source))


def _key(content: Content, tokenizer: Tokenizer) -> str:
    return hash_of(
        {
            "layout": LAYOUT,
            "kind": content.source.kind,
            "files": list(content.hashes.items()),
            "tokenizer": tokenizer.sha256,
        }
    )[:20]


def _given_tokenizer(settings: DataSettings) -> Tokenizer | None:
    """The vocabulary that the settings name, checked for size; None where one is trained."""
    if settings.tokenizer == "train":
        return None
    if settings.tokenizer == "gpt2":
        tokenizer = tokenizers.gpt2()
    else:
        tokenizer = tokenizers.load(Path(settings.tokenizer).expanduser())
    tokenizers.require_size(tokenizer.vocab_size, settings.vocab_size, "data.tokenizer")
    return tokenizer


def _require_tokens_fit(settings: DataSettings, kind: str, given: Tokenizer | None) -> None:
    """Require GPT-2's vocabulary for files of GPT-2 tokens."""
    if kind == TOKENS and (
        given is None or (given.vocab_size, given.bos_id) != (GPT2_VOCAB_SIZE, END_OF_TEXT)
    ):
        raise needs_gpt2(settings)


def _trained(settings: DataSettings, content: Content, progress: Progress) -> Tokenizer:
    """A vocabulary trained on all training files, cached by its inputs."""
    training = [part for part in content.source.parts() if part.split == TRAIN]
    characters = content.source.vocabulary_characters
    trained_on = {
        "layout": LAYOUT,
        "rule": tokenizers.TRAINING_RULE,
        "pattern": tokenizers.SPLIT_PATTERN,
        "vocab_size": settings.vocab_size,
        "kind": content.source.kind,
        "held_out": content.threshold,
        "files": [content.hashes[part.name] for part in training],
        **({} if characters is None else {"characters": characters}),
        **({"cut": "into documents of as many"} if content.source.kind == TXT else {}),
    }
    path = settings.cache / "tokenizers" / f"{hash_of(trained_on)[:20]}.json"
    if not path.exists():
        progress(f"training a vocabulary of {settings.vocab_size:,} tokens")
        texts = (
            text
            for part in training
            for chunk in content.chunks(part)
            for document in chunk.texts
            for text in _training_texts(document, content.source.kind)
        )
        tokenizers.train(texts, settings.vocab_size, characters, settings.source).save(path)
    return tokenizers.load(path)


def _training_texts(document: str, kind: str) -> Iterator[str]:
    """The document; a txt file in pieces, because training reads only the start of a document."""
    longest = tokenizers.LONGEST_TRAINING_CHARACTERS if kind == TXT else len(document) + 1
    for start in range(0, len(document), longest):
        yield document[start : start + longest]


def _encode_parts(
    settings: DataSettings,
    content: Content,
    folder: Path,
    tokenizer: Tokenizer,
    token_bytes: int,
    progress: Progress,
) -> list[PartRecord]:
    """Encode the requested training files and validation; returns the records of all parts."""
    parts = content.source.parts()
    training = [part for part in parts if part.split == TRAIN]
    wanted = {*training[: settings.train_files], parts[-1]}
    remove_unfinished(folder)
    records = []
    for index, part in enumerate(parts):
        stem = f"{index:03d}-{part.split}"
        shard = finished_shard(folder, stem)
        if shard is None and part in wanted:
            progress(f"encoding {part.name} ({part.split})")
            chunks = content.chunks(part)
            shard = write_shard(folder, stem, chunks, tokenizer, token_bytes, progress)
        records.append(
            PartRecord(
                name=part.name,
                split=part.split,
                bytes=sum(file.bytes for file in part.files),
                sha256=content.hashes[part.name],
                shard=shard,
            )
        )
    _require_text(content.source, records)
    return records


def _require_text(source: Source, records: list[PartRecord]) -> None:
    for split in (TRAIN, VALIDATION):
        shards = [part.shard for part in records if part.split == split and part.shard]
        if not sum(shard.text_bytes for shard in shards):
            raise DataError(
                path=str(source.folder),
                expected=f"text in the {split} files",
                got="no documents" if not sum(s.documents for s in shards) else "empty documents",
                hint="Put text there; the last file by name is validation.",
            )


def _python_version() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"
