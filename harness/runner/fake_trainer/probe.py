"""`python -m harness.fake.probe --config FILE --out DIR --ranks N`: leaves probe.json."""

import sys
from pathlib import Path
from typing import Any

from harness import files
from harness.runner.fake_trainer import ranks as fake_ranks
from harness.runner.fake_trainer.needs import finding
from harness.runner.fake_trainer.train import command_line


def probe(config: dict[str, Any], ranks: int) -> dict[str, Any]:
    """What would be measured; links and rates are a formula's."""
    gpus = fake_ranks.gpus(config, ranks) if ranks > 1 else []
    return {
        "ranks": ranks,
        "findings": _findings(gpus, ranks) if ranks > 1 else [],
        "gpus": gpus,
        "links": None,
        "driver": None,
        "nccl": None,
        "torch": None,
        "backends": {"formula": True},
        "all_reduce": [{"bytes": 2.0**26, "seconds": 0.001, "bus_gb_s": 117.4}] * (ranks > 1),
    }


def _findings(gpus: list[dict[str, Any]], ranks: int) -> list[dict[str, Any]]:
    models = sorted({gpu["name"] for gpu in gpus})
    held = [f"rank {gpu['rank']} at {gpu['sm_clock_mhz']} MHz" for gpu in gpus if gpu["throttled"]]
    return [
        finding(
            "GPUs",
            len(gpus) == ranks,
            f"{ranks} GPUs",
            f"{len(gpus)}",
            "Ask for fewer ranks, or take a machine with as many GPUs.",
        ),
        finding(
            "GPU models",
            len(models) == 1,
            "one model",
            " and ".join(models),
            "Ranks wait for the slowest: take a machine with equal GPUs.",
        ),
        finding(
            "clocks",
            not held,
            f"{fake_ranks.CLOCK_MHZ} MHz on every rank",
            ", ".join(held) or "as expected",
            "Look for heat, or a power limit, with nvidia-smi -q -d PERFORMANCE.",
            "warns",
        ),
    ]


def _main(config: dict[str, Any], out: Path, watch_fd: int | None, ranks: int, **_: Any) -> int:
    if config["machine"]["silent_probe"]:
        print("the links are broken, as asked", file=sys.stderr)
        return 1
    files.write_json(out / "probe.json", probe(config, ranks))
    return 0


if __name__ == "__main__":
    sys.exit(command_line(_main))
