"""Measures how fast ranks sum a tensor, and checks the sum: NCCL on GPUs, gloo on CPUs.

Bus bandwidth is bytes x 2 (n - 1) / n over the seconds, as in nccl-tests: the load of each link in
a ring, comparable with the link's rate for any n. Small tensors measure the latency, the largest
the bandwidth.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from model.diagnostics.probe.facts import SumTime
from model.diagnostics.probe.rendezvous import Rendezvous
from model.distributed.ranks import Ranks

if TYPE_CHECKING:
    import torch

SIZES_BYTES = {"cuda": (2**20, 2**24, 2**28), "cpu": (2**14, 2**18, 2**22)}
TIMES = 10
WARM_TIMES = 3
FLOAT_BYTES = 4


class WrongSum(Exception):
    """The ranks' sum of a tensor is wrong."""


def sums(
    ranks: Ranks,
    device: "torch.device",
    rendezvous: Rendezvous,
    limit_s: float,
    on_sum: Callable[[SumTime], None],
) -> None:
    """Sum tensors of each size over all ranks; calls `on_sum` after each."""
    import torch
    import torch.distributed as dist

    # longer than our timeout, so that ours is reported
    given = {"rank": ranks.rank, "world_size": ranks.count, "store": rendezvous.store}
    timeout = timedelta(seconds=4 * limit_s)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device, timeout=timeout, **given)
    else:
        dist.init_process_group("gloo", timeout=timeout, **given)
    for size in SIZES_BYTES[device.type]:
        on_sum(_sum(ranks, device, size))
    dist.destroy_process_group()


def _sum(ranks: Ranks, device: "torch.device", size: int) -> SumTime:
    import torch
    import torch.distributed as dist

    tensor = torch.full((size // FLOAT_BYTES,), float(ranks.rank + 1), device=device)
    dist.all_reduce(tensor)
    right = ranks.count * (ranks.count + 1) / 2
    if not bool((tensor == right).all()):
        wrong = tensor[tensor != right][0].item()
        raise WrongSum(f"{wrong} in a sum over ranks that is {right}")
    tensor.zero_()  # a sum of zeros does not overflow
    _repeat(tensor, WARM_TIMES)
    began = time.perf_counter()
    _repeat(tensor, TIMES)
    seconds = (time.perf_counter() - began) / TIMES
    return SumTime(bytes=size, seconds=seconds, bus_gb_s=bus_gb_s(size, seconds, ranks.count))


def bus_gb_s(size: int, seconds: float, ranks: int) -> float:
    """The load of each link of a ring, in GB/s."""
    return 2 * (ranks - 1) / ranks * size / seconds / 1e9


def _repeat(tensor: "torch.Tensor", times: int) -> None:
    import torch
    import torch.distributed as dist

    for _ in range(times):
        dist.all_reduce(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
