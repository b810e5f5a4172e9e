"""The common part of all training processes: from the command line to the exit code.

`model.train` runs to its end, `model.pace` steps on request. Both read a configuration, hold a run
directory, can be stopped, and end as `completed`, `diverged`, `out_of_memory`, `interrupted` or
`failed`, with reason and hint. Exit code 0 means completed, 1 any other end, 2 wrong usage or
configuration. No torch: a faulty configuration is an error before torch is imported.
"""

import argparse
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from model.checkpoint import directory as checkpoint
from model.checkpoint.directory import ResumeOptions
from model.config import Config
from model.config.derive import Derived
from model.distributed.ranks import ALONE, Ranks, from_environment
from model.errors import ConfigErrors, ModelError, missing_package
from model.runtime.lost_rank import WAIT_S, lost_rank
from model.runtime.run_dir import RunDirectory
from model.runtime.stop import Stop, open_watch_fd
from model.system.failure import IN_ANOTHER_RANK, Failure, classify


@dataclass(frozen=True, kw_only=True)
class Process:
    """The inputs of a process's work."""

    config: Config
    derived: Derived
    run: RunDirectory
    stop: Stop
    ranks: Ranks = ALONE
    resume: ResumeOptions | None = None
    """Null: the run starts from its first step."""


Work = Callable[[Process], None]


def command_line(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the common options of these processes."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", type=Path, required=True, help="YAML or JSON")
    parser.add_argument("--out", type=Path, required=True, help="the run's directory")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--watch-fd", type=int, help="stop at the end of this descriptor")
    parser.set_defaults(resume=False, other_code=False, other_ranks=False)
    return parser


def run_process(arguments: argparse.Namespace, work: Work) -> int:
    """Run `work` in the run directory; returns the exit code."""
    try:
        ranks, watch_fd = from_environment(), open_watch_fd(arguments.watch_fd)
        run = RunDirectory(arguments.out, rank=ranks.rank, resume=arguments.resume)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stop = Stop(run, watch_fd, ranks)
    try:
        begin = partial(_begin, arguments, run, stop, ranks)
        return _outcome(run, ranks, lambda: work(begin()))
    except OSError as error:  # a full disk; a missing result means failed
        print(f"error: {run.path} could not be written: {error}", file=sys.stderr)
        return 1


def _begin(arguments: argparse.Namespace, run: RunDirectory, stop: Stop, ranks: Ranks) -> Process:
    from model.config.reader import parse_overrides  # a missing package becomes a hint
    from model.config.resolve import identity_json, resolve

    overrides = parse_overrides(arguments.set)
    config, derived = resolve(str(arguments.config), overrides, ranks.count)
    identity, resume = identity_json(config), None
    if arguments.resume:
        resume = ResumeOptions(other_code=arguments.other_code, other_ranks=arguments.other_ranks)
        # before the earlier run's files change, and before torch is imported
        requested = checkpoint.identity_of(config, identity["data_id"], ranks.count)
        checkpoint.refuse_other_run(checkpoint.folder_of(run.root), requested, resume)
    write_config(run, config, derived)
    return Process(config=config, derived=derived, run=run, stop=stop, ranks=ranks, resume=resume)


def write_config(run: RunDirectory, config: Config, derived: Derived) -> None:
    """Write config.json: the requested and the resolved configuration, and the identity."""
    from model.config.resolve import identity_json

    resolved, identity = derived.as_json(), identity_json(config)
    run.write(
        "config.json", {"requested": asdict(config), "resolved": resolved, "identity": identity}
    )


def _outcome(run: RunDirectory, ranks: Ranks, call: Callable[[], None]) -> int:
    try:
        try:
            call()
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
    except ConfigErrors as error:
        print(f"error: {error}", file=sys.stderr)
        run.finish("failed", error.reason, error.hint)
        return 2
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        run.finish("failed", error.reason, error.hint)
        return 1
    except Exception as error:  # every end becomes a result
        failure = _of_all(classify(error), run, ranks)
        if failure.unexpected:
            traceback.print_exc()
        print(f"{failure.status}: {failure.reason}", file=sys.stderr)
        run.finish(failure.status, failure.reason, failure.hint)
        return 1
    run.finish("completed")
    return 0


def _of_all(failure: Failure, run: RunDirectory, ranks: Ranks) -> Failure:
    """The failure of the run: that of the rank that ended first."""
    interrupted = failure.status == "interrupted"  # torchrun interrupts all after one has ended
    if failure.hint != IN_ANOTHER_RANK and not interrupted:
        return failure
    lost = lost_rank(run.root, ranks, wait_s=0.0 if interrupted else WAIT_S)
    if lost is None or (interrupted and lost.status == "interrupted"):
        return failure
    reason = f"{lost.reason} (here: {failure.reason})"
    return Failure(status=lost.status, reason=reason, hint=lost.hint)
