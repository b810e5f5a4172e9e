"""`harness study`: every arm of a study at every seed, and the report."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from harness import errors
from harness.cli.console import new_console, print_line, print_recovered, print_written
from harness.cli.options import (
    STORE,
    MaxMinutesOption,
    PriceOption,
    SetOption,
    StoreOption,
    gpu_list,
    open_store,
)
from harness.config.study_file import StudyFile, check
from harness.errors import ReportError, StudyFileError
from harness.results.store import Store
from harness.runner.attempt import recover
from harness.runner.process import Stop, asked_to
from harness.runner.trainer import NativeTrainer, by_name
from harness.runner.workers import check_gpus

if TYPE_CHECKING:
    from harness.results.study_plan import ResolvedStudy
    from harness.study.executor import StudyOutcome


from harness.config.yaml_schema import parse_seeds, parse_sets
from harness.study.executor import Command, StudyOptions


def command(
    file: Annotated[
        Path, typer.Argument(help="A study file, such as ablations/studies/smoke.yaml.")
    ],
    sets: SetOption = None,
    seeds: Annotated[str, typer.Option(help="Such as 1,2,5-7; in place of the file's.")] = "",
    name: Annotated[str, typer.Option(help="Another name for the study.")] = "",
    store: StoreOption = STORE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only runs, time, cost, smallest detectable effect.")
    ] = False,
    max_minutes: MaxMinutesOption = None,
    gpus: Annotated[str, typer.Option(help="Such as 0-7: one run at a time on each.")] = "",
    split_blocks: Annotated[
        bool,
        typer.Option("--allow-partial-blocks", help="Begin blocks that cannot finish in time."),
    ] = False,
    price: PriceOption = None,
    retry: Annotated[
        bool, typer.Option("--rerun", help="Make diverged and out-of-memory runs again.")
    ] = False,
    no_html: Annotated[bool, typer.Option("--no-html", help="A report without the HTML.")] = False,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="A dry run that starts no trainer at all.")
    ] = False,
) -> None:
    """A study: every arm at every seed, and the report. Goes on where it was stopped."""
    request = changed(
        load(file),
        name=name or None,
        seeds=parse_seeds(seeds) if seeds else None,
        sets=parse_sets(sets or []),
        price=price,
    )
    options = StudyOptions(
        retry=retry,
        max_minutes=max_minutes,
        split_blocks=split_blocks,
        gpus=gpu_list(gpus),
    )
    if dry_run:
        code = print_dry_run(
            new_console(), request, file, open_store(store), options, measure=not no_measure
        )
    else:
        code = study(new_console(), request, file, open_store(store), options, html=not no_html)
    raise typer.Exit(code)


def changed(
    file: StudyFile,
    *,
    name: str | None,
    seeds: list[int] | None,
    sets: dict[str, Any],
    price: float | None,
) -> StudyFile:
    """A study file with what the command line says in place of what the file says."""
    limits = file.limits
    if price is not None:
        limits = msgspec.structs.replace(limits, price=price)
    new = msgspec.structs.replace(
        file,
        study=name or file.study,
        seeds=seeds or file.seeds,
        set={**file.set, **sets},
        limits=limits,
    )
    check(new, lambda field: f"command line, in place of {field}")
    return new


def study(
    console: Console,
    file: StudyFile,
    path: Path,
    store: Store,
    options: "StudyOptions",
    *,
    html: bool = True,
) -> int:
    """Makes a study's runs, or goes on with them, and writes its report."""
    from harness.study.executor import Command, only_one

    trainer = by_name(file.trainer)
    check_gpus(options.gpus, trainer)
    with only_one(store, file.study):
        print_recovered(console, recover(store))
        command = Command(Stop())
        planned, outcome = _run_study(console, file, path, store, trainer, options, command)
    return _end_study(console, store, planned, outcome, html)


def _run_study(
    console: Console,
    file: StudyFile,
    path: Path,
    store: Store,
    trainer: NativeTrainer,
    options: "StudyOptions",
    command: "Command",
) -> tuple["ResolvedStudy", "StudyOutcome"]:
    """The sweeps, if there are any, and then the study with the settings they chose."""
    from harness.report.study.progress import StudyProgress
    from harness.study.budget_limits import StopStudy
    from harness.study.executor import Executor, StudyOutcome
    from harness.study.resolve import resolve

    line = " ".join(["harness", *sys.argv[1:]])
    planned = resolve(file, path, store, trainer, command=line, now=time.time())
    if more := [seed for seed in planned.seeds if seed not in file.seeds]:
        print_line(
            console, f"The stored study has the seeds {more} too; they are made with the others."
        )
    if any(grid.space for grid in file.arms.retune.values()):
        from harness.report.search.progress import SearchProgress
        from harness.search import sweep_search

        store.save_study(planned)
        try:
            sweep_search.fill(
                SearchProgress(console, store), file, path, store, planned, options, command
            )
        except StopStudy as halt:
            return planned, StudyOutcome(exit_code=halt.exit_code, reason=str(halt), halted=True)
        planned = resolve(file, path, store, trainer, command=line, now=time.time())
    for sweeps_only in [True, False] if file.arms.retune else [False]:
        store.save_study(planned)
        with StudyProgress(console, planned, store) as live, asked_to(command.stop):
            executor = Executor(planned, store, trainer, options, live, command)
            outcome = executor.execute(sweeps=sweeps_only)
        if outcome.halted or command.stop:
            break
        if sweeps_only:
            planned = resolve(file, path, store, trainer, command=line, now=time.time(), final=True)
    return planned, outcome


def _end_study(
    console: Console, store: Store, planned: "ResolvedStudy", outcome: "StudyOutcome", html: bool
) -> int:
    """The report, and the sentence that says how the command ended."""
    from harness.report import study as report

    if any(store.record(run.plan_id) is not None for run in planned.runs):
        try:
            report.print_table(console, store, planned.study)
            print_written(console, report.write_all(store, planned.study, skip_html=not html))
        except ReportError as error:
            print_line(console, f"no report: {error}")
    print_line(console, outcome.reason)
    return outcome.exit_code


def print_dry_run(
    console: Console,
    file: StudyFile,
    path: Path,
    store: Store,
    options: "StudyOptions",
    *,
    measure: bool,
) -> int:
    """Prints what a study would run, take, cost and see; starts nothing but the measured steps."""
    from harness.report.study.plan_table import print_plan
    from harness.study import budget
    from harness.study.resolve import resolve

    trainer = by_name(file.trainer)
    line = " ".join(["harness", *sys.argv[1:]])
    planned = resolve(file, path, store, trainer, command=line, now=time.time(), prepares=False)
    records = store.records()
    estimates = budget.Estimates(planned, records)
    measured: budget.Measured | str | None = None
    if measure and estimates.wall_s("base") is None:
        measured = budget.measure(planned, trainer, Stop())
    if isinstance(measured, str):
        print_line(console, f"The base could not be measured: {measured}")
        measured = None
    gpus = 1 if options.gpus else measured.gpus if measured is not None else None
    found = budget.plan(
        planned, records, slots=max(1, len(options.gpus)), measured=measured, gpus=gpus
    )
    print_plan(console, planned, found)
    for trick, grid in file.arms.retune.items():
        if grid.space:
            text = f"a search of {grid.trials} trials fills the sweep of {trick}"
            print_line(console, f"{text}: its trials are not counted here")
    return errors.PASS


def load(path: Path) -> StudyFile:
    """A study file, or the one of that name that ships with the project."""
    from harness.config.study_file import load_study

    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        shipped = sorted(Path("ablations/studies").glob("*.yaml"))
        raise StudyFileError(
            str(path),
            "a study file",
            "no such file",
            "Here are: " + ", ".join(map(str, shipped)) if shipped else "Name a YAML file.",
        )
    return load_study(path)
