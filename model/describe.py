"""Describe a configuration without running it: `python -m model.describe`.

    python -m model.describe ablations/configs/speedrun.yaml --set dial.depth=8
    python -m model.describe --catalogue
    echo '[{"name": "a", "base": "x.yaml", "set": {}}]' | python -m model.describe --batch

Dry runs, studies and searches call it once for all arms. It does not import torch, so fifty arms
take less than a second. Exit code 2 for an invalid configuration."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.config import Config, catalogue, identity
from model.config.derive import pins
from model.config.not_built import NOT_BUILT
from model.config.reader import parse_overrides
from model.config.resolve import identity_of, resolve
from model.data.manifest import find_view
from model.data.settings import DataSettings
from model.errors import ConfigError, ConfigErrors, ModelError


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.catalogue:
        return _print(catalogue_json())
    if arguments.batch:
        return _print([describe(**item) for item in json.load(sys.stdin)])
    try:
        overrides = parse_overrides(arguments.set)
    except ConfigErrors as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    described = describe("config", arguments.config, overrides, arguments.ranks)
    if arguments.json:
        _print(described)
    elif not described["errors"]:
        print(_as_text(described))
    for fault in described["errors"]:
        print(f"error: {ConfigError(**fault)}", file=sys.stderr)
    return 2 if described["errors"] else 0


def describe(
    name: str, base: str | None = None, set: dict[str, Any] | None = None, ranks: int = 1
) -> dict[str, Any]:
    """One configuration as plain values; with faults in `errors`, all other values are null."""
    try:
        config, derived = resolve(base, set or {}, ranks)
    except ModelError as error:
        faults = error.errors if isinstance(error, ConfigErrors) else [error]
        empty: dict[str, Any] = dict.fromkeys(RESULTS)
        empty["data_paths"] = {}
        return {"name": name, **empty, "package": PACKAGE, "errors": [f.as_json() for f in faults]}
    view = find_view(DataSettings.from_config(config))
    return {
        "name": name,
        "config": asdict(config),
        "derived": derived.as_json(),
        "pins": pins(config, derived),
        "data_paths": _data_paths(config),
        "tricks": catalogue.active(config),
        "identity": identity_of(config, view),
        "text_tokens": view.train_tokens if view is not None else None,
        "package": PACKAGE,
        "errors": [],
    }


def catalogue_json() -> dict[str, Any]:
    """All tricks, the settable fields and the tricks that are not built."""
    return {
        "tricks": {name: trick.as_json() for name, trick in catalogue.TRICKS.items()},
        "settable_fields": catalogue.SETTABLE_FIELDS,
        "not_built": {name: trick.as_json() for name, trick in NOT_BUILT.items()},
    }


PACKAGE = str(Path(__file__).resolve().parent)
RESULTS = ("config", "derived", "pins", "tricks", "identity", "text_tokens")  # null with faults


def _data_paths(config: Config) -> dict[str, Any]:
    """Absolute paths, so that a run in another working directory finds the same data."""
    paths = {
        "data.cache_dir": str(Path(config.data.cache_dir).absolute()),
        "system.compile_cache_dir": str(Path(config.system.compile_cache_dir).absolute()),
    }
    if config.data.source not in identity.KNOWN_SOURCES:
        paths["data.source"] = str(Path(config.data.source).absolute())
    if config.core is not None and config.core.bundle is not None:
        paths["core.bundle"] = str(Path(config.core.bundle).absolute())
    return paths


def _as_text(described: dict[str, Any]) -> str:
    derived, tricks = described["derived"], described["tricks"]
    lines = ["Derived"]
    for name, value in derived.items():
        if name == "sizes":
            lines += [f"  {key}: {_short(item)}" for key, item in value.items()]
        else:
            lines.append(f"  {name}: {_short(value)}")
    on = [name for name, is_on in tricks.items() if is_on]
    off = [name for name, is_on in tricks.items() if not is_on]
    lines += ["Tricks", f"  on: {', '.join(on) or 'none'}", f"  off: {', '.join(off) or 'none'}"]
    lines += [f"  not built yet: {', '.join(NOT_BUILT)}", "Identity"]
    lines += [f"  {name}: {value}" for name, value in described["identity"].items()]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return "; ".join(_short(item) for item in value)
    if isinstance(value, list | tuple):
        return " ".join(str(item) for item in value)
    return str(value)


def _print(value: Any) -> int:
    print(json.dumps(value))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.describe", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", nargs="?", help="YAML or JSON file; default: the bare default")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--ranks", type=_count, default=1, help="processes that train together")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--batch", action="store_true", help="read a JSON list on stdin")
    parser.add_argument("--catalogue", action="store_true", help="print the catalogue of tricks")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
