"""A local file server that responds like the Hugging Face hub, and fails on request.

A real HTTP server in a thread: a file's address redirects to storage with the headers that name
its size and SHA-256 (`plain`: no redirect and no hash, as an ordinary mirror; without `etags` it
names no version either). `faults` has, by file name, what goes wrong at the next requests, one
after the other; a body that is `held` stops halfway until `release` is set.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<!DOCTYPE html><title>Please log in</title>"


class Hub:
    """Files by name, faults to come, and the requests for bytes that were made."""

    def __init__(self) -> None:
        self.url = ""
        self.plain = False
        self.ranges = True
        self.etags = True
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.release = threading.Event()

    def fault(self, name: str) -> str:
        """What goes wrong with this request; empty: nothing."""
        waiting = self.faults.get(name)
        return waiting.pop(0) if waiting else ""


@contextmanager
def running() -> Iterator[Hub]:
    """A hub without files on a free port, gone at the end."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        content = self.hub.files.get(name)
        if content is None:
            self._answer(404, b"no such file")
        elif self.hub.plain or self.path.startswith("/storage/"):
            self.hub.requests.append((name, self.headers["Range"]))
            self._send(content, self.hub.fault(name))
        else:
            size = len(content) + ("longer" in self.hub.faults.get(name, ()))
            linked = {"X-Linked-ETag": f'"{_sha256(content)}"', "X-Linked-Size": str(size)}
            self._answer(302, b"", {"Location": f"/storage/{name}", **linked})

    def _send(self, content: bytes, fault: str) -> None:
        if fault.isdecimal():
            self._answer(int(fault), b"not now", {"Retry-After": "0"})
        elif fault == "page":
            self._answer(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})
        elif fault == "unnamed page":
            self._answer(200, b"\r\n" + PAGE, {"Content-Type": "application/octet-stream"})
        else:
            start = self._start(content)
            headers = {"ETag": f'"{_sha256(content)[:8]}"'} if self.hub.etags else {}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            body = content[start:]
            if fault == "flipped":
                body = bytes([body[0] ^ 1]) + body[1:]
            half = len(body) // 2 if fault in ("cut", "held") else len(body)
            self._answer(206 if start else 200, body, headers, half)
            if fault == "held":
                self.wfile.flush()
                self.hub.release.wait(60)

    def _start(self, content: bytes) -> int:
        span = self.headers["Range"]
        return int(span.removeprefix("bytes=").removesuffix("-")) if span and self.hub.ranges else 0

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
