"""The verb `needs`: prints what a job needs of the machine and what the simulated machine has."""

import json
import sys
from typing import Any

from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer.machine import Machine
from harness.runner.fake_trainer.train import command_line

SHARD_TOKENS = 10_000_000
CHECKPOINTS_KEPT = 2


def finding(
    what: str, ok: bool, expected: str, got: str, hint: str, severity: str = "error"
) -> dict[str, Any]:
    """One finding; the hint is left out where nothing is wrong."""
    checked = {"what": what, "ok": ok, "expected": expected, "got": got}
    return {**checked, "hint": None if ok else hint, "severity": severity}


def needs(machine: Machine, nodes: int = 1) -> dict[str, Any]:
    """The reply of the verb `needs`."""
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


def main(machine_type: type[Machine] = Machine) -> int:
    """The verb `needs`."""

    def reply(config: dict[str, Any], *arguments: Any, nodes: int, **_: Any) -> int:
        print(json.dumps(needs(machine_type(config, arguments[-1]), nodes)))
        return 0

    return command_line(reply)


if __name__ == "__main__":
    sys.exit(main())
