"""One file over HTTP: resumed where it was cut, tried again with longer and longer pauses, checked.

What has arrived lies in `.<name>.<tag>.part` beside its target; the tag stands for the version that
the server named (ETag), so bytes of two versions are never joined; without a name, an attempt
begins at the beginning. A whole file is compared with its size and its SHA-256, and takes its name
last, by rename. The Hugging Face hub tells both in the answer that redirects to its storage
(`X-Linked-Size`, `X-Linked-ETag`), before a byte is sent.

Faults that may pass (no connection, a body cut short, 429, 5xx, a wrong hash) are tried again;
others are told at once, a proxy's web page in place of the file among them.

The standard library's client is enough here: `huggingface_hub` resumes too, but compares sizes
only, cannot be pointed at a plain mirror, and takes settings from the environment.
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
from model.data.downloaded import DownloadedFiles, Recorded
from model.data.progress import Tally
from model.errors import DataError

BLOCK_BYTES = 1 << 20
_NAMELESS = "nameless"  # in place of the tag, where the server names no version
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_SHA256_LENGTH = 64


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is borne with: pauses double from the first to the longest."""

    attempts: int = 6
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    silence_s: float = 20.0

    def pause_s(self, attempt: int, asked_s: float | None) -> float:
        """The pause after a failed attempt (from 0); the server's wish counts up to the longest."""
        pause_s = self.first_pause_s * 2**attempt if asked_s is None else asked_s
        return min(pause_s, self.longest_pause_s)


class Stopped(Exception):
    """The download was told to stop; what has arrived is kept."""


class _Passing(Exception):
    """A fault that may be gone at the next attempt."""

    def __init__(self, what: str, pause_s: float | None = None) -> None:
        super().__init__(what)
        self.what, self.pause_s = what, pause_s


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file to download: its name, its address, and the data set whose folder it goes to."""

    name: str
    url: str
    downloaded_files: DownloadedFiles

    @property
    def target(self) -> Path:
        """Where it goes."""
        return self.downloaded_files.path(self.name)


def download(wanted: Wanted, tally: Tally, stop: threading.Event, patience: Patience) -> None:
    """Bring one file to its place. Raises DataError when it cannot be had, Stopped when told to."""
    for attempt in itertools.count():
        try:
            _attempt(wanted, tally, stop, patience.silence_s)
            return
        except _Passing as fault:
            if attempt + 1 >= patience.attempts:
                raise DataError(
                    path=wanted.url,
                    expected=f"{wanted.name} within {patience.attempts} attempts",
                    got=fault.what,
                    hint=_other_ways(wanted),
                ) from fault
            pause_s = patience.pause_s(attempt, fault.pause_s)
            tally.notes.append(f"{wanted.name}: {fault.what}; again in {pause_s:.0f} s")
        if stop.wait(pause_s):
            raise Stopped


def _attempt(wanted: Wanted, tally: Tally, stop: threading.Event, silence_s: float) -> None:
    earlier = _parts(wanted.target)
    named = [part for part in earlier if f".{_NAMELESS}" not in part.suffixes]
    begun = named[0] if len(named) == 1 else None
    here_bytes = begun.stat().st_size if begun else 0
    with _answer(wanted, here_bytes, silence_s) as answer:
        told = _Told.by(answer, here_bytes)
        _require_same_version(wanted, told)
        part = wanted.target.with_name(f".{wanted.name}.{told.tag}.part")
        if told.start_bytes and part != begun:
            _remove(earlier)
            raise _Passing("the file changed on the server since its first part was downloaded")
        _receive(answer, told, part, wanted, tally, stop)
    _remove(other for other in earlier if other != part)
    sha256 = _require_whole(part, told, wanted)
    arrived = Recorded(bytes=part.stat().st_size, sha256=sha256, published=told.sha256 is not None)
    wanted.downloaded_files.keep(
        wanted.name, arrived
    )  # before the name, so that none is without record
    with disk_errors(wanted.target):
        part.replace(wanted.target)


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What an answer says of the file before its body: where the body starts, size, hash, tag."""

    start_bytes: int
    total_bytes: int | None
    sha256: str | None
    tag: str

    @classmethod
    def by(cls, answer: Any, here_bytes: int) -> "_Told":
        headers: Message = answer.headers
        linked: Message = getattr(answer, "linked", None) or headers
        start_bytes, total_bytes = 0, _number(headers.get("Content-Length"))
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            start_bytes, total_bytes = _content_range(headers.get("Content-Range", ""))
            if start_bytes != here_bytes:
                raise _Passing(f"bytes from {start_bytes:,} on, after asking from {here_bytes:,}")
        version = linked.get("X-Linked-ETag") or headers.get("ETag") or headers.get("Last-Modified")
        named = (linked.get("X-Linked-ETag") or "").strip('"')
        return cls(
            start_bytes=start_bytes,
            total_bytes=_number(linked.get("X-Linked-Size")) or total_bytes,
            sha256=named if len(named) == _SHA256_LENGTH else None,
            tag=hashlib.sha256(version.encode()).hexdigest()[:12] if version else _NAMELESS,
        )


class _KeepLinked(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps the headers of the one that names the file's hash."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request that follows; the headers travel with it."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            named = headers if "X-Linked-ETag" in headers else getattr(req, "linked", None)
            following.linked = named  # type: ignore[attr-defined]
        return following

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        """Hands the kept headers to the answer."""
        response.linked = getattr(request, "linked", None)
        return response

    https_response = http_response


@contextmanager
def _answer(wanted: Wanted, here_bytes: int, silence_s: float) -> Iterator[Any]:
    """The server's answer, from byte `here_bytes` on if it can."""
    headers = {"User-Agent": "gpt2-ablations"}
    if here_bytes:
        headers["Range"] = f"bytes={here_bytes}-"
    request = urllib.request.Request(wanted.url, headers=headers)
    opener = urllib.request.build_opener(_KeepLinked)
    try:
        answer = opener.open(request, timeout=silence_s)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(wanted, error) from error
    except urllib.error.URLError as error:
        raise _Passing(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(_lost(error)) from error
    with answer:
        yield answer


def _refusal(wanted: Wanted, error: urllib.error.HTTPError) -> Exception:
    """What an error status means: worth another attempt, or not."""
    said = f"HTTP {error.code} {error.reason}"
    if error.code in _PASSING:
        return _Passing(said, _number(error.headers.get("Retry-After")))
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        _remove(_parts(wanted.target))  # longer than the file: of another one
        return _Passing("the part that was here does not belong to this file")
    return DataError(path=wanted.url, expected=wanted.name, got=said, hint=_other_ways(wanted))


def _receive(
    answer: Any,
    told: _Told,
    part: Path,
    wanted: Wanted,
    tally: Tally,
    stop: threading.Event,
) -> None:
    """Write the body behind what is here already; the first block is looked at."""
    size = told.start_bytes
    block = _read(answer)
    if not size:
        _require_no_web_page(wanted, answer.headers.get_content_type(), block)
    if told.total_bytes is not None:
        tally.expect(wanted.name, told.total_bytes)
    with disk_errors(part), part.open("ab" if size else "wb") as file:
        while block:
            file.write(block)
            file.flush()
            size += len(block)
            tally.receive(wanted.name, size)
            if stop.is_set():
                raise Stopped
            block = _read(answer)


def _read(answer: Any) -> bytes:
    try:
        block: bytes = answer.read1(BLOCK_BYTES)  # what is there: a slow line can be stopped too
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(_lost(error)) from error
    return block


def _require_same_version(wanted: Wanted, told: _Told) -> None:
    """Refuse what the publisher changed since it was first here, before its bytes are sent."""
    recorded = wanted.downloaded_files.record(wanted.name)
    if recorded is not None and told.sha256 is not None and told.sha256 != recorded.sha256:
        raise DataError(
            path=wanted.url,
            expected=f"SHA-256 {recorded.sha256}, as when it was first downloaded",
            got=f"{told.sha256}, which is published now",
            hint="The publisher changed the file, and results on it cannot be compared with "
            f"earlier ones. To take it, delete {wanted.downloaded_files.record_path(wanted.name)}.",
        )


def _require_no_web_page(wanted: Wanted, content_type: str, beginning: bytes) -> None:
    """A proxy or a login page answers with HTML; neither parquet nor `.bin` begins so."""
    if content_type == "text/html" or beginning.lstrip()[:1] == b"<":
        raise DataError(
            path=wanted.url,
            expected=wanted.name,
            got="a web page, probably of a proxy or a login",
            hint=f"Open the address in a browser to see what it asks for. {_other_ways(wanted)}",
        )


def _require_whole(part: Path, told: _Told, wanted: Wanted) -> str:
    """The hash of a part that is the whole file."""
    size = part.stat().st_size
    if told.total_bytes is not None and size < told.total_bytes:
        raise _Passing(f"cut off after {size:,} of {told.total_bytes:,} bytes")
    if told.total_bytes is not None and size > told.total_bytes:
        part.unlink()
        raise _Passing(f"{size:,} bytes in place of {told.total_bytes:,}")
    sha256 = file_sha256(part)
    recorded = wanted.downloaded_files.record(wanted.name)
    expected = told.sha256 or (recorded.sha256 if recorded else sha256)
    if sha256 != expected:
        part.unlink()
        raise _Passing(f"SHA-256 {sha256} in place of {expected}")
    return sha256


def _content_range(value: str) -> tuple[int, int | None]:
    """First byte and size of `bytes 100-199/200`."""
    span, _, total = value.removeprefix("bytes ").partition("/")
    first = _number(span.partition("-")[0])
    if first is None:
        raise _Passing(f"an answer with the range {value!r}")
    return first, _number(total)


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and value.strip().isdecimal() else None


def _lost(error: Exception) -> str:
    return f"connection lost ({error or type(error).__name__})"


def _parts(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f".{target.name}.*.part"))


def _remove(parts: Iterable[Path]) -> None:
    for part in parts:
        part.unlink(missing_ok=True)


def _other_ways(wanted: Wanted) -> str:
    return (
        f"Try again later, set data.mirror to another server, or put {wanted.name} into "
        f"{wanted.target.parent} by hand, and the others of its data set that are missing there."
    )
