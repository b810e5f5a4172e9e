"""Decodes the JSON files that the harness stores.

A file that is not JSON is damaged. A file that is JSON, but lacks a field or has an unknown one,
was written by another version of the harness. The two need different advice.
"""

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness import files
from harness.errors import HarnessError, StoreError

T = TypeVar("T")
USE_ANOTHER_STORE = (
    "Use another --store, read this one with the version of the harness that wrote it, or convert "
    "it as CHANGELOG.md describes."
)


def read(path: Path, what: str, error: type[HarnessError] = StoreError) -> bytes:
    """The content of a stored file.

    Raises FileNotFoundError or NotADirectoryError where there is none, and `error` for a file that
    cannot be read: a folder, a pipe, a link without an end, a file of another user.
    """
    try:
        with files.open_regular(path, follow=True) as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as fault:
        raise unreadable(path, what, fault, error) from fault


def unreadable(
    path: Path, what: str, fault: OSError, error: type[HarnessError] = StoreError
) -> HarnessError:
    """The error for a stored file that cannot be read."""
    hint = "Make it a file that you may read, or move it away."
    return error(str(path), what, f"what cannot be read ({fault.strerror})", hint)


def decode(
    data: bytes,
    kind: type[T],
    path: Path,
    what: str,
    *,
    if_damaged: str,
    if_older: str = USE_ANOTHER_STORE,
    error: type[HarnessError] = StoreError,
) -> T:
    """The value of a stored JSON file.

    Args:
        data: The content of the file.
        kind: The type to decode to.
        path: Where the file is, for the message.
        what: What the file is, such as "a record".
        if_damaged: The hint for a file that is not JSON.
        if_older: The hint for a file of an older version.
        error: The exception to raise.
    """
    try:
        value = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as fault:
        # it may be damaged after the field that does not fit, too
        _check_format(_plain(data, path, what, if_damaged, error), kind, path, what, error)
        raise _of_another_version(path, what, fault, if_older, error) from fault
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise _damaged(path, what, fault, if_damaged, error) from fault
    _check_format(value, kind, path, what, error)
    return value


def _plain(data: bytes, path: Path, what: str, hint: str, error: type[HarnessError]) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as fault:
        raise _damaged(path, what, fault, hint, error) from fault


def _damaged(
    path: Path, what: str, fault: Exception, hint: str, error: type[HarnessError]
) -> HarnessError:
    return error(str(path), what, f"a file that is not JSON ({fault})", hint)


def convert(content: Any, kind: type[T], path: Path, what: str) -> T:
    """The content of a stored JSON file as `kind`. Raises StoreError. Arguments as of `decode`."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as fault:
        raise _of_another_version(path, what, fault, USE_ANOTHER_STORE, StoreError) from fault


def _check_format(value: Any, kind: Any, path: Path, what: str, error: type[HarnessError]) -> None:
    """Raises `error` for a format above the default of `kind`, if it has formats."""
    number = value.get("format") if isinstance(value, dict) else getattr(value, "format", None)
    known = _latest_format(kind)
    if isinstance(number, int) and number > known:
        raise error(
            str(path),
            f"{what} of format {known} or older",
            f"format {number}",
            "A newer version of the harness wrote it: update the harness.",
        )


@cache  # a store has thousands of records of one kind
def _latest_format(kind: Any) -> int:
    return next((one.default for one in msgspec.structs.fields(kind) if one.name == "format"), 0)


def _of_another_version(
    path: Path, what: str, fault: Exception, hint: str, error: type[HarnessError]
) -> HarnessError:
    got = f"the fields of an older version ({fault})"
    return error(str(path), f"{what} of this version of the harness", got, hint)
