"""Standard output and error that decide nothing: no exit code depends on who reads them.

A terminal that lacks a character gets a question mark; a reader that has left, as in `| head`, and
a descriptor that is closed get nothing more.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Stream:
    """A text stream whose reader may leave; what is written afterwards is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of the stream."""
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        """As of the stream."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Sends the rest, also what is buffered, to the null device."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Within this context, standard output and error accept every text."""
    before = sys.stdout, sys.stderr
    streams, opened = [], []
    for stream in before:
        if stream is None:  # its descriptor is closed
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            opened.append(stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
        streams.append(_Stream(stream))
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for one in streams:
            one.flush()
        sys.stdout, sys.stderr = before
        for null in opened:
            null.close()
