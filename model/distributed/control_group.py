"""A process group for control messages between steps: `all_gather_object` over the CPUs (gloo).

Within a step, ranks exchange their status in its all-reduce (model/distributed/step_status.py). A
trainer may wait for a command for hours, and must not use a GPU or a core meanwhile: NCCL would
keep a kernel spinning on each GPU, and time out after ten minutes. Ranks sleep in gloo instead.
They call it several times a second, so that a signal is noticed between two calls, and the end of a
rank breaks the next one. A single rank calls nothing.
"""

from typing import Any

from model.distributed.ranks import Ranks


class ControlGroup:
    """The control process group of a run."""

    def __init__(self, ranks: Ranks) -> None:
        """All ranks must call it."""
        self.ranks, self._group = ranks, None
        if not ranks.alone:
            import torch.distributed as dist

            self._group = dist.new_group(backend="gloo")

    def all_gather_object(self, value: Any) -> list[Any]:
        """The value of each rank, by rank; waits for all ranks."""
        return self.ranks.all_gather_object(value, self._group)
