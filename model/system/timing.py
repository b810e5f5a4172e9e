"""Step times, by the CPU's clock or by GPU events, without waiting for the GPU.

A lap runs from the end of the previous step to the end of this one, so it includes everything
between two steps: loader wait, forward, backward, optimizer and bookkeeping of the host. After an
evaluation `begin` restarts the lap. A span is a part of a step.
"""

import time
from collections.abc import Callable
from typing import Any

import torch


class Lap:
    """The time of one step; `seconds` waits for the GPU."""

    def __init__(self, start: Any, end: Any) -> None:
        self._start, self._end = start, end

    def seconds(self) -> float:
        if isinstance(self._end, float):
            return self._end - float(self._start)
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1e3


class Span:
    """A part of a step, from its creation to `end`."""

    def __init__(self, mark: Callable[[], Any]) -> None:
        self._mark = mark
        self._start, self._end = mark(), None

    def end(self) -> None:
        self._end = self._mark()

    def seconds(self) -> float:
        """Waits for the GPU."""
        assert self._end is not None, "a span without an end"
        return Lap(self._start, self._end).seconds()


class Clock:
    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._last = self._mark()

    def begin(self) -> None:
        """Start the next lap here."""
        self._last = self._mark()

    def lap(self) -> Lap:
        """End the lap and start the next one."""
        start, self._last = self._last, self._mark()
        return Lap(start, self._last)

    def span(self) -> Span:
        """Start a span."""
        return Span(self._mark)

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
