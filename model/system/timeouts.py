"""A call that may hang, and how long it may: a driver, a broken link, a collective whose ranks are
not all there.

Nothing can end a thread that a kernel holds: it is left behind, and a process that has to end does
so without asking it (`os._exit` in model/probe). The main thread only sleeps meanwhile: signals are
heard.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
LOOK_S = 0.02


class TimedOut(Exception):
    """The call did not end in its time."""


def bounded(call: Callable[[], T], limit_s: float) -> T:
    """What the call returns or raises; raises TimedOut where it does neither in `limit_s`."""
    ended: _End[T] = _End()
    thread = threading.Thread(target=ended.run, args=(call,), daemon=True)
    thread.start()
    deadline = time.monotonic() + limit_s
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(LOOK_S)
    if thread.is_alive():
        raise TimedOut
    if ended.error is not None:
        raise ended.error
    return ended.values[0]


class _End(Generic[T]):
    def __init__(self) -> None:
        self.values: list[T] = []
        self.error: BaseException | None = None

    def run(self, call: Callable[[], T]) -> None:
        try:
            self.values.append(call())
        except BaseException as error:  # the caller's thread is where it belongs
            self.error = error
