"""`harness run`: one run of one configuration."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness import errors
from harness.cli.console import new_console, print_line, print_recovered
from harness.cli.options import STORE, SetOption, StoreOption, open_store
from harness.config.yaml_schema import parse_sets
from harness.errors import UsageError
from harness.results.record import Record
from harness.results.store import Store
from harness.runner.attempt import RunSpec, recover, run_attempt
from harness.runner.process import Stop, stop_on_signals
from harness.runner.replicates import describe_recipe, lock_plan
from harness.runner.trainer import NativeTrainer, by_name


def command(
    config: Annotated[Path, typer.Argument(help="A configuration file.")],
    sets: SetOption = None,
    seed: Annotated[int, typer.Option(help="The seed of the run.")] = 1,
    store: StoreOption = STORE,
    trainer: Annotated[str, typer.Option(help="The trainer: native or fake.")] = "native",
    timeout_minutes: Annotated[float, typer.Option(help="End it after this long.")] = 60.0,
    retry: Annotated[bool, typer.Option("--rerun", help="Even if it is recorded.")] = False,
) -> None:
    """One run of one configuration."""
    code = run(
        new_console(),
        config,
        open_store(store),
        trainer=by_name(trainer),
        sets=parse_sets(sets or []),
        seed=seed,
        timeout_minutes=timeout_minutes,
        retry=retry,
    )
    raise typer.Exit(code)


def run(
    console: Console,
    config: Path,
    store: Store,
    *,
    trainer: NativeTrainer,
    sets: dict[str, Any],
    seed: int,
    timeout_minutes: float,
    retry: bool,
) -> int:
    """One run of one configuration, unless it is recorded already."""
    if not config.is_file():
        raise UsageError(
            str(config), "a configuration file", "no such file", "ablations/configs/ has some."
        )
    job = describe_recipe(trainer, str(config), str(config.resolve()), sets).job(seed)
    print_recovered(console, recover(store))
    with stop_on_signals(stop := Stop()):
        made = _one(console, store, trainer, job, stop, timeout_minutes, retry)
    _print_record(console, store, made)
    stopped = made.status == "interrupted"
    good = made.status == "completed"
    return errors.PASS if good else errors.STOPPED_AT_LIMIT if stopped else errors.COULD_NOT_RUN


def _one(
    console: Console,
    store: Store,
    trainer: NativeTrainer,
    job: RunSpec,
    stop: Stop,
    timeout_minutes: float,
    retry: bool,
) -> Record:
    with lock_plan(store, job):
        known = store.record(job.plan_id)
        if known is not None and not retry:
            print_line(console, "Recorded already; --rerun makes it once more, as another attempt.")
            return known
        return run_attempt(store, trainer, job, timeout_s=60 * timeout_minutes, stop=stop)


def _print_record(console: Console, store: Store, made: Record) -> None:
    head = f"{made.status.replace('_', ' ')}: {made.steps} steps, {made.tokens:,} tokens"
    print_line(
        console, f"{head}, {made.wall_s:.1f} s ({made.wall_s - made.trainer_s:.2f} s of it ours)"
    )
    if made.reason:
        print_line(console, made.reason)
    if made.hint and made.status != "completed":
        print_line(console, made.hint)
    for name, value in made.metrics.items():
        if value is not None:
            print_line(console, f"  {name:20} {value:,.6g}")
    if made.log_tail:
        print_line(console, made.log_tail)
    print_line(console, f"run directory: {store.root / 'plans' / made.plan_id / made.attempt}")
