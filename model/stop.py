"""Being told to leave: SIGINT, SIGTERM, or end of file on the watch descriptor (the harness is
gone).

The training loop asks `reason` between steps and ends as `interrupted`. If it can't ask for a
while, because a compilation or a kernel takes long, the watch thread writes the result itself and
ends the process.
"""

import os
import signal
import threading
from types import FrameType

from model.lost_rank import lost_rank
from model.ranks import ALONE, Ranks
from model.rundir import RunDirectory

GRACE_S = 15.0
CHECKPOINT_GRACE_S = 300.0  # 16 GB to a disk of 100 MB/s take half of it


class Stop:
    """Why the run should end now, or null."""

    def __init__(self, run: RunDirectory, watch_fd: int | None, ranks: Ranks = ALONE) -> None:
        self.run, self.ranks = run, ranks
        self.reason: str | None = None
        self._timer: threading.Timer | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        if watch_fd is not None:
            threading.Thread(target=self._watch, args=(watch_fd,), daemon=True).start()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._ask(f"received {signal.Signals(number).name}")

    def _watch(self, fd: int) -> None:
        while os.read(fd, 4096):
            pass
        self._ask("the process that started the run is gone")

    def hear(self, reason: str) -> str:
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
            self.hear(reason)
            self.allow(GRACE_S)

    def _leave(self) -> None:
        """The main thread is held by something. Where that is a rank that ended, the run ends as
        that one did: torchrun then tells the others to leave."""
        lost = lost_rank(self.run.root, self.ranks, patience_s=0.0)
        if lost is not None:
            ended = self.run.finish(
                lost.status, f"{lost.reason} (here: {self.reason})", lost.remedy
            )
        else:
            ended = self.run.finish("interrupted", self.reason)
        if ended:
            os._exit(1)
