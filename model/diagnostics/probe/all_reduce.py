"""How fast ranks sum a tensor, and whether the sum is right: NCCL between GPUs, gloo between CPUs.

Seconds and bytes become bus bandwidth, bytes x 2 (n - 1) / n over the seconds, as nccl-tests has
it: what each link carries in a ring, to be compared with the link's own rate whatever n is.
Small tensors tell the latency, the largest the rate.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from model.diagnostics.probe.facts import Sum
from model.diagnostics.probe.rendezvous import Board
from model.distributed.ranks import Ranks

if TYPE_CHECKING:
    import torch

SIZES_BYTES = {"cuda": (2**20, 2**24, 2**28), "cpu": (2**14, 2**18, 2**22)}
TIMES = 10
WARM_TIMES = 3
FLOAT_BYTES = 4


class WrongSum(Exception):
    """Ranks summed and got something else."""


def sums(
    ranks: Ranks,
    device: "torch.device",
    board: Board,
    limit_s: float,
    told: Callable[[Sum], None],
) -> None:
    """Sums tensors of each size over all ranks; `told` of each one as it is done."""
    import torch
    import torch.distributed as dist

    # its own limit comes after ours, so that ours is the one that tells
    given = {"rank": ranks.rank, "world_size": ranks.count, "store": board.store}
    timeout = timedelta(seconds=4 * limit_s)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device, timeout=timeout, **given)
    else:
        dist.init_process_group("gloo", timeout=timeout, **given)
    for size in SIZES_BYTES[device.type]:
        told(_sum(ranks, device, size))
    dist.destroy_process_group()


def _sum(ranks: Ranks, device: "torch.device", size: int) -> Sum:
    import torch
    import torch.distributed as dist

    tensor = torch.full((size // FLOAT_BYTES,), float(ranks.rank + 1), device=device)
    dist.all_reduce(tensor)
    right = ranks.count * (ranks.count + 1) / 2
    if not bool((tensor == right).all()):
        wrong = tensor[tensor != right][0].item()
        raise WrongSum(f"{wrong} in a sum over ranks that is {right}")
    tensor.zero_()  # stays as it is, however often it is summed
    _repeat(tensor, WARM_TIMES)
    began = time.perf_counter()
    _repeat(tensor, TIMES)
    seconds = (time.perf_counter() - began) / TIMES
    return Sum(bytes=size, seconds=seconds, bus_gb_s=bus_gb_s(size, seconds, ranks.count))


def bus_gb_s(size: int, seconds: float, ranks: int) -> float:
    """What each link of a ring carries."""
    return 2 * (ranks - 1) / ranks * size / seconds / 1e9


def _repeat(tensor: "torch.Tensor", times: int) -> None:
    import torch
    import torch.distributed as dist

    for _ in range(times):
        dist.all_reduce(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
