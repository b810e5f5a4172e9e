"""The status that all ranks reduce at the end of each step.

Ranks must stop, save and end a timed run after the same step, or one waits for a rank that has
left. No rank has all of it: a signal reaches one process, and disks and clocks differ. So each rank
adds its status to the all-reduce of the loss, and all act on the sum when they read it: at the
same step, and on a GPU one step late, so that no rank waits for it. A single rank copies and calls
nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.distributed.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """A rank's status at the end of a step; reduced, whether any rank has it set."""

    stopping: bool = False
    """A request to stop was received."""
    writing: bool = False
    overdue: bool = False
    """The minutes between two checkpoints are over, by rank 0's clock."""
    train_time_s: float = 0.0
    """By rank 0's clock, up to the last step that it has read."""


class StepStatusReduction:
    """One step's loss and status, being reduced."""

    def __init__(self, ranks: Ranks, loss: Tensor, own: StepStatus) -> None:
        """Start the all-reduce; `loss` is the mean over this rank's rows."""
        self._local: StepStatus | None = None
        if ranks.alone:
            self._sum, self._local = loss, own
            return
        values = [float(own.stopping), float(own.writing), 0.0, 0.0]
        if ranks.rank == 0:
            values[2:] = [float(own.overdue), own.train_time_s]
        status = [torch.full_like(loss, value, dtype=torch.float64) for value in values]
        self._sum = torch.stack([loss.double() / ranks.count, *status])
        ranks.all_reduce(self._sum).wait()

    def result(self) -> tuple[float, StepStatus]:
        """The mean loss over all rows, and the reduced status; waits for the step."""
        if self._local is not None:
            return self._sum.item(), self._local
        loss, stopping, writing, overdue, train_time_s = self._sum.tolist()
        status = StepStatus(
            stopping=stopping > 0,
            writing=writing > 0,
            overdue=overdue > 0,
            train_time_s=train_time_s,
        )
        return loss, status
