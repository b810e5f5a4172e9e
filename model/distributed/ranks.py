"""The ranks that train one model, and their collectives.

`torchrun` starts one process a rank, each with its GPU, and sets RANK, WORLD_SIZE, LOCAL_RANK and
LOCAL_WORLD_SIZE. In a step over C ranks each takes its share of the rows; of every large tensor a
rank holds one C-th of the optimizer state and updates that part:

    gradients (n, ...) of own rows -- reduce-scatter --> the sum over ranks for own n / C rows
    updated own rows of the weights -- all-gather --> the weights (n, ...)

This is ZeRO stage 2 (Rajbhandari and others, arXiv 1910.02054), in the form of modded-nanogpt and
nanochat for Muon. A collective overlaps with other work (NCCL has its own stream) until `wait`. A
single rank copies and calls nothing.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.errors import MachineError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Rank `rank` of `count`, the `local`-th of `local_count` on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1

    @property
    def alone(self) -> bool:
        return self.count == 1

    def padded(self, length: int) -> int:
        """The smallest length of at least this that divides by the ranks."""
        return -(-length // self.count) * self.count

    def share(self, length: int) -> slice:
        """This rank's part of `length`; parts differ by at most one."""
        return slice(length * self.rank // self.count, length * (self.rank + 1) // self.count)

    def reduce_scatter(self, whole: "Tensor", own: "Tensor") -> "Exchange":
        """Write to `own` (n / C, ...) the sum over ranks of this rank's part of `whole` (n,
        ...)."""
        return Exchange(None if self.alone else _reduce_scatter()(own, whole, async_op=True))

    def all_gather(self, whole: "Tensor") -> "Exchange":
        """Fill `whole` (n, ...) with each rank's part of it."""
        if self.alone:
            return Exchange(None)
        own = whole[self.share(whole.size(0))]
        return Exchange(_all_gather()(whole, own, async_op=True))

    def all_reduce(self, tensor: "Tensor") -> "Exchange":
        """Sum over ranks, in place."""
        if self.alone:
            return Exchange(None)
        import torch.distributed as dist

        return Exchange(dist.all_reduce(tensor, async_op=True))

    def all_reduce_maximum(self, tensor: "Tensor") -> "Exchange":
        """The largest of each element over ranks, in place."""
        if self.alone:
            return Exchange(None)
        import torch.distributed as dist

        return Exchange(dist.all_reduce(tensor, op=dist.ReduceOp.MAX, async_op=True))

    def maximum(self, value: float) -> float:
        return value if self.alone else max(self.all_gather_object(value))

    def all_gather_object(self, value: Any, group: Any = None) -> list[Any]:
        """The value of each rank, by rank; any value that can be pickled, and slow. `group`: null
        for the default process group."""
        if self.alone:
            return [value]
        import torch.distributed as dist

        values = [None] * self.count
        dist.all_gather_object(values, value, group=group)
        return values


ALONE = Ranks()


class Exchange:
    """A collective in progress, or none."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self) -> None:
        """Order later work after the result. A second call does nothing: gloo would write again."""
        work, self._work = self._work, None
        if work is not None:
            work.wait()


def from_environment() -> Ranks:
    """This process's ranks as set by torchrun; a single rank without it. Raises MachineError."""
    values = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if "WORLD_SIZE" not in values:
        return ALONE
    try:
        rank, count, local, local_count = (int(values[name]) for name in VARIABLES)
    except (KeyError, ValueError):
        raise MachineError(
            expected=f"whole numbers in {', '.join(VARIABLES)}, as torchrun sets them",
            got=", ".join(f"{name}={value}" for name, value in values.items()),
            hint="Start it with `torchrun --nproc-per-node N -m model.train ...`, or unset them.",
        ) from None
    return Ranks(rank=rank, count=count, local=local, local_count=local_count)


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def join_group(ranks: Ranks, device: "torch.device") -> None:
    """Initialise the process group: NCCL between GPUs, gloo between CPUs."""
    if ranks.alone:
        return
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")


def leave_group(ranks: Ranks) -> None:
    """Destroy the process group, if any."""
    if ranks.alone:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _reduce_scatter() -> Callable[..., Any]:
    """The function by its name in torch 2.13, or before."""
    import torch.distributed as dist

    return getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def _all_gather() -> Callable[..., Any]:
    import torch.distributed as dist

    return getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
