"""Times of steps, on the CPU by its clock and on a GPU by events, without waiting for the GPU.

A lap runs from the end of the step before to the end of this one, so nothing between two steps
hides: loader wait, forward, backward, optimizer and the host's own bookkeeping. After an
evaluation `begin` starts afresh. A stretch is a part of a step, from where it is made to its `end`.
"""

import time
from collections.abc import Callable
from typing import Any

import torch


class Lap:
    """One step's time; `seconds` waits for the GPU to reach its end."""

    def __init__(self, start: Any, end: Any) -> None:
        self._start, self._end = start, end

    def seconds(self) -> float:
        if isinstance(self._end, float):
            return self._end - float(self._start)
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1e3


class Stretch:
    """A part of a step, which begins where it is made."""

    def __init__(self, mark: Callable[[], Any]) -> None:
        self._mark = mark
        self._start, self._end = mark(), None

    def end(self) -> None:
        """It ends here."""
        self._end = self._mark()

    def seconds(self) -> float:
        """Waits for the GPU to reach its end."""
        assert self._end is not None, "a stretch without an end"
        return Lap(self._start, self._end).seconds()


class Clock:
    """Laps on one device."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._last = self._mark()

    def begin(self) -> None:
        """The next lap starts here."""
        self._last = self._mark()

    def lap(self) -> Lap:
        """Ends a lap here; the next one starts here too."""
        start, self._last = self._last, self._mark()
        return Lap(start, self._last)

    def stretch(self) -> Stretch:
        """A part of the lap that goes on, from here."""
        return Stretch(self._mark)

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
