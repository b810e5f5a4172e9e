"""The roll call at the end of each step: what every rank says there, and all hear of it.

Ranks have to leave, to save and to end a timed run behind the same step, or one waits for another
that is no longer there. None of that is known to all: a signal reaches one process, each disk has
its own pace, each clock its own time. So each says at every step what it knows, in one small sum
over ranks that the loss needs anyway, and all act on the sum when they read it: at the same step,
and on a GPU one step late, so that nobody waits for it. One rank alone hears itself, without a
copy or a call.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.distributed.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """What is said at the end of a step; heard, whether any rank said so."""

    leaving: bool = False
    """Told to leave."""
    writing: bool = False
    """A checkpoint is on its way to the disk."""
    late: bool = False
    """The minutes between two checkpoints are over, by rank 0's clock."""
    train_time_s: float = 0.0
    """By rank 0's clock, up to the last step that it has read."""


class StepStatusReduction:
    """One step's loss and words, on their way."""

    def __init__(self, ranks: Ranks, loss: Tensor, own: StepStatus) -> None:
        """`loss` is the mean over this rank's rows. Begins the exchange."""
        self._own: StepStatus | None = None
        if ranks.alone:
            self._sum, self._own = loss, own
            return
        words = [float(own.leaving), float(own.writing), 0.0, 0.0]
        if ranks.rank == 0:
            words[2:] = [float(own.late), own.train_time_s]
        said = [torch.full_like(loss, word, dtype=torch.float64) for word in words]
        self._sum = torch.stack([loss.double() / ranks.count, *said])
        ranks.all_reduce(self._sum).wait()

    def result(self) -> tuple[float, StepStatus]:
        """The mean loss over all rows, and what was said; waits for the step."""
        if self._own is not None:
            return self._sum.item(), self._own
        loss, leaving, writing, late, train_time_s = self._sum.tolist()
        words = StepStatus(
            leaving=leaving > 0, writing=writing > 0, late=late > 0, train_time_s=train_time_s
        )
        return loss, words
