"""`harness study`, `harness report` and `harness doctor`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness import errors
from harness.cli.console import _say, _tell_written
from harness.config.study_file import StudyFile
from harness.errors import ReportError, StudyFileError
from harness.results.store import Store
from harness.runner.trainer import NativeTrainer

if TYPE_CHECKING:
    from rich.console import Console

    from harness.study.executor import StudyOptions


def study(
    console: "Console",
    file: StudyFile,
    path: Path,
    store: Store,
    options: "StudyOptions",
    *,
    html: bool = True,
) -> int:
    """Makes the remaining runs of a study and writes its report."""
    from harness.report import study as report
    from harness.report.study.progress import StudyProgress
    from harness.search import sweep_search
    from harness.study.run import run_study

    result = run_study(
        file,
        path,
        store,
        options,
        StudyProgress(console),
        fill_sweeps=lambda *arguments: sweep_search.fill(console, *arguments),
        command_line=command_line(),
    )
    if any(store.record(run.plan_id) is not None for run in result.study.runs):
        try:
            report.print_table(console, store, file.study)
            _tell_written(console, report.write_all(store, file.study, skip_html=not html))
        except ReportError as error:
            _say(console, f"No report: {error}")
    _say(console, result.reason)
    return result.exit_code


def dry_run(
    console: "Console",
    file: StudyFile,
    path: Path,
    store: Store,
    options: "StudyOptions",
    *,
    measure: bool,
) -> int:
    """Prints runs, time, cost and detectable effects; exit code 4 where the study cannot start."""
    from harness.report.study.plan_table import print_plan
    from harness.study.run import plan_study

    plan = plan_study(file, path, store, options, measure=measure, command_line=command_line())
    print_plan(console, plan.study, plan.budget)
    for line in [*plan.notes, *plan.blocked]:
        _say(console, line)
    return errors.COULD_NOT_RUN if plan.blocked else errors.PASS


def command_line() -> str:
    """The command as it was typed."""
    return " ".join(["harness", *sys.argv[1:]])


# --- harness report, pack, unpack, doctor ---------------------------------------------------------


def report(
    console: "Console",
    store: Store,
    name: str,
    *,
    out: Path | None,
    json: Path | None,
    csv: Path | None,
    no_html: bool,
    picture: Path | None,
) -> int:
    """Prints the report of a stored study and writes its files."""
    from harness.report import study as reports

    reports.print_table(console, store, name)
    written = reports.write_all(store, name, html=out, json=json, csv=csv, skip_html=no_html)
    if picture is not None:
        written = {**written, "picture": reports.write_picture(store, name, picture)}
    _tell_written(console, written)
    return errors.PASS


def doctor(console: "Console", store: Store, trainer: NativeTrainer) -> int:
    """What this machine can run; exit code 4 when the smoke study could not."""
    from harness.cli.doctor import examine

    findings = examine(store.root, trainer)
    for finding in findings:
        _say(console, finding.line())
    lacking = [finding.name for finding in findings if finding.needed and not finding.good]
    if lacking:
        _say(console, f"The smoke study cannot run here for want of: {', '.join(lacking)}.")
        return errors.COULD_NOT_RUN
    _say(console, "The smoke study can run here: harness study ablations/studies/smoke.yaml")
    return errors.PASS


# --- shared steps ---------------------------------------------------------------------------------


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
