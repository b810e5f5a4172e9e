"""What every process that trains has in common: from its command line to its exit code.

`model.train` runs to its end, `model.pace` steps when told; both read a configuration, hold a run
directory, can be told to leave, and say how they ended: `completed`, `diverged`, `out_of_memory`,
`interrupted` or `failed`, with the reason and the hint. Exit code 0 means completed, 1 any other
end, 2 wrong usage or configuration. No torch: a faulty configuration is said before torch is
imported.
"""

import argparse
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from model.checkpoint import directory as checkpoint
from model.config import Config
from model.config.derive import Derived
from model.distributed.ranks import ALONE, Ranks, from_environment
from model.errors import ConfigErrors, ModelError, missing_package
from model.runtime.lost_rank import PATIENCE_S, lost_rank
from model.runtime.run_dir import RunDirectory
from model.runtime.stop import Stop, watched
from model.system.failure import IN_ANOTHER_RANK, Failure, classify


@dataclass(frozen=True, kw_only=True)
class Resume:
    """How a run goes on from its newest checkpoint."""

    other_code: bool
    """Whether from one that other code has written."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """What the work of a process is given."""

    config: Config
    derived: Derived
    run: RunDirectory
    stop: Stop
    ranks: Ranks = ALONE
    resume: Resume | None = None
    """Null: the run starts from its first step."""


Work = Callable[[Process], None]


def command_line(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser of the words that all these processes take."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", type=Path, required=True, help="YAML or JSON")
    parser.add_argument("--out", type=Path, required=True, help="the run's directory")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--watch-fd", type=int, help="leave when this descriptor ends")
    parser.set_defaults(resume=False, other_code=False)
    return parser


def run_process(arguments: argparse.Namespace, work: Work) -> int:
    """Runs `work` in the run directory that was asked for; the process's exit code."""
    try:
        ranks, watch_fd = from_environment(), watched(arguments.watch_fd)
        run = RunDirectory(arguments.out, rank=ranks.rank, resume=arguments.resume)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stop = Stop(run, watch_fd, ranks)
    try:
        begin = partial(_begin, arguments, run, stop, ranks)
        return _outcome(run, ranks, lambda: work(begin()))
    except OSError as error:  # a full disk: what was written stays, and no result means failed
        print(f"error: {run.path} could not be written: {error}", file=sys.stderr)
        return 1


def _begin(arguments: argparse.Namespace, run: RunDirectory, stop: Stop, ranks: Ranks) -> Process:
    from model.config.reader import parse_overrides  # here, so that a missing package has its hint
    from model.config.resolve import identity_json, resolve

    overrides = parse_overrides(arguments.set)
    config, derived = resolve(str(arguments.config), overrides, ranks.count)
    identity, resume = identity_json(config), None
    if arguments.resume:
        resume = Resume(other_code=arguments.other_code)
        asked = checkpoint.identity_of(config, identity["data_id"], ranks.count)
        _refuse_other_run(run, asked, resume)
    write_config(run, config, derived)
    return Process(config=config, derived=derived, run=run, stop=stop, ranks=ranks, resume=resume)


def write_config(run: RunDirectory, config: Config, derived: Derived) -> None:
    """config.json: what was asked for, what it comes to, whose it is."""
    from model.config.resolve import identity_json

    resolved, identity = derived.as_json(), identity_json(config)
    run.write(
        "config.json", {"requested": asdict(config), "resolved": resolved, "identity": identity}
    )


def _refuse_other_run(run: RunDirectory, asked: checkpoint.Identity, resume: Resume) -> None:
    """Before anything of the earlier run is touched, and before torch is imported."""
    folder = checkpoint.folder_of(run.root)
    checkpoint.refuse_other_run(folder, asked, other_code=resume.other_code)


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
    except Exception as error:  # the process's edge: every end becomes a result
        failure = _of_all(classify(error), run, ranks)
        if failure.unexpected:
            traceback.print_exc()
        print(f"{failure.status}: {failure.reason}", file=sys.stderr)
        run.finish(failure.status, failure.reason, failure.hint)
        return 1
    run.finish("completed")
    return 0


def _of_all(failure: Failure, run: RunDirectory, ranks: Ranks) -> Failure:
    """A rank's end in the light of the others': the run ends as the rank that took it along."""
    told_to_leave = failure.status == "interrupted"  # torchrun tells all, where one has ended
    if failure.hint != IN_ANOTHER_RANK and not told_to_leave:
        return failure
    lost = lost_rank(run.root, ranks, patience_s=0.0 if told_to_leave else PATIENCE_S)
    if lost is None or (told_to_leave and lost.status == "interrupted"):
        return failure
    reason = f"{lost.reason} (here: {failure.reason})"
    return Failure(status=lost.status, reason=reason, hint=lost.hint)
