"""CORE of a trained model: `python -m model.core_eval RUN_DIR [--step N]`.

    python -m model.core_eval runs/a                             its newest checkpoint
    python -m model.core_eval runs/a --set core.max_per_task=100
    python -m model.core_eval --config FILE                      a model at initialisation
    torchrun --nproc-per-node 8 -m model.core_eval runs/a

Prints a line a task and writes every outcome to core.parquet in the run directory
(core-STEP.parquet for a checkpoint before the run's end), or to --out. Enables `core` with its
defaults where the configuration has it off. Exit code 2 for wrong usage, configuration, bundle or
checkpoint.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from model.config import Config
from model.config.derive import Derived
from model.config.reader import parse_overrides, read_values
from model.config.resolve import resolve
from model.distributed.ranks import Ranks, from_environment, join_group, leave_group
from model.errors import RunError, exit_code

if TYPE_CHECKING:
    import torch

    from model.gpt import GPT


@dataclass(frozen=True, kw_only=True)
class CoreRequest:
    """The parsed command line."""

    config: Config
    derived: Derived
    checkpoint: Path | None
    """Null: a model at initialisation."""
    folder: Path | None
    """The run directory, to which outcomes are written."""
    out: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if (arguments.run_dir is None) == (arguments.config is None):
        parser.error("give the directory of a run, or --config FILE")
    return exit_code(partial(_run, arguments))


def _run(arguments: argparse.Namespace) -> None:
    ranks = from_environment()
    request = _request(arguments)
    try:
        _evaluate(request, ranks)
    finally:
        leave_group(ranks)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.core_eval", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run_dir", nargs="?", type=Path, metavar="RUN_DIR")
    parser.add_argument("--step", type=int, help="the checkpoint of this step, not the newest")
    parser.add_argument("--checkpoint", type=Path, help="this checkpoint")
    parser.add_argument("--config", type=Path, help="evaluate a model at initialisation, not a run")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--out", type=Path, help="the file of the outcomes")
    return parser


def _request(arguments: argparse.Namespace) -> CoreRequest:
    from model.core.source import checkpoint_of

    file = arguments.config or arguments.run_dir / "config.json"
    overrides = parse_overrides(arguments.set)
    if read_values(file).get("core") is None:
        overrides = {"core": {}, **overrides}
    # independent of the ranks and GPUs of the run
    config, derived = resolve(str(file), {"system.fit_memory": True, **overrides})
    path = arguments.checkpoint
    if path is None and arguments.run_dir is not None:
        path = checkpoint_of(arguments.run_dir, arguments.step)
    given = {"checkpoint": path, "folder": arguments.run_dir, "out": arguments.out}
    return CoreRequest(config=config, derived=derived, **given)


def _evaluate(request: CoreRequest, ranks: Ranks) -> None:
    from model.core import outcomes_file as file
    from model.core import table
    from model.core.evaluation import Evaluation
    from model.data.prepare import prepare
    from model.data.settings import DataSettings
    from model.runtime import preflight
    from model.runtime.compilation import Compilation

    def progress(text: str) -> None:
        if ranks.rank == 0:
            print(text, file=sys.stderr, flush=True)

    device = preflight.device_of(request.config, ranks)
    if device.type == "cuda":
        # before the packages are imported, which read the cache folder then
        Compilation.start(request.config, device)
    join_group(ranks, device)
    kernels, derived = preflight.check(request.config, request.derived, device, ranks)
    gpt, step = _model(request, device)
    out = _outcomes_path(request, step)
    tokenizer = prepare(DataSettings.from_config(request.config), progress).tokenizer
    evaluation = Evaluation(request.config, derived, tokenizer, progress)
    found = evaluation(gpt, kernels, ranks)
    if ranks.rank > 0:
        return
    print("\n".join(table.lines(found.result, found.seconds)))
    if out is not None:
        file.write(out, found.outcomes, found.result, found.identity)
        progress(f"outcomes: {out}")


def _model(request: CoreRequest, device: "torch.device") -> tuple["GPT", int]:
    from model.core.source import at_initialisation, of_checkpoint

    if request.checkpoint is None:
        return at_initialisation(request.config, request.derived, device), 0
    return of_checkpoint(request.checkpoint, request.config, request.derived, device)


def _outcomes_path(request: CoreRequest, step: int) -> Path | None:
    """The file of the outcomes; raises RunError where it exists."""
    from model.core.outcomes_file import file_name

    out = request.out
    if out is None and request.folder is not None:
        out = request.folder / file_name(step, final=step >= request.derived.steps)
    if out is not None and out.exists():
        raise RunError(
            path=str(out),
            expected="no outcomes yet",
            got="those of another evaluation",
            hint="Give another file with --out FILE; outcomes are never overwritten.",
        )
    return out


if __name__ == "__main__":
    sys.exit(main())
