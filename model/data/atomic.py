"""Atomic file writes, hashes of their content, and one lock while data is prepared.

A killed process leaves the old file or the new one, never a part. A full disk and a read-only
folder become a DataError with a hint. Files are not synced to disk one by one: after a power loss,
the sizes and hashes that are checked at opening find what is missing. Standard library only.
"""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from model.errors import LOCK_HINT, NO_LOCKS, DataError

Progress = Callable[[str], None]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOCKED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that replaces `path` when the block ends without an exception.

    Raises DataError when the disk is full or the folder cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                yield file
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically."""
    with replacing(path) as file:
        file.write(json.dumps(value, indent=1).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that this package wrote. Raises DataError when it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(
            path=str(path),
            expected="a JSON file written by `python -m model.data prepare`",
            got=f"something else ({error})",
            hint=f"Delete {path.parent} and run `python -m model.data prepare` again.",
        ) from error


@contextmanager
def exclusive(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the folder's lock, waiting while another process holds it.

    The kernel releases the lock of a killed process.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("ab")
    with lock:
        with disk_errors(folder):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"waiting for another process that prepares data in {folder}")
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_unfinished(folder: Path) -> None:
    """Delete the partial files of a killed process. Call it while holding the lock."""
    for left_over in folder.glob(".*.unfinished"):
        left_over.unlink(missing_ok=True)


def hash_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises DataError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        hint = "Check the file and its permissions."
        got = str(error.strerror).lower()
        raise DataError(path=str(path), expected="a file to read", got=got, hint=hint) from error


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk and a read-only folder into a DataError with a hint."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DataError(
                path=str(path),
                expected="disk space for the prepared data",
                got=f"no space left ({error.strerror})",
                hint="Free some space, or set data.cache_dir to another disk, then "
                "re-run the same command to resume.",
            ) from error
        if error.errno in _LOCKED:
            raise DataError(
                path=str(path),
                expected="a folder that can be written",
                got=str(error.strerror).lower(),
                hint="Set data.cache_dir to a folder that you can write.",
            ) from error
        if error.errno in NO_LOCKS:
            raise DataError(
                path=str(path),
                expected="a folder with file locks",
                got=str(error.strerror).lower(),
                hint=f"Set data.cache_dir. {LOCK_HINT}",
            ) from error
        raise
