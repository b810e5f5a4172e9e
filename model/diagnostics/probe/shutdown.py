"""Requests to stop a probe: a signal, or the end of the parent process or of torchrun.

All of them raise one exception in the main thread, which only sleeps and polls
(model/diagnostics/probe/phases.py), so that findings are written before the process ends.
"""

import os
import signal
from types import FrameType

from model.runtime.stop import watch_parent


class ProbeStopped(Exception):
    """The probe received a request to stop."""


def listen(watch_fd: int | None) -> None:
    """From now on the main thread raises ProbeStopped on request; `watch_fd` is one of this
    process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise)
    # a signal reaches the main thread, which sleeps and polls
    watch_parent(watch_fd, lambda reason: os.kill(os.getpid(), signal.SIGTERM))


def _raise(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # ignored while the file is being written
    raise ProbeStopped(f"received {signal.Signals(number).name}")
