"""Being told to leave: SIGINT, SIGTERM, end of file on the watch descriptor (the harness is gone),
or torchrun gone.

The training loop asks `reason` between steps and ends as `interrupted`. If it can't ask for a
while, because a compilation or a kernel takes long, a thread writes the result itself and ends the
process.

Python runs its handlers of signals in the main thread, and only between two of its own steps: never
while that waits for a GPU whose exchange another rank will not answer any more. So a thread hears
signals through the descriptor that Python's part in C writes them to at once.

torchrun passes no descriptor on to the ranks that it starts, so theirs is the one that torchrun
itself was given. It puts each rank into a session of its own as well: whoever kills torchrun and
its process group reaches no rank, so each looks whether torchrun is still there.
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
CHECKPOINT_GRACE_S = 300.0  # 16 GB to a disk of 100 MB/s take half of it
STANDARD_ERROR = 2
LOOK_S = 0.5  # how often a rank looks for its torchrun


class Stop:
    """Why the run should end now, or null."""

    def __init__(self, run: RunDirectory, watch_fd: int | None, ranks: Ranks = ALONE) -> None:
        """`watch_fd` is a descriptor of this process (`watched`)."""
        self.run, self.ranks = run, ranks
        self.reason: str | None = None
        self._timer: threading.Timer | None = None
        threading.Thread(target=self._listen, args=(received_signals(),), daemon=True).start()
        watch_starter(watch_fd, self._ask)

    def _listen(self, fd: int) -> None:
        while number := os.read(fd, 1):
            self._ask(f"received {signal.Signals(number[0]).name}")

    def request(self, reason: str) -> str:
        """What another process was told; the reason that counts is the first."""
        if self.reason is None:
            self.reason = reason
        return self.reason

    def allow(self, seconds: float) -> None:
        """The run has heard and is leaving; the process ends itself after `seconds` from now."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, self._leave)
        self._timer.daemon = True
        self._timer.start()

    def _ask(self, reason: str) -> None:
        if self.reason is None:
            self.request(reason)
            self.allow(GRACE_S)

    def _leave(self) -> None:
        """The main thread is held by something. Where that is a rank that ended, the run ends as
        that one did: torchrun then tells the others to leave."""
        lost = lost_rank(self.run.root, self.ranks, patience_s=0.0)
        if lost is not None:
            ended = self.run.finish(lost.status, f"{lost.reason} (here: {self.reason})", lost.hint)
        else:
            ended = self.run.finish("interrupted", self.reason)
        if ended:
            os._exit(1)


def received_signals() -> int:
    """A descriptor on which the number of each SIGINT and SIGTERM of this process arrives."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # only signals with a handler are written
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # a forked child has the same pipe, and its signals are not meant for its parent
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    return reader


def watch_starter(watch_fd: int | None, tell: Callable[[str], None]) -> None:
    """From now on `tell` hears, in a thread, that whoever started this process is gone; `watch_fd`
    is a descriptor of this process (`watched`)."""

    def until_end_of(fd: int) -> None:
        while os.read(fd, 4096):
            pass
        tell("the process that started the run is gone")

    def until_orphaned(launcher: int) -> None:
        while os.getppid() == launcher:
            time.sleep(LOOK_S)
        tell("torchrun is gone")

    if watch_fd is not None:
        threading.Thread(target=until_end_of, args=(watch_fd,), daemon=True).start()
    if under_torchrun():
        threading.Thread(target=until_orphaned, args=(os.getppid(),), daemon=True).start()


def watched(fd: int | None) -> int | None:
    """The watch descriptor that was named on the command line, as one of this process: under
    torchrun it is torchrun's, of which only the standard ones are inherited. Raises MachineError
    where it cannot be opened, or is no pipe, whose end would say nothing."""
    if fd is None or fd <= STANDARD_ERROR or not under_torchrun():
        return fd
    problem = "no pipe"
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
        hint="Pass it on to torchrun (pass_fds), on Linux; or leave --watch-fd out.",
    )
