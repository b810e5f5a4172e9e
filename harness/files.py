"""Atomic writes, file locks, and a canonical form of JSON for hashes.

A file is written under a temporary name, flushed to disk and renamed, so a process killed at any
moment leaves either the old file or the new one. A full disk raises `DiskError` and leaves the old
file as it was. Uses the standard library only.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from harness.errors import DiskError, StoreError

PARTIAL = ".partial"  # suffix of a file that is being written; readers skip it
MOST_BYTES = 64 * 2**20  # of a JSON file that is read whole
DEEPEST = 64  # nesting of JSON that is accepted; the interpreter's own limit is about 1,000
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_UNREADABLE = {errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}
_INVALID_PATH = {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def canonical_json(value: object) -> str:
    """The canonical JSON of a value: sorted keys, no spaces. Raises ValueError for NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: object, length: int = 64) -> str:
    """The first `length` hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically. Raises DiskError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(3).hex()}{PARTIAL}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            check_replaceable(path)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def check_replaceable(path: Path) -> None:
    """Raises DiskError for a device, a pipe or a link to one, which a new file would destroy."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            hint = "Name a file; what a command prints can be redirected with `>`."
            raise DiskError(str(path), "a file or nothing of that name", "a device or pipe", hint)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically. Raises DiskError."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Writes a value as indented JSON, atomically. Raises DiskError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file; None if the file is absent, incomplete or not JSON.

    Any program may have written the file: one that `open_regular` or `parse_json` refuses is as
    good as none.
    """
    try:
        with open_regular(path) as handle:
            data = handle.read(MOST_BYTES + 1)
        return None if len(data) > MOST_BYTES else parse_json(data.decode("utf-8-sig"))
    except ValueError:
        return None
    except OSError as error:
        if error.errno in _ABSENT | _UNREADABLE:
            return None
        raise


def open_regular(path: Path, *, follow: bool = False) -> IO[bytes]:
    """Opens a file to read it. Raises OSError where it is no regular file.

    A pipe never ends, and a link of a trainer may lead to a file that only its user may read.

    Args:
        path: The file.
        follow: Whether it may be a link: not in a folder that a trainer writes to.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EISDIR, "Is no regular file", str(path))
    return open(descriptor, "rb")


def parse_json(text: str) -> Any:
    """The value of a JSON text from any program, which can be stored as JSON again.

    Raises ValueError for text that is not JSON, nests too deeply, or has an integer beyond 64 bits.
    Half of a surrogate pair becomes a question mark.
    """
    try:
        value = json.loads(text, parse_int=_parse_int64)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} levels deep") from None
    if text.count("{") + text.count("[") > DEEPEST and _nests_deeper(value, DEEPEST):
        raise ValueError(f"nested more than {DEEPEST} levels deep")
    if "\\ud" in text or "\\uD" in text:
        whole = json.dumps(value, ensure_ascii=False).encode(errors="replace")
        value = json.loads(whole)
    return value


def _parse_int64(digits: str) -> int:
    number = int(digits)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"the integer {digits[:30]}, which has more than 64 bits")
    return number


def _nests_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_nests_deeper(one, levels - 1) for one in inner)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raises DiskError for the errors of a disk within this context."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskError(
                str(path),
                "free space on the disk",
                str(error.strerror),
                "Free some space (old run directories under plans/ are the largest), "
                "or name another --store; then re-run the same command to resume.",
            ) from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            hint = "Change its permissions, or name another --store."
            raise DiskError(str(path), "a writable location", str(error.strerror), hint) from error
        names = (NotADirectoryError, FileExistsError, IsADirectoryError)
        if isinstance(error, names) or error.errno in _INVALID_PATH or _refused(error, path):
            expected = "a path of folders, and a file or nothing at its end"
            hint = "Something else has that name: move it away, or name another path."
            raise DiskError(str(path), expected, str(error.strerror), hint) from error
        raise


def mounts_here() -> str:
    """The mounts of this process; empty on a system without /proc."""
    try:
        return Path("/proc/self/mountinfo").read_text()
    except FileNotFoundError:
        return ""


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that holds a path; empty where it is unknown."""
    best, result = -1, ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].encode().decode("unicode_escape"))  # \040 is a space
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, result = len(point.parts), right.split()[0]
    return result


def _refused(error: OSError, path: Path) -> bool:
    """Whether nothing can be created there, as in /proc; another missing file is no such case."""
    missing = isinstance(error, FileNotFoundError) and isinstance(error.filename, (str, Path))
    return missing and Path(error.filename) in path.parents


def lock_file(path: Path, *, wait: bool = False) -> IO[bytes] | None:
    """Opens and locks a file; None if another process holds it. Closing it releases the lock.

    Raises StoreError on a file system without locks, and DiskError.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "ab")  # noqa: SIM115  (the caller closes it)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        handle.close()
        return None
    except OSError as error:
        handle.close()
        if error.errno not in _NO_LOCKS:
            raise
        kind = file_system(path.resolve(), mounts_here()) or "this file system"
        raise StoreError(
            str(path),
            "a file system with file locks: without them two commands would repeat runs",
            f"{kind}, which refuses a lock ({error.strerror})",
            "Use a --store on another file system, or have it mounted with locks (Lustre: the "
            "option `flock`; NFS: without `nolock`, and with its lock daemon running).",
        ) from error
    return handle
