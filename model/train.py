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
        status, reason, remedy = _classify(error)
        if status == "failed":
            traceback.print_exc()
        print(f"{status}: {reason}", file=sys.stderr)
        run.finish(status, reason, remedy)
        return 1
    run.finish("completed")
    return 0


def _classify(error: Exception) -> tuple[str, str, str | None]:
    """Status, reason and remedy of an exception that ended a run."""
    kind, text = type(error).__name__, " ".join(str(error).split())[:500]
    if kind == "Diverged":
        return "diverged", text, "Lower the learning rate, or see the curve for where it began."
    if kind == "Interrupted":
        return "interrupted", text, None
    # torch's CUDA error, Python's own, and the CPU allocator's, which is a plain RuntimeError
    out_of_memory = "allocate memory" in text or "out of memory" in text
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or out_of_memory:
        remedy = "Lower system.device_batch_rows; the batch stays as it is, in more forward passes."
        return "out_of_memory", text or kind, remedy
    return "failed", f"{kind}: {text}", None


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
