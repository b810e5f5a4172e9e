"""Check this machine: `python -m model.doctor` prints JSON, in three modes.

    python -m model.doctor                                     GPUs, back-ends and fused kernels
    python -m model.doctor --config FILE --ranks 8 --out DIR   what a job requires of this machine
    torchrun --nproc-per-node 8 -m model.doctor --probe --config FILE --out DIR
                                                               measured speed of its GPUs and links

The first imports torch if it is installed. The second does not and uses no GPU, so it takes seconds
(see model/diagnostics/requirements for its fields). The third uses the GPUs for some seconds and
writes DIR/probe.json (model/diagnostics/probe). Exit code 0 for any findings; 1 if the probe was
stopped or its ranks could not connect; 2 for an invalid configuration or wrong usage.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from model.config.reader import parse_overrides
from model.config.resolve import resolve
from model.distributed.ranks import from_environment
from model.errors import ConfigErrors, ModelError, missing_package


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.config is None:
        from model.runtime.environment import machine_json  # imports torch where it is installed

        print(json.dumps(machine_json()))
        return 0
    if not arguments.probe:
        return _print_requirements(arguments)
    if arguments.out is None:
        parser.error("--probe needs --out DIR")
    return _probe(arguments)


def _print_requirements(arguments: argparse.Namespace) -> int:
    from model.diagnostics.requirements import refused, requirements

    try:
        overrides = parse_overrides(arguments.set)
        config, derived = resolve(str(arguments.config), overrides, arguments.ranks)
        out = arguments.out or Path()
        found = requirements(
            config, derived, out, nodes=arguments.nodes, every_byte=arguments.hashes
        )
    except ModelError as error:
        return _refuse(error, refused(error))
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        return _refuse(missing, refused(missing))
    print(json.dumps(found))
    return 0


def _refuse(error: ModelError, found: dict[str, object]) -> int:
    for fault in error.errors if isinstance(error, ConfigErrors) else [error]:
        print(f"error: {fault}", file=sys.stderr)
    print(json.dumps(found))
    return 2


def _probe(arguments: argparse.Namespace) -> int:
    from model.diagnostics.probe import command

    try:
        ranks = from_environment()
        overrides = parse_overrides(arguments.set)
        config, derived = resolve(str(arguments.config), overrides, ranks.count)
        return command.run(config, derived, ranks, arguments.out, arguments.watch_fd)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.doctor", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", type=Path, help="YAML or JSON; default: check the machine only")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--ranks", type=_count, default=1, help="processes that train together")
    parser.add_argument("--nodes", type=_count, default=1, help="machines that share the ranks")
    parser.add_argument("--out", type=Path, help="the future run directory, or the probe's")
    parser.add_argument("--hashes", action="store_true", help="compare every byte of the data")
    parser.add_argument("--probe", action="store_true", help="measure GPUs and links")
    parser.add_argument("--watch-fd", type=int, help="stop at the end of this descriptor")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
