"""Being told to leave a probe: a signal, the end of whoever started it, or of torchrun.

All of them become one exception in the main thread, which only sleeps and polls (model/probe), so
that what was found so far is written before the process ends.
"""

import os
import signal
import threading
import time
from types import FrameType

from model.ranks import under_torchrun

LOOK_S = 0.5


class Leaving(Exception):
    """The probe was told to leave, and why."""


def listen(watch_fd: int | None) -> None:
    """From now on the main thread raises Leaving when told; `watch_fd` is one of this process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise)
    if watch_fd is not None:
        threading.Thread(target=_until_end_of, args=(watch_fd,), daemon=True).start()
    if under_torchrun():
        threading.Thread(target=_until_orphaned, args=(os.getppid(),), daemon=True).start()


def _raise(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # once is enough: the file is being written
    raise Leaving(f"received {signal.Signals(number).name}")


def _until_end_of(fd: int) -> None:
    while os.read(fd, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _until_orphaned(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
