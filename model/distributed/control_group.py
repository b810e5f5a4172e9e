"""The council of ranks between turns: what each of them has to say, heard by all.

In the middle of work ranks hear each other in the roll call of a step
(model/distributed/step_status.py). A trainer that waits for a word may wait for hours, and neither
a GPU nor a core may have work of that: NCCL would keep a kernel spinning on each GPU, and give up
after ten minutes. So a council goes between CPUs (gloo), and ranks wait in it asleep. It is held
again and again, several times a second: a signal is noticed between two of them, and a rank that
ended breaks the next one. One rank alone hears itself, without a call."""

from typing import Any

from model.distributed.ranks import Ranks


class ControlGroup:
    """Where all ranks of a run meet that have joined."""

    def __init__(self, ranks: Ranks) -> None:
        """Held for the first time: all ranks have to come."""
        self.ranks, self._group = ranks, None
        if not ranks.alone:
            import torch.distributed as dist

            self._group = dist.new_group(backend="gloo")

    def all_gather_object(self, value: Any) -> list[Any]:
        """What each rank gave, by rank; waits for the last one to come."""
        return self.ranks.all_gather_object(value, self._group)
