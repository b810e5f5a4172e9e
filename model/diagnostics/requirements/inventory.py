"""The text and tokens of a job on this machine.

Prepared token shards are opened as by a run (size, and hashes of samples of each), downloads are
compared with the size in their record, other files with the end that their format requires. The
network is used only where a file is missing. model/diagnostics/requirements/data.py checks the
result. Needs numpy only to open tokens.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from model.data.atomic import file_sha256
from model.data.downloaded import DownloadedFiles
from model.data.manifest import (
    Manifest,
    PartRecord,
    locate,
    read_manifest,
    recorded_view,
    too_many_files,
)
from model.data.published import PUBLISHED, Published
from model.data.settings import DataSettings
from model.data.sources import TOKENS, TRAIN, VALIDATION, Part, require_askable, source_of
from model.diagnostics.requirements import connectivity
from model.diagnostics.requirements.disk import free_bytes
from model.errors import DataError

PARQUET_ENDS = b"PAR1"


@dataclass(frozen=True, kw_only=True)
class File:
    name: str
    split: str
    here: bool
    bytes: int | None = None
    sha256: str | None = None
    """From the record of its download, or of its tokens."""
    tokens: int | None = None
    """Tokens of its shard; null before it is prepared."""


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The files of a source on this machine."""

    source: str
    kind: str | None = None
    """Format of its files; null where there are none."""
    home: Path | None = None
    """The folder of prepared tokens."""
    changed: str | None = None
    data_id: str | None = None
    files: tuple[File, ...] = ()
    faults: tuple[DataError, ...] = ()
    lost_share: float | None = None
    """Share of the training tokens that cropping drops; null before they exist."""
    validation_tokens: int | None = None
    train_tokens: int | None = None
    """Tokens of the requested training files; null where unknown before they are prepared."""
    exact: bool = False
    """Whether `train_tokens` were counted."""
    missing_bytes: int = 0
    """Approximate bytes to download."""
    unmade_bytes: int = 0
    """Approximate bytes of tokens to write."""
    address: str | None = None
    """URL of the first missing file."""
    unreachable: str | None = None
    """The reason why that file cannot be downloaded."""
    cache_free_bytes: int | None = None
    """Free bytes for downloads and tokens; null where none are needed."""

    @property
    def missing(self) -> list[str]:
        """Files without text and tokens on this machine."""
        return [file.name for file in self.files if not file.here]

    @property
    def coming_bytes(self) -> int:
        """Approximate growth of the cache in bytes."""
        return self.missing_bytes + self.unmade_bytes

    def as_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["home"] = None if self.home is None else str(self.home)
        values["files"] = [asdict(file) for file in self.files]
        values["faults"] = [fault.as_json() for fault in self.faults]
        return values


def take_inventory(settings: DataSettings, rows: int, *, every_byte: bool = False) -> Inventory:
    """Read the disk, and the network where a file is missing, for a job of `rows` rows. Raises only
    for a missing package."""
    try:
        require_askable(settings)
        place = locate(settings)
        if place.home is not None:
            return _prepared(settings, place.home, rows, every_byte)
        published = PUBLISHED.get(settings.source)
        if published is not None:
            return _downloads(settings, published, every_byte)
        return _folder(settings, place.changed)
    except DataError as error:
        return Inventory(source=settings.source, faults=(error,))


def _prepared(settings: DataSettings, home: Path, rows: int, every_byte: bool) -> Inventory:
    manifest, view = read_manifest(home), recorded_view(settings)
    used = manifest.used(settings.train_files)
    files = tuple(_of_part(part) for part in used)
    faults = tuple(_shard_faults(home, manifest, used, every_byte))
    counted = [file.tokens for file in files if file.split == TRAIN]
    return Inventory(
        source=settings.source,
        kind=manifest.kind,
        home=home,
        data_id=None if view is None else view.data_id,
        files=files,
        faults=faults,
        lost_share=None if faults or view is None else _lost_share(settings, rows),
        train_tokens=sum(tokens or 0 for tokens in counted) if all(counted) else None,
        validation_tokens=None if view is None else view.validation_tokens,
        exact=True,
    )


def _of_part(part: PartRecord) -> File:
    return File(
        name=part.name,
        split=part.split,
        here=True,
        bytes=part.bytes,
        sha256=part.sha256,
        tokens=None if part.shard is None else part.shard.tokens,
    )


def _shard_faults(
    home: Path, manifest: Manifest, used: Sequence[PartRecord], every_byte: bool
) -> Iterator[DataError]:
    from model.data.shards import open_shard, verify_shard

    check = verify_shard if every_byte else open_shard
    for part in used:
        if part.shard is not None:
            try:
                check(home / "shards", part.shard, manifest.token_bytes)
            except DataError as error:
                yield error


def _lost_share(settings: DataSettings, rows: int) -> float:
    from model.data.packing import sampled_loss
    from model.data.prepare import open_prepared

    lengths = open_prepared(settings).documents(TRAIN).lengths
    return sampled_loss(lengths, settings.context_tokens, rows, settings.seed)


def _downloads(settings: DataSettings, published: Published, every_byte: bool) -> Inventory:
    names = published.file_names(settings.train_files)
    downloaded_files = DownloadedFiles(settings.cache, published.name)
    files = tuple(_of_download(downloaded_files, name, published) for name in names)
    missing = [file.name for file in files if not file.here]
    arrived = sum(downloaded_files.partial_bytes(name) for name in missing)
    url = (settings.mirror or published.url).rstrip("/")
    address = f"{url}/{missing[0]}" if missing else None
    here = [downloaded_files.path(file.name) for file in files if file.here]
    return Inventory(
        source=settings.source,
        kind=published.kind,
        files=files,
        faults=tuple(_download_faults(downloaded_files, here, published.kind, every_byte)),
        train_tokens=published.file_tokens * (len(names) - 1),
        unmade_bytes=_token_bytes(settings) * published.file_tokens * len(names),
        missing_bytes=max(0, len(missing) * published.file_mb * 10**6 - arrived),
        address=address,
        unreachable=None if address is None else connectivity.why_not(address),
        cache_free_bytes=free_bytes(settings.cache),
    )


def _token_bytes(settings: DataSettings) -> int:
    """Bytes of a token, as in `model.data.encode`."""
    return 2 if settings.vocab_size <= 1 << 16 else 4


def _of_download(downloaded_files: DownloadedFiles, name: str, published: Published) -> File:
    path, recorded = downloaded_files.path(name), downloaded_files.record(name)
    return File(
        name=name,
        split=VALIDATION if name == published.validation_name else TRAIN,
        here=path.exists(),
        bytes=path.stat().st_size if path.exists() else None,
        sha256=recorded.sha256 if recorded is not None else None,
    )


def _download_faults(
    downloaded_files: DownloadedFiles, here: Sequence[Path], kind: str, every_byte: bool
) -> Iterator[DataError]:
    for path in here:
        recorded, size = downloaded_files.record(path.name), path.stat().st_size
        if recorded is not None and recorded.bytes != size:
            yield _damaged(path, f"{recorded.bytes:,} bytes, as downloaded", f"{size:,}")
        elif recorded is not None and every_byte:
            if (got := file_sha256(path)) != recorded.sha256:
                yield _damaged(path, f"SHA-256 {recorded.sha256}, as downloaded", got)
        elif (wrong := _wrong_end(path, kind)) is not None:
            yield wrong


def _folder(settings: DataSettings, changed: str | None) -> Inventory:
    source = source_of(settings)
    parts = source.parts()
    training = sum(part.split == TRAIN for part in parts)
    if settings.train_files is not None and settings.train_files > training:
        raise too_many_files(settings.train_files, training)
    ends = [_wrong_end(file.path, source.kind) for file in source.files]
    return Inventory(
        source=settings.source,
        kind=source.kind,
        changed=changed,
        files=tuple(_of_text(part) for part in (*parts[:-1][: settings.train_files], parts[-1])),
        faults=tuple(wrong for wrong in ends if wrong is not None),
    )


def _of_text(part: Part) -> File:
    size = sum(file.bytes for file in part.files)
    return File(name=part.name, split=part.split, here=True, bytes=size)


def _wrong_end(path: Path, kind: str) -> DataError | None:
    """The fault of a truncated file, by its format, from its first and last bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(max(0, size - len(PARQUET_ENDS)))
        tail = file.read()
    if kind == "parquet" and (head[:4] != PARQUET_ENDS or tail != PARQUET_ENDS):
        return _damaged(path, "a whole parquet file", f"{size:,} bytes without its end")
    if kind == TOKENS:
        from model.data.token_file import HEADER_BYTES, MAGIC, TOKEN_BYTES

        magic, _, count = struct.unpack("<3i", head) if len(head) == 12 else (0, 0, 0)
        if magic != MAGIC or size != HEADER_BYTES + TOKEN_BYTES * count:
            return _damaged(path, "a complete file of tokens, as in its header", f"{size:,} bytes")
    return None


def _damaged(path: Path, expected: str, got: str) -> DataError:
    hint = "The file was changed or truncated. Delete it, and copy or download it again."
    return DataError(path=str(path), expected=expected, got=got, hint=hint)
