"""Requests to stop: SIGINT, SIGTERM, end of file on the watch descriptor (the harness is gone), or
torchrun gone.

The training loop checks `reason` between steps and ends as `interrupted`. If it does not for a
while, because a compilation or a kernel takes long, a thread writes the result and ends the
process.

Python runs signal handlers in the main thread, between two bytecodes: never while that thread waits
for a GPU in a collective with a lost rank. So a thread reads signals from Python's wakeup
descriptor, to which they are written at once.

torchrun passes no descriptor to its ranks, so they open torchrun's own. It also starts each rank in
a session of its own, so killing torchrun's process group reaches no rank, and each rank polls
whether torchrun still exists.
"""

import os
import signal
import stat
import threading
import time
from collections.abc import Callable

from model.distributed.ranks import ALONE, Ranks, under_torchrun
from model.errors import MachineError
from model.runtime.lost_rank import lost_rank
from model.runtime.run_dir import RunDirectory

GRACE_S = 15.0
CHECKPOINT_GRACE_S = 300.0  # 16 GB at 100 MB/s take half of it
STANDARD_ERROR = 2
POLL_S = 0.5  # of torchrun's process


class Stop:
    """The reason to stop the run, or null."""

    def __init__(self, run: RunDirectory, watch_fd: int | None, ranks: Ranks = ALONE) -> None:
        """`watch_fd` is a descriptor of this process (`open_watch_fd`)."""
        self.run, self.ranks = run, ranks
        self.reason: str | None = None
        self._timer: threading.Timer | None = None
        threading.Thread(target=self._listen, args=(received_signals(),), daemon=True).start()
        watch_parent(watch_fd, self._on_request)

    def _listen(self, fd: int) -> None:
        while number := os.read(fd, 1):
            self._on_request(f"received {signal.Signals(number[0]).name}")

    def request(self, reason: str) -> str:
        """Set the reason, unless there is one; returns the reason in effect."""
        if self.reason is None:
            self.reason = reason
        return self.reason

    def exit_after(self, seconds: float) -> None:
        """The run is stopping; end the process in `seconds` from now, unless it has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, self._exit)
        self._timer.daemon = True
        self._timer.start()

    def _on_request(self, reason: str) -> None:
        if self.reason is None:
            self.request(reason)
            self.exit_after(GRACE_S)

    def _exit(self) -> None:
        """End the process while the main thread hangs. Where a lost rank is the cause, end with its
        status, after which torchrun interrupts the other ranks."""
        lost = lost_rank(self.run.root, self.ranks, wait_s=0.0)
        if lost is not None:
            ended = self.run.finish(lost.status, f"{lost.reason} (here: {self.reason})", lost.hint)
        else:
            ended = self.run.finish("interrupted", self.reason)
        if ended:
            os._exit(1)


def received_signals() -> int:
    """A descriptor that receives the number of each SIGINT and SIGTERM of this process."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # only signals with a handler are written
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # a forked child shares the pipe, and must not write to it
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    return reader


def watch_parent(watch_fd: int | None, callback: Callable[[str], None]) -> None:
    """Call `callback` in a thread once the process that started this one is gone; `watch_fd` is a
    descriptor of this process (`open_watch_fd`)."""

    def until_end_of(fd: int) -> None:
        while os.read(fd, 4096):
            pass
        callback("the process that started the run is gone")

    def until_orphaned(launcher: int) -> None:
        while os.getppid() == launcher:
            time.sleep(POLL_S)
        callback("torchrun is gone")

    if watch_fd is not None:
        threading.Thread(target=until_end_of, args=(watch_fd,), daemon=True).start()
    if under_torchrun():
        threading.Thread(target=until_orphaned, args=(os.getppid(),), daemon=True).start()


def open_watch_fd(fd: int | None) -> int | None:
    """The watch descriptor of the command line as one of this process: under torchrun it belongs to
    torchrun, whose ranks inherit only the standard ones. Raises MachineError where it cannot be
    opened or is not a pipe."""
    if fd is None or fd <= STANDARD_ERROR or not under_torchrun():
        return fd
    problem = "not a pipe"
    try:
        opened = os.open(f"/proc/{os.getppid()}/fd/{fd}", os.O_RDONLY)
        if stat.S_ISFIFO(os.fstat(opened).st_mode):
            return opened
        os.close(opened)
    except OSError as error:
        problem = str(error)
    raise MachineError(
        path="--watch-fd",
        expected=f"descriptor {fd} of the torchrun that started this rank, a pipe",
        got=problem,
        hint="Pass it to torchrun (pass_fds), on Linux; or omit --watch-fd.",
    )
