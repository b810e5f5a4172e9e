"""The simulated machine: its GPUs, and what each rank of a run measures.

One process simulates all ranks of a run, each with a GPU of its own.
"""

import os
from collections.abc import Iterable
from typing import Any

from harness.runner.fake_trainer import config as fake

GPUS = 8  # so that --gpus can be tried on a machine without any
CLOCK_MHZ = 1980
STATE_BYTES = 12  # per parameter of a checkpoint: the parameter and two moments, in fp32
FREE_BYTES = 10**12


def visible_gpus() -> list[dict[str, Any]]:
    """The simulated GPUs that CUDA_VISIBLE_DEVICES leaves to this process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus_by_number(
        range(GPUS) if visible is None else [int(n) for n in visible.split(",") if n]
    )


def gpus_by_number(numbers: Iterable[int]) -> list[dict[str, Any]]:
    """A description of each simulated GPU."""
    return [
        {
            "name": "simulated",
            "uuid": f"fake-{number}",
            "memory_bytes": fake.DEVICE_BYTES,
            "power_limit_w": 700,
        }
        for number in numbers
    ]


class Machine:
    """The machine that one configuration runs on, with `ranks` ranks."""

    def __init__(self, config: dict[str, Any], ranks: int) -> None:
        self.config, self.ranks = config, ranks
        self.free_bytes = FREE_BYTES

    def compute_s(self, step_s: float) -> list[float]:
        """The time that each rank computes in a step of `step_s` seconds."""
        return [step_s] * self.ranks

    def clocks_mhz(self) -> list[int]:
        """The SM clock of each rank."""
        return [CLOCK_MHZ] * self.ranks

    def throttle_reasons(self) -> list[list[str]]:
        """Why each rank's clock is reduced; empty lists where it is not."""
        return [[] for _ in range(self.ranks)]

    def gpus(self) -> list[dict[str, Any]]:
        """The GPU of each rank, as a probe reports it."""
        gpus = gpus_by_number(range(min(self.ranks, GPUS)))
        measured = zip(gpus, self.clocks_mhz(), self.throttle_reasons(), strict=False)
        for rank, (gpu, mhz, reasons) in enumerate(measured):
            gpu |= {"rank": rank, "sm_clock_mhz": mhz, "sm_clock_max_mhz": CLOCK_MHZ}
            gpu |= {"throttled": reasons, "free_bytes": fake.DEVICE_BYTES}
        return gpus

    def ranks_event(self, step: int, step_s: float) -> dict[str, Any]:
        """The event that a run logs every few steps about its ranks."""
        waits = self.config["plant"]["loader_wait"] * step_s
        return {
            "event": "ranks",
            "step": step,
            "compute_s": self.compute_s(step_s),
            "loader_wait_s": [waits] * self.ranks,
            "sm_clock_mhz": self.clocks_mhz() if self.ranks > 1 else None,
            "throttled": self.throttle_reasons() if self.ranks > 1 else None,
        }

    def held_bytes(self) -> int:
        """The device memory that a run holds."""
        return int(fake.derived(self.config)["memory_bytes"])

    def checkpoint_bytes(self) -> int:
        """The size of one checkpoint."""
        return STATE_BYTES * int(fake.derived(self.config)["parameters_total"])

    def missing_shards(self) -> list[int]:
        """The numbers of the data shards that are absent."""
        return []
