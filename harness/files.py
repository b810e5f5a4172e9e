"""Files that are either whole or absent, and one canonical form of JSON to hash.

A file is written beside its place, flushed to the disk and renamed: a process killed at any moment
leaves the old file or the new one. A full disk becomes a `DiskError` and leaves the old file as it
was. Standard library only, because the FakeTrainer and every other file of the harness use it.
"""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from harness.errors import DiskError

PARTIAL = ".partial"  # suffix of a file that is still being written; readers skip it
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. Raises ValueError on NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: object, length: int = 64) -> str:
    """SHA-256 of the canonical JSON of a value, in hex, cut to `length` digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing. Raises DiskError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(3).hex()}{PARTIAL}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a whole UTF-8 file or nothing. Raises DiskError when the disk refuses."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Writes a value as readable JSON, whole or not at all. Raises DiskError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file, or None where the file is absent, half-written or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what a disk can say no with into a DiskError that names the file and the hint."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskError(
                str(path),
                "room on the disk",
                str(error.strerror),
                "Free some space (old run directories under plans/ are the largest), "
                "or name another --store; the same command then goes on.",
            ) from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise DiskError(
                str(path),
                "a place that may be written",
                str(error.strerror),
                "Change its permissions, or name another --store.",
            ) from error
        if isinstance(error, (NotADirectoryError, FileExistsError, IsADirectoryError)):
            raise DiskError(
                str(path),
                "folders on the way to it, and no folder in its place",
                str(error.strerror),
                "Something else has that name: move it away, or name another place.",
            ) from error
        raise


def lock_file(path: Path, *, wait: bool = False) -> IO[bytes] | None:
    """The open, locked file, or None while somebody else holds it. Closing it gives it back."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "ab")  # noqa: SIM115  (the caller closes it)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        handle.close()
        return None
    return handle
