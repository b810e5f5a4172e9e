"""How a download is told while it goes on: a bar on a terminal, a line now and then elsewhere.

The threads that download write into a `Tally`; one thread reads it and tells. A meter is a context
manager around the download that gives a function to call often: `with meter(tally) as tell`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from model.data.atomic import Progress

LINE_EVERY_S = 10.0


class Tally:
    """Bytes of each file, written by one thread a file; `notes` are lines to be told once."""

    def __init__(self, name: str, files: int) -> None:
        self.name, self.files, self.files_done = name, files, 0
        self.notes: deque[str] = deque()
        self._received: dict[str, int] = {}
        self._expected: dict[str, int] = {}

    def expect(self, file: str, total_bytes: int) -> None:
        """A file's size became known."""
        self._expected[file] = total_bytes

    def receive(self, file: str, so_far_bytes: int) -> None:
        """So many bytes of a file are here, those of earlier attempts included."""
        self._received[file] = so_far_bytes

    @property
    def received_bytes(self) -> int:
        """Bytes here, over all files that are or were under way."""
        return sum(list(self._received.values()))

    @property
    def expected_bytes(self) -> int:
        """Bytes of all files; those not begun count as the mean of the others."""
        known = list(self._expected.values())
        return round(sum(known) / len(known) * self.files) if known else 0


Tell = Callable[[], None]
Meter = Callable[[Tally], AbstractContextManager[Tell]]


def in_lines(progress: Progress, now_s: Callable[[], float] = time.monotonic) -> Meter:
    """A meter for logs: one line every ten seconds, and one at the end."""

    @contextmanager
    def meter(tally: Tally) -> Iterator[Tell]:
        told_s = now_s()

        def tell() -> None:
            nonlocal told_s
            if now_s() - told_s >= LINE_EVERY_S:
                told_s = now_s()
                progress(_line(tally))

        yield tell
        if tally.received_bytes:
            progress(_line(tally))

    return meter


@contextmanager
def bar(tally: Tally) -> Iterator[Tell]:
    """A meter for terminals, on standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}  {task.fields[files]} files"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as display:
        task = display.add_task(tally.name, total=None, files="")

        def tell() -> None:
            display.update(
                task,
                total=tally.expected_bytes or None,
                completed=tally.received_bytes,
                files=f"{tally.files_done}/{tally.files}",
            )

        tell()
        yield tell
        tell()


def _line(tally: Tally) -> str:
    return (
        f"{tally.name}: {tally.files_done} of {tally.files} files, "
        f"{tally.received_bytes / 1e6:,.0f} of about {tally.expected_bytes / 1e6:,.0f} MB"
    )
