"""Straggler statistics: each rank's compute time, loader wait and GPU clock.

Ranks wait for each other in every step, so all steps take equally long whichever rank is slow. The
difference is in a rank's own part: from the start of the step to its first wait for another rank
(`Trainer.step` calls `worked` there). It is longest on the slow rank. A wait for the loader is not
part of it and has its own mean.

Each rank sums its steps as they are read, one step late on a GPU. About every ten seconds of
training, by rank 0's clock, the ranks exchange their sums in one small all-reduce, started after
one step and read after the next. Otherwise a step costs two GPU events, and nothing on a single
rank, whose own part is the whole step.
"""

import math
from typing import Any

import torch
from torch import Tensor

from model.distributed.ranks import Exchange, Ranks
from model.system.sm_clock import Samples
from model.system.throttle import reasons_in

EVERY_S = 10.0
SAMPLE_EVERY_S = 1.0  # of a GPU's clock
NUMBERS = 4  # a rank: compute and loader seconds a step, MHz, reasons
UNKNOWN = math.nan


class StragglerStatistics:
    """Statistics of all ranks since the last report."""

    def __init__(
        self,
        ranks: Ranks,
        device: torch.device,
        samples: Samples,
        *,
        step: int,
        train_time_s: float,
    ) -> None:
        """`samples` are the clock samples of this rank's GPU; `step` and `train_time_s` are the
        run's position."""
        self.ranks, self._device, self._samples = ranks, device, samples
        self._reported_step, self._reported_s = step, train_time_s
        self._steps, self._compute_s, self._waited_s = 0, 0.0, 0.0
        self._pending: _PendingReport | None = None

    def add(self, compute_s: float, waited_s: float) -> None:
        """Add a step of this rank that compiled nothing."""
        self._steps += 1
        self._compute_s += compute_s
        self._waited_s += waited_s

    def is_due(self, step: int, train_time_s: float, *, last: bool) -> bool:
        """Whether to report after `step`, by a training time that is equal on all ranks."""
        if last:
            return step > self._reported_step
        return train_time_s - self._reported_s >= EVERY_S

    def begin_exchange(self, step: int, train_time_s: float) -> None:
        """Start the exchange of the sums up to `step`; all ranks call it after the same step."""
        assert self._pending is None, "exchanged twice without being read"
        own = [self._mean(self._compute_s), self._mean(self._waited_s), *self._clock()]
        numbers, exchange = _exchange(own, self.ranks, self._device)
        self._pending = _PendingReport(step, self._steps, numbers, exchange)
        self._reported_step, self._reported_s = step, train_time_s
        self._steps, self._compute_s, self._waited_s = 0, 0.0, 0.0

    def take(self) -> dict[str, Any] | None:
        """The exchanged numbers as the fields of a `ranks` event, once; waits for them."""
        sent, self._pending = self._pending, None
        return None if sent is None else sent.fields()

    def _mean(self, seconds: float) -> float:
        return seconds / self._steps if self._steps else UNKNOWN

    def _clock(self) -> tuple[float, float]:
        mhz, bits = self._samples.take()
        return (
            UNKNOWN if mhz is None else mhz,
            UNKNOWN if bits is None else float(bits),  # below 2^53, so exact
        )


class _PendingReport:
    """The numbers of all ranks, being exchanged."""

    def __init__(
        self, step: int, steps: int, numbers: Tensor | list[list[float]], exchange: Exchange
    ) -> None:
        self._step, self._steps, self._numbers, self._exchange = step, steps, numbers, exchange

    def fields(self) -> dict[str, Any]:
        self._exchange.wait()
        numbers = self._numbers.tolist() if isinstance(self._numbers, Tensor) else self._numbers
        compute_s, waited_s, mhz, bits = zip(*numbers, strict=True)
        return {
            "step": self._step,
            "steps": self._steps,
            "compute_s": [_rounded(each, 6) for each in compute_s],
            "loader_wait_s": [_rounded(each, 6) for each in waited_s],
            "sm_clock_mhz": [_rounded(each, 1) for each in mhz],
            "throttled": [None if math.isnan(each) else reasons_in(int(each)) for each in bits],
        }


def _exchange(
    own: list[float], ranks: Ranks, device: torch.device
) -> tuple[Tensor | list[list[float]], Exchange]:
    """Start to exchange the numbers (ranks, 4): each rank adds its row to zeros."""
    if ranks.alone:
        return [own], Exchange(None)
    rows = torch.zeros(ranks.count, NUMBERS, dtype=torch.float64)
    rows[ranks.rank] = torch.tensor(own, dtype=torch.float64)
    if device.type == "cuda":  # from pinned memory, without blocking the host
        rows = rows.pin_memory().to(device, non_blocking=True)
    return rows, ranks.all_reduce(rows)


def _rounded(value: float, digits: int) -> float | None:
    """NaN as None, which JSON has."""
    return None if math.isnan(value) else round(value, digits)
