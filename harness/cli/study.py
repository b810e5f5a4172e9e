"""`harness study`: runs every arm of a study at every seed, and reports."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness import errors
from harness.cli import options
from harness.cli.console import (
    new_console,
    print_line,
    print_result,
    print_written,
    progress_console,
)
from harness.config.study_file import StudyFile, load_study
from harness.config.yaml_schema import parse_seeds, parse_sets
from harness.errors import ReportError, StudyFileError
from harness.redact import redact_argv
from harness.results.store import Store
from harness.study.executor import StudyOptions
from harness.study.run import FillSweeps, plan_study, run_study, with_overrides


def command(
    file: Annotated[
        Path, typer.Argument(help="A study file, such as ablations/studies/smoke.yaml.")
    ],
    sets: options.SetOption = None,
    seeds: Annotated[str, typer.Option(help="Seeds instead of the file's, such as 1,2,5-7.")] = "",
    name: Annotated[str, typer.Option(help="Another name for the study.")] = "",
    store: options.StoreOption = options.STORE,
    dry_run: options.DryRunOption = False,
    max_minutes: options.MaxMinutesOption = None,
    gpus: options.GpusOption = "",
    allow_partial_blocks: Annotated[
        bool,
        typer.Option(
            "--allow-partial-blocks", help="Start blocks that cannot finish within the limit."
        ),
    ] = False,
    price: options.PriceOption = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Repeat runs that diverged or ran out of memory.")
    ] = False,
    no_html: options.NoHtmlOption = False,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="With --dry-run: do not start the trainer.")
    ] = False,
    json: options.JsonOption = False,
) -> None:
    """Run every arm of a study at every seed, and report.

    Re-run the same command to resume after an interruption or a limit.
    """
    study = with_overrides(
        load(file),
        name=name or None,
        seeds=parse_seeds(seeds, "--seeds") if seeds else None,
        sets=parse_sets(sets or []),
        price=price,
    )
    chosen = StudyOptions(
        rerun=rerun,
        max_minutes=max_minutes,
        allow_partial_blocks=allow_partial_blocks,
        gpus=options.gpu_list(gpus),
    )
    opened = options.open_store(store)
    if dry_run:
        code = plan(study, file, opened, chosen, measure=not no_measure, json=json)
    else:
        code = run(study, file, opened, chosen, html=not no_html, json=json)
    raise typer.Exit(code)


def load(path: Path) -> StudyFile:
    """Reads a study file. Raises StudyFileError, for a bare name with the files that exist."""
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        known = ", ".join(map(str, sorted(Path("ablations/studies").glob("*.yaml"))))
        hint = f"Use one of these: {known}." if known else "Name a YAML file."
        raise StudyFileError(str(path), "a study file", "no such file", hint)
    return load_study(path)


def run(
    file: StudyFile, path: Path, store: Store, chosen: StudyOptions, *, html: bool, json: bool
) -> int:
    """Makes the remaining runs of a study, then prints and writes its report."""
    from harness.report.study.progress import StudyProgress

    progress = progress_console()
    console = progress if json else new_console()
    result = run_study(
        file,
        path,
        store,
        chosen,
        StudyProgress(progress),
        fill_sweeps=_fill_sweeps(file, progress),
        command_line=command_line(),
    )
    plans = {planned.plan_id for planned in result.study.runs}
    if any(record.plan_id in plans and record.status == "completed" for record in store.records()):
        try:
            report(console, store, file.study, html=html, json=json)
        except ReportError as error:
            print_line(console, f"No report: {error}")
    print_line(console, result.reason)
    return result.exit_code


def _fill_sweeps(file: StudyFile, console: Console) -> FillSweeps | None:
    """What fills the sweeps of a study by a search; None where no sweep needs one."""
    if not any(grid.space for grid in file.arms.retune.values()):
        return None
    from harness.report.search.progress import SearchProgress
    from harness.search.sweep_search import fill

    return partial(fill, SearchProgress(console))


def report(console: Console, store: Store, name: str, *, html: bool, json: bool) -> None:
    """Prints the report and writes its files. Raises ReportError."""
    from harness.report.study import files
    from harness.report.study.content import load
    from harness.report.study.document import build

    content = load(store, name)
    document = build(content)
    print_result(document, json=json)
    print_written(console, files.write_files(content, document, skip_html=not html))


def plan(
    file: StudyFile, path: Path, store: Store, chosen: StudyOptions, *, measure: bool, json: bool
) -> int:
    """Prints runs, time, cost and detectable effects; exit code 4 where the study cannot start."""
    from harness.report.study.plan import build

    result = plan_study(file, path, store, chosen, measure=measure, command_line=command_line())
    print_result(build(result), json=json)
    return errors.COULD_NOT_RUN if result.blocked else errors.PASS


def command_line() -> str:
    """The command as it was typed, without passwords."""
    return " ".join(["harness", *redact_argv(sys.argv[1:])])
