"""The verb `doctor`: the simulated machine, what a job requires of it, and what a probe measures.

As `python -m model.doctor`: without arguments the machine, with --config the requirements, with
--probe a probe.json in the folder of --out.
"""

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from harness import files
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer.machine import CLOCK_MHZ, Machine, visible_gpus

SHARD_TOKENS = 10_000_000
CHECKPOINTS_KEPT = 2


def machine() -> dict[str, Any]:
    """The simulated GPUs and back-ends."""
    return {
        "python": platform.python_version(),
        "torch": None,
        "cuda": None,
        "gpus": visible_gpus(),
        "backends": {"formula": {"runs": True, "reason": None, "hint": None}},
        "cpu": {"name": platform.machine(), "cores": os.cpu_count()},
    }


def finding(
    what: str, ok: bool, expected: str, got: str, hint: str, severity: str = "error"
) -> dict[str, Any]:
    """One finding; the hint is left out where nothing is wrong."""
    checked = {"what": what, "ok": ok, "expected": expected, "got": got}
    return {**checked, "hint": None if ok else hint, "severity": severity}


def requirements(machine: Machine, nodes: int = 1) -> dict[str, Any]:
    """What a job requires of the machine, and what the machine has."""
    ranks, derived = machine.ranks, fake.derived(machine.config)
    shards = -(-derived["tokens"] // SHARD_TOKENS)
    missing = ", ".join(f"shard {number}" for number in machine.missing_shards())
    kept_bytes = CHECKPOINTS_KEPT * machine.checkpoint_bytes()
    batch = derived["batch_tokens"]
    findings = [
        finding("ranks here", True, "a share of the ranks", f"{ranks // nodes}", "", "info"),
        finding(
            "data shards",
            not missing,
            f"{shards} shards for {derived['tokens']:,} tokens",
            f"{missing} is missing" if missing else f"{shards}",
            "Restore the shard.",
        ),
        finding(
            "free disk",
            machine.free_bytes >= kept_bytes,
            f"{kept_bytes:,} bytes for {CHECKPOINTS_KEPT} checkpoints",
            f"{machine.free_bytes:,} bytes",
            "Free some space, or name another --store.",
        ),
        finding(
            "batch over ranks",
            batch % ranks == 0,
            f"a batch that {ranks} ranks can share",
            f"{batch:,} tokens",
            "Change dial.batch_tokens or the number of ranks.",
        ),
    ]
    return {
        "findings": findings,
        "checkpoint_bytes": machine.checkpoint_bytes(),
        "free_bytes": machine.free_bytes,
        "planned_tokens": derived["tokens"],
        "data": {"shards": shards},
    }


def measured(machine: Machine) -> dict[str, Any]:
    """The content of probe.json; links and rates come from a formula."""
    several = machine.ranks > 1
    gpus = machine.gpus() if several else []
    return {
        "ranks": machine.ranks,
        "findings": _probe_findings(gpus, machine.ranks) if several else [],
        "gpus": gpus,
        "links": None,
        "driver": None,
        "nccl": None,
        "torch": None,
        "backends": {"formula": True},
        "all_reduce": [{"bytes": 2.0**26, "seconds": 0.001, "bus_gb_s": 117.4}] * several,
    }


def _probe_findings(gpus: list[dict[str, Any]], ranks: int) -> list[dict[str, Any]]:
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
    """The verb `doctor`."""
    if len(sys.argv) == 1:
        print(json.dumps(machine()))
        return 0
    from harness.runner.fake_trainer.train import command_line  # the machine needs no trainer

    def reply(
        config: dict[str, Any], out: Path, *arguments: Any, nodes: int, probe: bool, **_: Any
    ) -> int:
        job_machine = machine_type(config, arguments[-1])
        if probe:
            files.write_json(out / "probe.json", measured(job_machine))
        else:
            print(json.dumps(requirements(job_machine, nodes)))
        return 0

    return command_line(reply)


if __name__ == "__main__":
    sys.exit(main())
