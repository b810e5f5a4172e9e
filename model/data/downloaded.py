"""What of a published data set lies here: its folder, and the record of what was downloaded.

    <cache>/downloads/<name>/<files>              as published, or put there by hand
    <cache>/downloads/<name>/records/<file>.json  size and SHA-256 of a file that was downloaded

A file is recorded when it first arrives whole, and must be the same ever after, also when it is
downloaded again. One put there by hand has no record and is taken as it is. Once tokens are made,
the files may be deleted. Standard library only.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from model.data.atomic import read_json, write_json
from model.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A file as it first arrived; `published`: the server told the same hash."""

    bytes: int
    sha256: str
    published: bool


class DownloadedFiles:
    """The files of one published data set on this machine."""

    def __init__(self, cache: Path, name: str) -> None:
        self.folder = cache / "downloads" / name

    def path(self, name: str) -> Path:
        """Where a file lies once it is here."""
        return self.folder / name

    def record_path(self, name: str) -> Path:
        """Where a file's record is kept."""
        return self.folder / "records" / f"{name}.json"

    def record(self, name: str) -> Recorded | None:
        """A file as it first arrived; None: it never did. Raises DataError for a broken record."""
        path = self.record_path(name)
        if not path.exists():
            return None
        try:
            return Recorded(**read_json(path))
        except TypeError as error:
            raise DataError(
                path=str(path),
                expected=f"size and SHA-256 of {name} as it was downloaded",
                got=f"something else ({error})",
                hint="Delete it; if the file is here, it is then taken as it is.",
            ) from error

    def keep(self, name: str, recorded: Recorded) -> None:
        """Write a file's record."""
        write_json(self.record_path(name), asdict(recorded))

    def partial_bytes(self, name: str) -> int:
        """How much of a file that is not whole yet has arrived."""
        return sum(path.stat().st_size for path in self.folder.glob(f".{name}.*.part"))
