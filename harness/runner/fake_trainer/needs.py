"""`python -m harness.fake.needs --config FILE --ranks N [--nodes M] --out DIR`: what a job needs.

And what there is of it."""

import json
import sys
from pathlib import Path
from typing import Any

from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer.train import command_line

SHARD_TOKENS = 10_000_000
CHECKPOINTS_KEPT = 2


def finding(
    what: str, ok: bool, expected: str, got: str, hint: str, severity: str = "stops"
) -> dict[str, Any]:
    """One line of a table of findings; the hint is told where something is wrong."""
    told = None if ok else hint
    words = {"what": what, "ok": ok, "expected": expected, "got": got}
    return {**words, "hint": told, "severity": severity}


def needs(config: dict[str, Any], ranks: int, nodes: int = 1) -> dict[str, Any]:
    """The verb's answer."""
    derived, machine = fake.derived(config), config["machine"]
    shards = -(-derived["tokens"] // SHARD_TOKENS)
    missing = machine["missing_shard"]
    kept = CHECKPOINTS_KEPT * checkpoint_bytes(config)
    batch = derived["batch_tokens"]
    return {
        "findings": [
            finding("ranks here", True, "a share of the ranks", f"{ranks // nodes}", "", "told"),
            finding(
                "data shards",
                missing is None,
                f"{shards} shards for {derived['tokens']:,} tokens",
                f"{shards}" if missing is None else f"shard {missing} is missing",
                "Set machine.missing_shard to null.",
            ),
            finding(
                "free disk",
                machine["free_bytes"] >= kept,
                f"{kept:,} bytes for {CHECKPOINTS_KEPT} checkpoints",
                f"{machine['free_bytes']:,} bytes",
                "Free some space, or name another --store.",
            ),
            finding(
                "batch over ranks",
                batch % ranks == 0,
                f"a batch that {ranks} ranks share",
                f"{batch:,} tokens",
                "Change dial.batch_tokens, or the number of ranks.",
            ),
        ],
        "checkpoint_bytes": checkpoint_bytes(config),
        "free_bytes": machine["free_bytes"],
        "planned_tokens": derived["tokens"],
        "data": {"shards": shards},
    }


def checkpoint_bytes(config: dict[str, Any]) -> int:
    """Of one, as a real trainer's would be, or as it was planted."""
    planted = config["machine"]["checkpoint_bytes"]
    return planted or int(fake.STATE_BYTES * fake.derived(config)["parameters_total"])


def _main(
    config: dict[str, Any], out: Path, watch_fd: int | None, ranks: int, *, nodes: int, **_: Any
) -> int:
    print(json.dumps(needs(config, ranks, nodes)))
    return 0


if __name__ == "__main__":
    sys.exit(command_line(_main))
