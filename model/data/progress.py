"""Shows the progress of a download: a bar on a terminal, a line every ten seconds elsewhere.

The downloading threads write into a `Tally`; one thread reads and displays it. A display is a
context manager around the download that returns a function to call often: `with display(tally) as
refresh`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from model.data.atomic import Progress

LINE_EVERY_S = 10.0


class Tally:
    """Bytes of each file, written by one thread a file; `notes` are lines to print once."""

    def __init__(self, name: str, files: int) -> None:
        self.name, self.files, self.files_done = name, files, 0
        self.notes: deque[str] = deque()
        self._received: dict[str, int] = {}
        self._expected: dict[str, int] = {}

    def expect(self, file: str, total_bytes: int) -> None:
        """Set a file's size in bytes."""
        self._expected[file] = total_bytes

    def receive(self, file: str, so_far_bytes: int) -> None:
        """Set the bytes of a file received so far, earlier attempts included."""
        self._received[file] = so_far_bytes

    @property
    def received_bytes(self) -> int:
        """Bytes received, over all files."""
        return sum(list(self._received.values()))

    @property
    def expected_bytes(self) -> int:
        """Bytes of all files; a file of unknown size counts as the mean of the others."""
        known = list(self._expected.values())
        return round(sum(known) / len(known) * self.files) if known else 0


Refresh = Callable[[], None]
Display = Callable[[Tally], AbstractContextManager[Refresh]]


def line_display(progress: Progress, now_s: Callable[[], float] = time.monotonic) -> Display:
    """A display for logs: one line every ten seconds, and one at the end."""

    @contextmanager
    def display(tally: Tally) -> Iterator[Refresh]:
        shown_s = now_s()

        def refresh() -> None:
            nonlocal shown_s
            if now_s() - shown_s >= LINE_EVERY_S:
                shown_s = now_s()
                progress(_line(tally))

        yield refresh
        if tally.received_bytes:
            progress(_line(tally))

    return display


@contextmanager
def progress_bar(tally: Tally) -> Iterator[Refresh]:
    """A display for terminals, on standard error."""
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

        def refresh() -> None:
            display.update(
                task,
                total=tally.expected_bytes or None,
                completed=tally.received_bytes,
                files=f"{tally.files_done}/{tally.files}",
            )

        refresh()
        yield refresh
        refresh()


def _line(tally: Tally) -> str:
    return (
        f"{tally.name}: {tally.files_done} of {tally.files} files, "
        f"{tally.received_bytes / 1e6:,.0f} of about {tally.expected_bytes / 1e6:,.0f} MB"
    )
