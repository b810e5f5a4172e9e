"""The verb `probe`: writes probe.json, what the ranks of a job measured."""

import sys
from pathlib import Path
from typing import Any

from harness import files
from harness.runner.fake_trainer.machine import CLOCK_MHZ, Machine
from harness.runner.fake_trainer.needs import finding
from harness.runner.fake_trainer.train import command_line


def probe(machine: Machine) -> dict[str, Any]:
    """The content of probe.json; links and rates come from a formula."""
    several = machine.ranks > 1
    gpus = machine.gpus() if several else []
    return {
        "ranks": machine.ranks,
        "findings": _findings(gpus, machine.ranks) if several else [],
        "gpus": gpus,
        "links": None,
        "driver": None,
        "nccl": None,
        "torch": None,
        "backends": {"formula": True},
        "all_reduce": [{"bytes": 2.0**26, "seconds": 0.001, "bus_gb_s": 117.4}] * several,
    }


def _findings(gpus: list[dict[str, Any]], ranks: int) -> list[dict[str, Any]]:
    models = sorted({gpu["name"] for gpu in gpus})
    slow = [f"rank {gpu['rank']} at {gpu['sm_clock_mhz']} MHz" for gpu in gpus if gpu["throttled"]]
    return [
        finding(
            "GPUs",
            len(gpus) == ranks,
            f"{ranks} GPUs",
            f"{len(gpus)}",
            "Use fewer ranks, or a machine with as many GPUs.",
        ),
        finding(
            "GPU models",
            len(models) == 1,
            "one model",
            " and ".join(models),
            "All ranks wait for the slowest: use a machine with equal GPUs.",
        ),
        finding(
            "clocks",
            not slow,
            f"{CLOCK_MHZ} MHz on every rank",
            ", ".join(slow) or "as expected",
            "Look for overheating or a power limit with nvidia-smi -q -d PERFORMANCE.",
            "warning",
        ),
    ]


def main(machine_type: type[Machine] = Machine) -> int:
    """The verb `probe`."""

    def write(config: dict[str, Any], out: Path, *arguments: Any, **_: Any) -> int:
        files.write_json(out / "probe.json", probe(machine_type(config, arguments[-1])))
        return 0

    return command_line(write)


if __name__ == "__main__":
    sys.exit(main())
