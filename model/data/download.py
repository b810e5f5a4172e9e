"""One file over HTTP: resumed after a cut, retried with exponential backoff, checked.

A partial download is `.<name>.<tag>.part` beside its target. The tag identifies the version that
the server named (ETag), so bytes of two versions are never joined; where the server names none,
every attempt starts at byte 0. A complete file is compared with its size and SHA-256 and then
renamed. The Hugging Face hub sends both in the response that redirects to its storage
(`X-Linked-Size`, `X-Linked-ETag`), before the body.

Transient faults (no connection, a truncated body, 429, 5xx, a wrong hash) are retried. Others, such
as a proxy's web page in place of the file, raise at once.

The standard library's client is enough: `huggingface_hub` resumes too, but compares sizes only,
does not download from a plain mirror, and takes settings from the environment.
"""

import hashlib
import http.client
import itertools
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

from model.data.atomic import disk_errors, file_sha256
from model.data.downloaded import DownloadedFiles, FileRecord
from model.data.progress import Tally
from model.errors import DataError

BLOCK_BYTES = 1 << 20
_UNVERSIONED = "nameless"  # the tag where the server names no version
_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_SHA256_LENGTH = 64


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Attempts and pauses; pauses double from the first to the longest. `timeout_s` is without
    data."""

    attempts: int = 6
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    timeout_s: float = 20.0

    def pause_s(self, attempt: int, retry_after_s: float | None) -> float:
        """The pause after a failed attempt (from 0); `Retry-After` counts up to the longest
        pause."""
        pause_s = self.first_pause_s * 2**attempt if retry_after_s is None else retry_after_s
        return min(pause_s, self.longest_pause_s)


class DownloadStopped(Exception):
    """The caller stopped the download; the partial file remains."""


class _TransientError(Exception):
    """A fault that a later attempt may not meet."""

    def __init__(self, what: str, pause_s: float | None = None) -> None:
        super().__init__(what)
        self.what, self.pause_s = what, pause_s


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file to download: its name, its URL, and the data set whose folder it belongs to."""

    name: str
    url: str
    downloaded_files: DownloadedFiles

    @property
    def target(self) -> Path:
        """The path of the complete file."""
        return self.downloaded_files.path(self.name)


def download(remote: RemoteFile, tally: Tally, stop: threading.Event, retry: RetryPolicy) -> None:
    """Download one file. Raises DataError after the last attempt, DownloadStopped once `stop` is
    set."""
    for attempt in itertools.count():
        try:
            _attempt(remote, tally, stop, retry.timeout_s)
            return
        except _TransientError as fault:
            if attempt + 1 >= retry.attempts:
                raise DataError(
                    path=remote.url,
                    expected=f"{remote.name} within {retry.attempts} attempts",
                    got=fault.what,
                    hint=_alternatives(remote),
                ) from fault
            pause_s = retry.pause_s(attempt, fault.pause_s)
            tally.notes.append(f"{remote.name}: {fault.what}; again in {pause_s:.0f} s")
        if stop.wait(pause_s):
            raise DownloadStopped


def _attempt(remote: RemoteFile, tally: Tally, stop: threading.Event, timeout_s: float) -> None:
    earlier = _parts(remote.target)
    named = [part for part in earlier if f".{_UNVERSIONED}" not in part.suffixes]
    resumable = named[0] if len(named) == 1 else None
    here_bytes = resumable.stat().st_size if resumable else 0
    with _open_response(remote, here_bytes, timeout_s) as response:
        info = _FileInfo.from_response(response, here_bytes)
        _require_same_version(remote, info)
        part = remote.target.with_name(f".{remote.name}.{info.tag}.part")
        if info.start_bytes and part != resumable:
            _remove(earlier)
            raise _TransientError("the file changed on the server since the first attempt")
        _receive(response, info, part, remote, tally, stop)
    _remove(other for other in earlier if other != part)
    sha256 = _require_whole(part, info, remote)
    record = FileRecord(bytes=part.stat().st_size, sha256=sha256, published=info.sha256 is not None)
    # before the rename, so that every complete file has a record
    remote.downloaded_files.write_record(remote.name, record)
    with disk_errors(remote.target):
        part.replace(remote.target)


@dataclass(frozen=True, kw_only=True)
class _FileInfo:
    """What the response headers state: first byte of the body, total size, hash, tag."""

    start_bytes: int
    total_bytes: int | None
    sha256: str | None
    tag: str

    @classmethod
    def from_response(cls, response: Any, here_bytes: int) -> "_FileInfo":
        headers: Message = response.headers
        linked: Message = getattr(response, "linked", None) or headers
        start_bytes, total_bytes = 0, _number(headers.get("Content-Length"))
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            start_bytes, total_bytes = _content_range(headers.get("Content-Range", ""))
            if start_bytes != here_bytes:
                raise _TransientError(f"bytes from {start_bytes:,}, requested from {here_bytes:,}")
        version = linked.get("X-Linked-ETag") or headers.get("ETag") or headers.get("Last-Modified")
        named = (linked.get("X-Linked-ETag") or "").strip('"')
        return cls(
            start_bytes=start_bytes,
            total_bytes=_number(linked.get("X-Linked-Size")) or total_bytes,
            sha256=named if len(named) == _SHA256_LENGTH else None,
            tag=hashlib.sha256(version.encode()).hexdigest()[:12] if version else _UNVERSIONED,
        )


class _KeepLinked(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the headers of the redirect that names the file's hash."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The next request, with the kept headers attached."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            named = headers if "X-Linked-ETag" in headers else getattr(req, "linked", None)
            following.linked = named  # type: ignore[attr-defined]
        return following

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        """Attach the kept headers to the response."""
        response.linked = getattr(request, "linked", None)
        return response

    https_response = http_response


@contextmanager
def _open_response(remote: RemoteFile, here_bytes: int, timeout_s: float) -> Iterator[Any]:
    """The server's response, from byte `here_bytes` if the server supports ranges."""
    headers = {"User-Agent": "gpt2-ablations"}
    if here_bytes:
        headers["Range"] = f"bytes={here_bytes}-"
    request = urllib.request.Request(remote.url, headers=headers)
    opener = urllib.request.build_opener(_KeepLinked)
    try:
        response = opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            raise _http_error(remote, error) from error
    except urllib.error.URLError as error:
        raise _TransientError(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(_connection_lost(error)) from error
    with response:
        yield response


def _http_error(remote: RemoteFile, error: urllib.error.HTTPError) -> Exception:
    """The exception for an error status: transient or final."""
    status = f"HTTP {error.code} {error.reason}"
    if error.code in _TRANSIENT_STATUSES:
        return _TransientError(status, _number(error.headers.get("Retry-After")))
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        _remove(_parts(remote.target))  # longer than the file, so part of another one
        return _TransientError("the partial download does not belong to this file")
    return DataError(path=remote.url, expected=remote.name, got=status, hint=_alternatives(remote))


def _receive(
    response: Any,
    info: _FileInfo,
    part: Path,
    remote: RemoteFile,
    tally: Tally,
    stop: threading.Event,
) -> None:
    """Append the body to the part, after checking its first block."""
    size = info.start_bytes
    block = _read(response)
    if not size:
        _require_no_web_page(remote, response.headers.get_content_type(), block)
    if info.total_bytes is not None:
        tally.expect(remote.name, info.total_bytes)
    with disk_errors(part), part.open("ab" if size else "wb") as file:
        while block:
            file.write(block)
            file.flush()
            size += len(block)
            tally.receive(remote.name, size)
            if stop.is_set():
                raise DownloadStopped
            block = _read(response)


def _read(response: Any) -> bytes:
    try:
        block: bytes = response.read1(BLOCK_BYTES)  # does not wait for a full block
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(_connection_lost(error)) from error
    return block


def _require_same_version(remote: RemoteFile, info: _FileInfo) -> None:
    """Refuse a file that the publisher changed since its first download, before its body is
    sent."""
    recorded = remote.downloaded_files.record(remote.name)
    if recorded is not None and info.sha256 is not None and info.sha256 != recorded.sha256:
        raise DataError(
            path=remote.url,
            expected=f"SHA-256 {recorded.sha256}, as when it was first downloaded",
            got=f"{info.sha256}, published now",
            hint="The publisher changed the file, and results on it cannot be compared with "
            f"earlier ones. To take it, delete {remote.downloaded_files.record_path(remote.name)}.",
        )


def _require_no_web_page(remote: RemoteFile, content_type: str, beginning: bytes) -> None:
    """Refuse HTML, which proxies and login pages send; neither parquet nor `.bin` starts like
    it."""
    if content_type == "text/html" or beginning.lstrip()[:1] == b"<":
        raise DataError(
            path=remote.url,
            expected=remote.name,
            got="a web page, probably of a proxy or a login",
            hint=f"Open the address in a browser to see what it requires. {_alternatives(remote)}",
        )


def _require_whole(part: Path, info: _FileInfo, remote: RemoteFile) -> str:
    """The hash of a complete part."""
    size = part.stat().st_size
    if info.total_bytes is not None and size < info.total_bytes:
        raise _TransientError(f"cut off after {size:,} of {info.total_bytes:,} bytes")
    if info.total_bytes is not None and size > info.total_bytes:
        part.unlink()
        raise _TransientError(f"{size:,} bytes in place of {info.total_bytes:,}")
    sha256 = file_sha256(part)
    recorded = remote.downloaded_files.record(remote.name)
    expected = info.sha256 or (recorded.sha256 if recorded else sha256)
    if sha256 != expected:
        part.unlink()
        raise _TransientError(f"SHA-256 {sha256} in place of {expected}")
    return sha256


def _content_range(value: str) -> tuple[int, int | None]:
    """First byte and size of `bytes 100-199/200`."""
    span, _, total = value.removeprefix("bytes ").partition("/")
    first = _number(span.partition("-")[0])
    if first is None:
        raise _TransientError(f"an response with the range {value!r}")
    return first, _number(total)


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and value.strip().isdecimal() else None


def _connection_lost(error: Exception) -> str:
    return f"connection lost ({error or type(error).__name__})"


def _parts(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f".{target.name}.*.part"))


def _remove(parts: Iterable[Path]) -> None:
    for part in parts:
        part.unlink(missing_ok=True)


def _alternatives(remote: RemoteFile) -> str:
    return (
        f"Try again later, set data.mirror to another server, or put {remote.name} "
        f"and the other missing files of its data set into {remote.target.parent}."
    )
