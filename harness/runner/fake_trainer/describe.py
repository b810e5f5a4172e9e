"""The verb `describe`, with --batch or --catalogue."""

import json
import sys
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.runner.fake_trainer import config as fake


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """The description of one configuration; an invalid one has its faults in `errors`."""
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
    """Every trick with the overrides that turn it on and off."""
    common = {"requires": [], "conflicts": [], "retune": [], "people": fake.PEOPLE}
    origin = {"source": "a formula", "file": "harness/runner/fake_trainer/config.py"}
    entries = {name: {**common, **origin, **entry} for name, entry in fake.CATALOGUE.items()}
    return {"tricks": entries, "settable_fields": fake.SETTABLE_FIELDS}


def main(arguments: list[str]) -> int:
    """Prints the reply as JSON; exit code 2 for an unknown argument."""
    if arguments == ["--batch"]:
        print(json.dumps([describe(request) for request in json.load(sys.stdin)]))
    elif arguments == ["--catalogue"]:
        print(json.dumps(catalogue()))
    else:
        print(f"expected --batch or --catalogue; got {arguments}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
