"""Being told to leave a probe: a signal, the end of whoever started it, or of torchrun.

All of them become one exception in the main thread, which only sleeps and polls (model/probe), so
that what was found so far is written before the process ends.
"""

import os
import signal
from types import FrameType

from model.runtime.stop import watch_parent


class ProbeStopped(Exception):
    """The probe was told to leave, and why."""


def listen(watch_fd: int | None) -> None:
    """From now on the main thread raises ProbeStopped when told; `watch_fd` is one of this
    process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise)
    # the main thread sleeps and polls, so that a signal is the way to it
    watch_parent(watch_fd, lambda reason: os.kill(os.getpid(), signal.SIGTERM))


def _raise(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # once is enough: the file is being written
    raise ProbeStopped(f"received {signal.Signals(number).name}")
