"""`python -m harness.fake.describe --batch | --catalogue | --machine`: what the FakeTrainer says.

The same verbs and the same JSON as any trainer's describe.
"""

import json
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.runner.fake_trainer import config as fake

GPUS = 8  # simulated, so that several runs at once can be tried without any


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """One description; faults come in its `errors`."""
    base = request.get("base")
    reply: dict[str, Any] = {"name": request["name"], "package": str(Path(__file__).parent)}
    try:
        config = fake.load(Path(base) if base else None, request.get("set") or {})
    except HarnessError as error:
        fault = {name: getattr(error, name) for name in ("path", "expected", "got", "hint")}
        return {**reply, "errors": [fault]}
    return {
        **reply,
        "config": config,
        "derived": fake.derived(config),
        "pins": fake.pins(config),
        "tricks": fake.tricks(config),
        "identity": fake.identity(config),
        "errors": [],
    }


def catalogue() -> dict[str, Any]:
    """Every trick with what switches it on and off."""
    common = {"requires": [], "conflicts": [], "retune": [], "people": fake.PEOPLE}
    place = {"source": "a formula", "file": "harness/runner/fake_trainer/config.py"}
    entries = {name: {**common, **place, **entry} for name, entry in fake.CATALOGUE.items()}
    return {"tricks": entries, "settable_fields": fake.SETTABLE_FIELDS}


def gpus() -> list[dict[str, Any]]:
    """The simulated GPUs this process may see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return numbered(range(GPUS) if visible is None else [int(n) for n in visible.split(",") if n])


def numbered(numbers: Iterable[int]) -> list[dict[str, Any]]:
    """Simulated GPUs by their numbers."""
    return [
        {
            "name": "simulated",
            "uuid": f"fake-{number}",
            "memory_bytes": fake.DEVICE_BYTES,
            "power_limit_w": 700,
        }
        for number in numbers
    ]


def machine() -> dict[str, Any]:
    """What this machine has, as far as a formula needs anything."""
    return {
        "python": platform.python_version(),
        "torch": None,
        "cuda": None,
        "gpus": gpus(),
        "backends": {"formula": {"runs": True, "reason": None, "hint": None}},
        "cpu": {"name": platform.machine(), "cores": os.cpu_count()},
    }


def main(arguments: list[str]) -> int:
    """The command line. Exit code 2 on a verb it does not know."""
    answers = {"--catalogue": catalogue, "--machine": machine}
    if arguments == ["--batch"]:
        print(json.dumps([describe(request) for request in json.load(sys.stdin)]))
    elif len(arguments) == 1 and arguments[0] in answers:
        print(json.dumps(answers[arguments[0]]()))
    else:
        print(f"expected --batch, --catalogue or --machine; got {arguments}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
