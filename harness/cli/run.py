"""`harness run`: one run of one configuration."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from harness import errors
from harness.cli import options
from harness.cli.console import new_console, print_line, print_recovered, progress_console
from harness.config.field_types import LARGEST_SEED, LONGEST_MINUTES
from harness.config.yaml_schema import EXAMPLES, parse_sets
from harness.errors import UsageError
from harness.format import duration
from harness.metrics import METRICS
from harness.report.export import print_json
from harness.results.record import Record
from harness.results.store import Store
from harness.runner.attempt import RunSpec, recover, run_attempt
from harness.runner.process import Stop, stop_on_signals
from harness.runner.replicates import describe_recipe, lock_plan
from harness.runner.trainer import NativeTrainer, by_name

ANSWERS = {
    "completed": "The run completed",
    "diverged": "The run diverged",
    "out_of_memory": "The run ran out of memory",
    "interrupted": "The run was interrupted",
}


def command(
    config: Annotated[Path, typer.Argument(help="A configuration file.")],
    sets: options.SetOption = None,
    seed: Annotated[
        int, typer.Option(callback=options.within(0, LARGEST_SEED), help="Seed of the run.")
    ] = 1,
    store: options.StoreOption = options.STORE,
    trainer: options.TrainerOption = "native",
    timeout_minutes: Annotated[
        float,
        typer.Option(
            callback=options.within(options.SHORTEST_MINUTES, LONGEST_MINUTES),
            help="End the run after this many minutes.",
        ),
    ] = 60.0,
    rerun: options.RerunOption = False,
    json: options.JsonOption = False,
) -> None:
    """Run one configuration once and record the result."""
    if not config.is_file():
        raise UsageError(str(config), "a configuration file", "no such file", EXAMPLES)
    adapter, opened = by_name(trainer), options.open_store(store)
    recipe = describe_recipe(adapter, str(config), str(config.resolve()), parse_sets(sets or []))
    print_recovered(progress_console(), recover(opened))
    record, is_new = _run(opened, adapter, recipe.job(seed), 60 * timeout_minutes, rerun=rerun)
    run_dir = opened.run_dir(record.plan_id, record.attempt)
    if json:
        print_json({**msgspec.to_builtins(record), "new": is_new, "run_dir": str(run_dir)})
    else:
        _print_record(new_console(), record, run_dir, is_new=is_new)
    raise typer.Exit(exit_code(record))


def exit_code(record: Record) -> int:
    """The exit code for a record's status."""
    codes = {"completed": errors.PASS, "interrupted": errors.STOPPED_AT_LIMIT}
    return codes.get(record.status, errors.COULD_NOT_RUN)


def _run(
    store: Store, trainer: NativeTrainer, job: RunSpec, timeout_s: float, *, rerun: bool
) -> tuple[Record, bool]:
    """Returns (the record of a run, whether it ran now)."""
    with stop_on_signals(stop := Stop()), lock_plan(store, job):
        recorded = store.record(job.plan_id)
        if recorded is not None and not rerun:
            return recorded, False
        return run_attempt(store, trainer, job, timeout_s=timeout_s, stop=stop), True


def _print_record(console: Console, record: Record, run_dir: Path, *, is_new: bool) -> None:
    answer = ANSWERS.get(record.status, "The run failed")
    print_line(
        console,
        f"{answer} after {record.steps:,} steps ({record.tokens:,} tokens) "
        f"and {duration(record.wall_s)}.",
    )
    if not is_new:
        print_line(console, "It was recorded earlier; --rerun runs it again.")
    if record.reason:
        print_line(console, f"Reason: {record.reason}")
    if record.hint and record.status != "completed":
        print_line(console, f"Hint: {record.hint}")
    measured = {**record.metrics, "harness_overhead_s": record.wall_s - record.trainer_s}
    for name, value in measured.items():
        if value is not None:
            text = METRICS[name].value(value) if name in METRICS else f"{value:,.4g}"
            print_line(console, f"  {name:20} {text}")
    if record.log_tail:
        print_line(console, f"End of its log:\n{record.log_tail}")
    print_line(console, f"Run directory: {run_dir}")
