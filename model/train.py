"""One run, one process: `python -m model.train --config FILE --out DIR [--watch-fd N]`.

Whatever happens, the directory says so: `completed`, `diverged`, `out_of_memory`, `interrupted`
or `failed`, with the reason and the remedy. Exit code 0 means completed, 1 any other end, 2 wrong
usage or configuration.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

STARTED = time.time()  # before torch is imported, so that startup_s counts it


def main(argv: Sequence[str] | None = None) -> int:
    from model.errors import ModelError
    from model.rundir import RunDirectory
    from model.stop import Stop

    arguments = _parser().parse_args(argv)
    try:
        run = RunDirectory(arguments.out)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stop = Stop(run, arguments.watch_fd)
    return _ended(run, lambda: _train(arguments, run, stop))


def _train(arguments: argparse.Namespace, run: Any, stop: Any) -> None:
    from model.configfile import parse_overrides
    from model.describe import identity_json, resolve

    config, derived = resolve(str(arguments.config), parse_overrides(arguments.set))
    _one_rank()
    run.write(
        "config.json",
        {
            "requested": asdict(config),
            "resolved": derived.as_json(),
            "identity": identity_json(config),
        },
    )
    from model.trainer import Training  # imports torch: a faulty configuration is said before that

    Training(config, derived, run, stop).run_all(STARTED)


def _ended(run: Any, train: Callable[[], None]) -> int:
    """Runs `train` and writes how it ended; the process's exit code."""
    try:
        return _outcome(run, train)
    except OSError as error:  # a full disk: what was written stays, and no result means failed
        print(f"error: {run.path} could not be written: {error}", file=sys.stderr)
        return 1


def _outcome(run: Any, train: Callable[[], None]) -> int:
    from model.errors import ConfigErrors, ModelError, missing_package
    from model.failure import classify

    try:
        try:
            train()
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
    except ConfigErrors as error:
        print(f"error: {error}", file=sys.stderr)
        run.finish("failed", str(error), error.remedy)
        return 2
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        run.finish("failed", str(error), error.remedy)
        return 1
    except Exception as error:  # the process's edge: every end becomes a result
        failure = classify(error)
        if failure.unexpected:
            traceback.print_exc()
        print(f"{failure.status}: {failure.reason}", file=sys.stderr)
        run.finish(failure.status, failure.reason, failure.remedy)
        return 1
    run.finish("completed")
    return 0


def _one_rank() -> None:
    from model.errors import MachineError

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        raise MachineError(
            expected="one rank",
            got=f"{ranks} (WORLD_SIZE)",
            remedy="Start it without torchrun: training over several ranks is not built yet.",
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", type=Path, required=True, help="YAML or JSON")
    parser.add_argument("--out", type=Path, required=True, help="the run's directory")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--watch-fd", type=int, help="leave when this descriptor ends")
    return parser


if __name__ == "__main__":
    sys.exit(main())
