"""Calls with a timeout, for code that may hang: a driver, a link, a collective with missing ranks.

Nothing can end a thread that hangs in a kernel. It is abandoned, and the process ends with
`os._exit` (model/diagnostics/probe). The main thread only sleeps, so it handles signals.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
POLL_S = 0.02


class TimedOut(Exception):
    """The call did not end in its time."""


def with_timeout(call: Callable[[], T], limit_s: float) -> T:
    """The result or exception of the call; raises TimedOut after `limit_s`."""
    ended: _End[T] = _End()
    thread = threading.Thread(target=ended.run, args=(call,), daemon=True)
    thread.start()
    deadline = time.monotonic() + limit_s
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(POLL_S)
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
        except BaseException as error:  # raised in the caller's thread
            self.error = error
