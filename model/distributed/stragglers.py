"""What makes a slow rank visible: each rank's own time, its loader's, its GPU's clock.

Ranks wait for each other in every step, so that all steps last equally long whichever rank is slow.
What differs is a rank's own part, from the step's start to where it would first wait for another
(`Trainer.step` calls `worked` there): the slow rank has the longest, the others stand waiting for
it. A batch that a loader brings late is no part of it and has a mean of its own.

A rank adds up its steps as they are read, a step late on a GPU, and about every ten seconds of
training, by rank 0's clock as all have heard it, the sums go round: one small sum over ranks, begun
behind a step and read behind the next one. In between a step costs two GPU events over several
ranks, and nothing on one rank alone, which waits for nobody: its own part is the whole step.
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
NUMBERS = 4  # of a rank: its own seconds a step, its loader's, MHz, reasons
UNKNOWN = math.nan


class StragglerStatistics:
    """What is known of all ranks since it was last told."""

    def __init__(
        self,
        ranks: Ranks,
        device: torch.device,
        samples: Samples,
        *,
        step: int,
        train_time_s: float,
    ) -> None:
        """`samples` are those of this rank's GPU, which go on coming; `step` and `train_time_s` are
        where the run stands."""
        self.ranks, self._device, self._samples = ranks, device, samples
        self._told_step, self._told_s = step, train_time_s
        self._steps, self._compute_s, self._waited_s = 0, 0.0, 0.0
        self._under_way: _UnderWay | None = None

    def add(self, compute_s: float, waited_s: float) -> None:
        """A step of this rank that compiled nothing."""
        self._steps += 1
        self._compute_s += compute_s
        self._waited_s += waited_s

    def is_due(self, step: int, train_time_s: float, *, last: bool) -> bool:
        """Behind `step`, by a time that all ranks know alike."""
        if last:
            return step > self._told_step
        return train_time_s - self._told_s >= EVERY_S

    def begin_exchange(self, step: int, train_time_s: float) -> None:
        """Sends round what has come together up to `step`; all ranks tell behind the same step."""
        assert self._under_way is None, "told twice without being read"
        own = [self._mean(self._compute_s), self._mean(self._waited_s), *self._clock()]
        told, exchange = _sent(own, self.ranks, self._device)
        self._under_way = _UnderWay(step, self._steps, told, exchange)
        self._told_step, self._told_s = step, train_time_s
        self._steps, self._compute_s, self._waited_s = 0, 0.0, 0.0

    def take(self) -> dict[str, Any] | None:
        """What was told and not yet read, as the fields of an event `ranks`; waits for it."""
        sent, self._under_way = self._under_way, None
        return None if sent is None else sent.fields()

    def _mean(self, seconds: float) -> float:
        return seconds / self._steps if self._steps else UNKNOWN

    def _clock(self) -> tuple[float, float]:
        mhz, bits = self._samples.take()
        return (
            UNKNOWN if mhz is None else mhz,
            UNKNOWN if bits is None else float(bits),  # below 2^53, so exact
        )


class _UnderWay:
    """The numbers of all ranks, on their way."""

    def __init__(
        self, step: int, steps: int, told: Tensor | list[list[float]], exchange: Exchange
    ) -> None:
        self._step, self._steps, self._told, self._exchange = step, steps, told, exchange

    def fields(self) -> dict[str, Any]:
        self._exchange.wait()
        told = self._told.tolist() if isinstance(self._told, Tensor) else self._told
        compute_s, waited_s, mhz, bits = zip(*told, strict=True)
        return {
            "step": self._step,
            "steps": self._steps,
            "compute_s": [_known(each, 6) for each in compute_s],
            "loader_wait_s": [_known(each, 6) for each in waited_s],
            "sm_clock_mhz": [_known(each, 1) for each in mhz],
            "throttled": [None if math.isnan(each) else reasons_in(int(each)) for each in bits],
        }


def _sent(
    own: list[float], ranks: Ranks, device: torch.device
) -> tuple[Tensor | list[list[float]], Exchange]:
    """Begins to bring together the numbers (ranks, 4): each rank adds its row to zeros."""
    if ranks.alone:
        return [own], Exchange(None)
    rows = torch.zeros(ranks.count, NUMBERS, dtype=torch.float64)
    rows[ranks.rank] = torch.tensor(own, dtype=torch.float64)
    if device.type == "cuda":  # from pinned memory, so that the host goes on
        rows = rows.pin_memory().to(device, non_blocking=True)
    return rows, ranks.all_reduce(rows)


def _known(value: float, digits: int) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else round(value, digits)
