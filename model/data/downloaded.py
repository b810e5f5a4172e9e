"""The downloaded files of a published data set, and the record of each.

    <cache>/downloads/<name>/<files>              as published, or copied there by the user
    <cache>/downloads/<name>/records/<file>.json  size and SHA-256 of a downloaded file

A file is recorded when its first download completes; later downloads must equal the record. A file
that the user copied there has no record and is not checked. The files may be deleted once their
tokens exist. Standard library only.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from model.data.atomic import read_json, write_json
from model.errors import DataError


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file as first downloaded; `published`: the server sent the same hash."""

    bytes: int
    sha256: str
    published: bool


class DownloadedFiles:
    """The files of one published data set on this machine."""

    def __init__(self, cache: Path, name: str) -> None:
        self.folder = cache / "downloads" / name

    def path(self, name: str) -> Path:
        return self.folder / name

    def record_path(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.json"

    def record(self, name: str) -> FileRecord | None:
        """A file as first downloaded, or None. Raises DataError for a damaged record."""
        path = self.record_path(name)
        if not path.exists():
            return None
        try:
            return FileRecord(**read_json(path))
        except TypeError as error:
            raise DataError(
                path=str(path),
                expected=f"size and SHA-256 of {name} as it was downloaded",
                got=f"something else ({error})",
                hint="Delete the record; an existing file is then used unchecked.",
            ) from error

    def write_record(self, name: str, recorded: FileRecord) -> None:
        """Write a file's record."""
        write_json(self.record_path(name), asdict(recorded))

    def partial_bytes(self, name: str) -> int:
        """Bytes of an incomplete download."""
        return sum(path.stat().st_size for path in self.folder.glob(f".{name}.*.part"))
