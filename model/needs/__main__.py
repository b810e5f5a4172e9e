"""`python -m model.needs --config FILE --ranks N [--out DIR]`: findings as one JSON object.

    {"findings": [...], "checkpoint_bytes": n, "free_bytes": n, "planned_tokens": n, "data": {...},
     "errors": []}

`planned_tokens` are those that all steps of the job take. Exit code 0 whatever was found; 2 where
the configuration itself is faulty: `errors` are then those of `model.describe`, each a finding too,
and nothing else is known.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model.config import Config
from model.configfile import parse_overrides
from model.data.settings import DataSettings
from model.derive import Derived
from model.describe import resolve
from model.errors import ConfigErrors, MachineError, ModelError, missing_package
from model.finding import Finding, as_json, of_error
from model.needs import bundle, data, disk, gpus, packages, plan, vocabulary
from model.needs.stock import Stock, take_stock


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        overrides = parse_overrides(arguments.set)
        config, derived = resolve(str(arguments.config), overrides, arguments.ranks)
        settings = DataSettings.from_config(config)
    except ModelError as error:
        return _refuse(error)
    try:
        answer = _looked(config, derived, settings, arguments)
    except ModuleNotFoundError as error:
        return _refuse(missing_package(error))
    print(json.dumps(answer))
    return 0


def _looked(
    config: Config, derived: Derived, settings: DataSettings, arguments: argparse.Namespace
) -> dict[str, Any]:
    stock = take_stock(settings, derived.stages[-1].last_row, every_byte=arguments.hashes)
    room = disk.Room.of(
        config, derived, arguments.out, cache=settings.cache, coming_bytes=stock.coming_bytes
    )
    ranks_here = derived.ranks // arguments.nodes
    return {
        "findings": as_json(_findings(config, derived, settings, stock, room, ranks_here)),
        "checkpoint_bytes": room.checkpoint_bytes,
        "free_bytes": room.free_bytes,
        "planned_tokens": derived.tokens,
        "data": stock.as_json(),
        "errors": [],
    }


def _findings(
    config: Config,
    derived: Derived,
    settings: DataSettings,
    stock: Stock,
    room: disk.Room,
    ranks_here: int,
) -> Iterator[Finding]:
    yield from plan.findings(config, derived)
    yield from packages.findings(config, settings, stock)
    yield from gpus.findings(config, derived, gpus.visible(config), ranks_here)
    yield from data.findings(settings, derived, stock)
    yield from vocabulary.findings(settings, stock)
    yield from bundle.findings(config, settings.cache)
    yield from disk.findings(room)


def _refuse(error: ModelError) -> int:
    """A faulty configuration, as `describe` tells it, or a package that everything needs."""
    faults = error.errors if isinstance(error, ConfigErrors) else [error]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    unknown: dict[str, Any] = dict.fromkeys(("checkpoint_bytes", "free_bytes", "planned_tokens"))
    what = "packages" if isinstance(error, MachineError) else "configuration"
    found = as_json(of_error(what, fault) for fault in faults)
    print(
        json.dumps(
            {"findings": found, **unknown, "data": {}, "errors": [f.as_json() for f in faults]}
        )
    )
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.needs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", type=Path, required=True, help="YAML or JSON")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--ranks", type=_count, default=1, help="processes that train together")
    parser.add_argument("--nodes", type=_count, default=1, help="machines that share the ranks")
    parser.add_argument("--out", type=Path, default=Path(), help="the run's directory-to-be")
    parser.add_argument("--hashes", action="store_true", help="compare every byte of the data")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
