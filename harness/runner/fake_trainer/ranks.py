"""Several ranks, pretended by one process: what each would measure of itself and its machine.

What is wrong with the machine stands in the configuration under `machine`, and is found here as a
real trainer would find it: before a run by `needs` and `probe`, during one in its events.
"""

import json
from pathlib import Path
from typing import Any

from harness import files
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer.describe import numbered

EVERY_STEPS = 5
CLOCK_MHZ, HELD_DOWN_MHZ = 1980, 1200
THROTTLED = ["sw_thermal_slowdown"]


def compute_s(config: dict[str, Any], count: int, seconds: float) -> list[float]:
    """What each rank computes of a step's time; the slow one all of it, the others then wait."""
    slow = config["machine"]["slow_rank"]
    own = seconds if slow is None else seconds / fake.SLOW
    return [seconds if rank == slow else own for rank in range(count)]


def clocks(config: dict[str, Any], count: int) -> list[int]:
    """SM clocks by rank, in MHz."""
    held = config["machine"]["throttled_rank"]
    return [HELD_DOWN_MHZ if rank == held else CLOCK_MHZ for rank in range(count)]


def throttled(config: dict[str, Any], count: int) -> list[list[str]]:
    """Why each rank's clocks are held down; nothing where they are not."""
    held = config["machine"]["throttled_rank"]
    return [THROTTLED if rank == held else [] for rank in range(count)]


def event(config: dict[str, Any], count: int, step: int, step_s: float) -> dict[str, Any]:
    """What the ranks say of themselves now and then."""
    waits = config["plant"]["loader_wait"] * step_s
    return {
        "event": "ranks",
        "step": step,
        "compute_s": compute_s(config, count, step_s),
        "loader_wait_s": [waits] * count,
        "sm_clock_mhz": clocks(config, count) if count > 1 else None,
        "throttled": throttled(config, count) if count > 1 else None,
    }


def forget_after(events: Path, step: int) -> None:
    """Takes events of later steps out of a file: the run goes on behind this step."""
    lines = events.read_text(encoding="utf-8").splitlines(keepends=True) if events.exists() else []
    kept = [line for line in lines if line.endswith("\n") and _step_of(line) <= step]
    files.write_text(events, "".join(kept))


def _step_of(line: str) -> int:
    return int(json.loads(line).get("step", 0))


def gpus(config: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The GPU of each rank, as a probe tells it."""
    found = numbered(range(min(count, config["machine"]["gpus"])))
    for rank, (gpu, mhz) in enumerate(zip(found, clocks(config, count), strict=False)):
        gpu |= {"rank": rank, "sm_clock_mhz": mhz, "sm_clock_max_mhz": CLOCK_MHZ}
        gpu |= {"throttled": throttled(config, count)[rank], "free_bytes": fake.DEVICE_BYTES}
        if config["machine"]["mixed_gpus"] and rank % 2:
            gpu["name"] = "simulated, of another model"
    return found
