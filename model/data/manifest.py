"""Contents of a prepared folder, and a fast lookup of its identity for planning many runs.

    <cache>/<key>/            one prepared folder; key = hash of tokenizer and source files
        manifest.json         source files, and their token shards with hashes
        tokenizer.json
        shards/NNN-split.*    written by `shards`
        plans/*.plan          written by `packing`
        views/*.json          (train files, T, validation rows) -> data_id
    <cache>/tokenizers/       trained vocabularies, by their inputs
    <cache>/sources/          path and file times of a source -> its prepared folder
    <cache>/downloads/        files of published data sets, by `downloaded`
    <cache>/lock

`find_view` compares names, sizes and times of the source's files and sizes of shards, and reads two
small files. It hashes nothing and imports neither numpy, pyarrow nor torch. `data.source` may name
a prepared folder on a machine that lacks the text; the data_id is the same. Standard library only.
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from model.data.atomic import hash_of, read_json
from model.data.published import PUBLISHED
from model.data.settings import DataSettings
from model.data.sources import NAMED_SOURCES, TRAIN, TXT, VALIDATION, source_of
from model.errors import DataError

# Increment when reading, training, cutting or storing changes, so that no old folder is reused.
LAYOUT = "model.data/1"
SHARDS = "shards"  # the shard folder of a prepared folder
# Rule and version of the packing plan; part of every data_id.
PACKING = "best_fit_crop_shortest/1"
SPLIT_PACKING = f"rows_of_long_documents, {PACKING}"
# How txt files become a vocabulary; part of a source's stamp, so that a new rule invalidates it.
TXT_RULE = "how txt files are read (2)"


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The content of one token shard; every opening checks sizes and `sample_sha256`."""

    stem: str
    documents: int
    tokens: int
    text_bytes: int
    row_groups: list[int]
    documents_sha256: str
    starts_sha256: str
    tokens_sha256: str
    sample_sha256: str

    def sizes(self, token_bytes: int) -> dict[str, int]:
        """Bytes of each file, by name: all tokens, and the start of each document."""
        starts = 8 * (self.documents + 1)
        return {f"{self.stem}.tokens": token_bytes * self.tokens, f"{self.stem}.starts": starts}


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    name: str
    split: str
    bytes: int
    sha256: str
    shard: ShardRecord | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json. `python` names the version for `python-docs`."""

    layout: str
    key: str
    kind: str
    python: str | None
    held_out: str | None
    tokenizer_name: str
    tokenizer_sha256: str
    vocab_size: int
    bos_id: int
    token_bytes: int
    parts: list[PartRecord]

    def of(self, split: str) -> list[PartRecord]:
        """The parts of a split in order."""
        return [part for part in self.parts if part.split == split]

    def used(self, train_files: int | None) -> list[PartRecord]:
        """The first `train_files` training parts (None: all) and the validation part.

        Raises DataError when the source has fewer.
        """
        train = self.of(TRAIN)
        if train_files is not None and train_files > len(train):
            raise too_many_files(train_files, len(train))
        return train[:train_files] + self.of(VALIDATION)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class View:
    """A prepared folder with given training files, T and validation rows."""

    data_id: str
    path: str
    packing: str
    train_files: int
    context_tokens: int
    validation_rows: int
    validation_rows_sha256: str
    train_documents: int
    train_tokens: int
    train_bytes: int
    validation_documents: int
    validation_tokens: int
    validation_bytes: int


@dataclass(frozen=True, kw_only=True)
class Location:
    """A prepared folder; `home` is None before prepare, `changed` names a changed source file."""

    home: Path | None
    changed: str | None = None


def find_view(settings: DataSettings) -> View | None:
    """The prepared view of these settings, or None where `prepare` has work to do.

    Returns None for a missing or faulty source and for missing or truncated shards: `prepare`
    reports those before a GPU is taken.
    """
    found = _recorded(settings)
    if found is None:
        return None
    home, manifest, view = found
    used = manifest.used(settings.train_files)
    return view if all(_is_whole(home, part, manifest.token_bytes) for part in used) else None


def recorded_view(settings: DataSettings) -> View | None:
    """`find_view` without the check that the shards exist."""
    found = _recorded(settings)
    return None if found is None else found[2]


def _recorded(settings: DataSettings) -> tuple[Path, Manifest, View] | None:
    """(prepared folder, its manifest, the view), from a few small files."""
    try:
        home = locate(settings).home
        if home is None:
            return None
        manifest = read_manifest(home)
        if manifest.vocab_size != settings.vocab_size:
            return None
        train_files = len(manifest.used(settings.train_files)) - len(manifest.of(VALIDATION))
        view = read_view(settings, home, manifest, train_files)
        return None if view is None else (home, manifest, view)
    except (DataError, OSError):
        return None


def _is_whole(home: Path, part: PartRecord, token_bytes: int) -> bool:
    sizes = part.shard.sizes(token_bytes) if part.shard is not None else {}
    files = [(home / SHARDS / name, size) for name, size in sizes.items()]
    try:
        return all(path.stat().st_size == size for path, size in files)
    except OSError:
        return False


def locate(settings: DataSettings) -> Location:
    """Find the prepared folder of a source. Raises DataError for a faulty source."""
    folder = Path(settings.source).expanduser()
    if settings.source not in NAMED_SOURCES and is_prepared(folder):
        return Location(home=folder)
    stamp = source_stamp(settings)
    index = source_index(settings)
    if not index.exists():
        return Location(home=None)
    known = read_json(index)
    changed = _first_change(known["stamp"], stamp)
    if changed is not None:
        return Location(home=None, changed=changed)
    home = settings.cache / known["key"]
    return Location(home=home if is_prepared(home) else None)


def source_index(settings: DataSettings) -> Path:
    """The file that records the state of this source when it was prepared."""
    request = {
        "layout": LAYOUT,
        "source": _absolute(settings.source, NAMED_SOURCES),
        "tokenizer": _absolute(settings.tokenizer, ("train", "gpt2")),
        "vocab_size": settings.vocab_size,
    }
    if settings.source in PUBLISHED:  # more files make another prepared folder
        request["train_files"] = settings.train_files
    return settings.cache / "sources" / f"{hash_of(request)[:20]}.json"


def source_stamp(settings: DataSettings) -> list[list[str | int]]:
    """Names, sizes and times of the source's files and of a tokenizer file.

    Empty for a published data set: its files cannot change without an error, and may be deleted
    once their tokens exist.
    """
    stamp: list[list[str | int]] = []
    if settings.source not in PUBLISHED:
        source = source_of(settings)
        stamp = source.stamp() + ([[TXT_RULE]] if source.kind == TXT else [])
    if settings.tokenizer not in ("train", "gpt2"):
        path = Path(settings.tokenizer).expanduser()
        if path.exists():
            status = path.stat()
            stamp.append([settings.tokenizer, status.st_size, status.st_mtime_ns])
    return stamp


def is_prepared(folder: Path) -> bool:
    """Whether `prepare` made this folder (it holds a manifest of this layout)."""
    path = folder / "manifest.json"
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("layout") == LAYOUT


def read_manifest(home: Path) -> Manifest:
    """Read a prepared folder's manifest. Raises DataError when it is damaged."""
    value = read_json(home / "manifest.json")
    try:
        parts = [
            PartRecord(**{**part, "shard": part["shard"] and ShardRecord(**part["shard"])})
            for part in value["parts"]
        ]
        return Manifest(**{**value, "parts": parts})
    except (KeyError, TypeError) as error:
        raise DataError(
            path=str(home / "manifest.json"),
            expected=f"a manifest with {', '.join(field.name for field in fields(Manifest))}",
            got=f"another ({error})",
            hint=f"Delete {home} and run `python -m model.data prepare` again.",
        ) from error


def derived_folder(settings: DataSettings, home: Path, manifest: Manifest) -> Path:
    """The folder of plans and views: the prepared folder, or the cache where that is read-only."""
    return home if os.access(home, os.W_OK) else settings.cache / manifest.key


def view_name(settings: DataSettings, train_files: int) -> str:
    rows, context = settings.validation_rows, settings.context_tokens
    return f"files{train_files}-context{context}-rows{rows}.json"


def read_view(
    settings: DataSettings, home: Path, manifest: Manifest, train_files: int
) -> View | None:
    """The view that `prepare` wrote, from the prepared folder or the cache."""
    for folder in (home, settings.cache / manifest.key):
        path = folder / "views" / view_name(settings, train_files)
        if path.exists():
            value = read_json(path)
            if value.get("packing") == packing_of(manifest):
                return View(**{**value, "path": str(home)})
    return None


def packing_of(manifest: Manifest) -> str:
    """The packing rule of a source. A txt file is often a whole book, so it is split into rows."""
    return SPLIT_PACKING if manifest.kind == TXT else PACKING


def too_many_files(requested: int, available: int) -> DataError:
    """The error for more training files than the source has."""
    return DataError(
        path="data.train_files",
        expected=f"at most {available} training files (the last file by name is validation)",
        got=str(requested),
        hint="Lower data.train_files, or leave it out to train on all.",
    )


def _absolute(value: str, names: tuple[str, ...]) -> str:
    return value if value in names else str(Path(value).expanduser().resolve())


def _first_change(before: list[Any], now: list[Any]) -> str | None:
    """The name of the first file that differs, None when nothing does."""
    if before == now:
        return None
    earlier = {entry[0]: entry for entry in before}
    for entry in now:
        if earlier.pop(entry[0], None) != entry:
            return str(entry[0])
    return str(next(iter(earlier), before[0][0]))
