"""What each command does, step by step; cli.py only reads its words.

`study`: read the file, end what a killed harness left, resolve, make the sweeps, resolve again with
their choice, make the runs, report. Every function returns an exit code. Last in the flow but for
the command line itself.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import errors
from harness.attempt import Job, attempt, recover
from harness.config import StudyFile, check
from harness.errors import ReportError, StudyFileError, UsageError
from harness.record import Record
from harness.replicates import hold, recipe
from harness.run import Stop, asked_to
from harness.store import Store
from harness.trainer import NativeTrainer, by_name

if TYPE_CHECKING:
    from rich.console import Console

    from harness.arms import ResolvedStudy
    from harness.study import Command, Options, Outcome


# --- harness study --------------------------------------------------------------------------------


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
    console: "Console",
    file: StudyFile,
    path: Path,
    store: Store,
    options: "Options",
    *,
    html: bool = True,
) -> int:
    """Makes a study's runs, or goes on with them, and writes its report."""
    from harness.study import Command, only_one

    trainer = by_name(file.trainer)
    check_gpus(options.gpus, trainer)
    with only_one(store, file.study):
        _tell_recovered(console, recover(store))
        command = Command(Stop())
        planned, outcome = _run_study(console, file, path, store, trainer, options, command)
    return _end_study(console, store, planned, outcome, html)


def _run_study(
    console: "Console",
    file: StudyFile,
    path: Path,
    store: Store,
    trainer: NativeTrainer,
    options: "Options",
    command: "Command",
) -> tuple["ResolvedStudy", "Outcome"]:
    """The sweeps, if there are any, and then the study with the settings they chose."""
    from harness.allowance import Halt
    from harness.live import Live
    from harness.resolve import resolve
    from harness.study import Executor, Outcome

    line = " ".join(["harness", *sys.argv[1:]])
    planned = resolve(file, path, store, trainer, command=line, now=time.time())
    if more := [seed for seed in planned.seeds if seed not in file.seeds]:
        _say(console, f"The stored study has the seeds {more} too; they are made with the others.")
    if any(grid.space for grid in file.arms.retune.values()):
        from harness import tuning

        store.save_study(planned)
        try:
            tuning.fill(console, file, path, store, planned, options, command)
        except Halt as halt:
            return planned, Outcome(exit_code=halt.exit_code, reason=str(halt), halted=True)
        planned = resolve(file, path, store, trainer, command=line, now=time.time())
    for sweeps_only in [True, False] if file.arms.retune else [False]:
        store.save_study(planned)
        with Live(console, planned, store) as live, asked_to(command.stop):
            executor = Executor(planned, store, trainer, options, live, command)
            outcome = executor.execute(sweeps=sweeps_only)
        if outcome.halted or command.stop:
            break
        if sweeps_only:
            planned = resolve(file, path, store, trainer, command=line, now=time.time(), final=True)
    return planned, outcome


def _end_study(
    console: "Console", store: Store, planned: "ResolvedStudy", outcome: "Outcome", html: bool
) -> int:
    """The report, and the sentence that says how the command ended."""
    from harness import report

    if any(store.record(run.plan_id) is not None for run in planned.runs):
        try:
            report.print_table(console, store, planned.study)
            _tell_written(console, report.write_all(store, planned.study, skip_html=not html))
        except ReportError as error:
            _say(console, f"no report: {error}")
    _say(console, outcome.reason)
    return outcome.exit_code


def dry_run(
    console: "Console",
    file: StudyFile,
    path: Path,
    store: Store,
    options: "Options",
    *,
    measure: bool,
) -> int:
    """Prints what a study would run, take, cost and see; starts nothing but the measured steps."""
    from harness import budget
    from harness.plan_table import print_plan
    from harness.resolve import resolve

    trainer = by_name(file.trainer)
    line = " ".join(["harness", *sys.argv[1:]])
    planned = resolve(file, path, store, trainer, command=line, now=time.time(), prepares=False)
    records = store.records()
    estimates = budget.Estimates(planned, records)
    measured: budget.Measured | str | None = None
    if measure and estimates.wall_s("base") is None:
        measured = budget.measure(planned, trainer, Stop())
    if isinstance(measured, str):
        _say(console, f"The base could not be measured: {measured}")
        measured = None
    gpus = 1 if options.gpus else measured.gpus if measured is not None else None
    found = budget.plan(
        planned, records, slots=max(1, len(options.gpus)), measured=measured, gpus=gpus
    )
    print_plan(console, planned, found)
    for trick, grid in file.arms.retune.items():
        if grid.space:
            text = f"a search of {grid.trials} trials fills the sweep of {trick}"
            _say(console, f"{text}: its trials are not counted here")
    return errors.PASS


# --- harness run ----------------------------------------------------------------------------------


def run(
    console: "Console",
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
            path=str(config),
            expected="a configuration file",
            got="no such file",
            remedy="ablations/bases/ has some.",
        )
    job = recipe(trainer, str(config), str(config.resolve()), sets).job(seed)
    _tell_recovered(console, recover(store))
    with asked_to(stop := Stop()):
        made = _one(console, store, trainer, job, stop, timeout_minutes, retry)
    _print_record(console, store, made)
    stopped = made.status == "interrupted"
    good = made.status == "completed"
    return errors.PASS if good else errors.STOPPED_AT_LIMIT if stopped else errors.COULD_NOT_RUN


def _one(
    console: "Console",
    store: Store,
    trainer: NativeTrainer,
    job: Job,
    stop: Stop,
    timeout_minutes: float,
    retry: bool,
) -> Record:
    with hold(store, job):
        known = store.record(job.plan_id)
        if known is not None and not retry:
            _say(console, "Recorded already; --retry makes it once more, as another attempt.")
            return known
        return attempt(store, trainer, job, timeout_s=60 * timeout_minutes, stop=stop)


def _print_record(console: "Console", store: Store, made: Record) -> None:
    head = f"{made.status.replace('_', ' ')}: {made.steps} steps, {made.tokens:,} tokens"
    _say(console, f"{head}, {made.wall_s:.1f} s ({made.wall_s - made.trainer_s:.2f} s of it ours)")
    if made.reason:
        _say(console, made.reason)
    if made.remedy and made.status != "completed":
        _say(console, made.remedy)
    for name, value in made.metrics.items():
        if value is not None:
            _say(console, f"  {name:20} {value:,.6g}")
    if made.log_tail:
        _say(console, made.log_tail)
    _say(console, f"run directory: {store.root / 'plans' / made.plan_id / made.attempt}")


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
    from harness import report as reports

    reports.print_table(console, store, name)
    written = reports.write_all(store, name, html=out, json=json, csv=csv, skip_html=no_html)
    if picture is not None:
        written = {**written, "picture": reports.write_picture(store, name, picture)}
    _tell_written(console, written)
    return errors.PASS


def pack(console: "Console", store: Store, out: Path, *, compact: bool) -> int:
    """A store as one tar."""
    from harness import pack as packing

    files = packing.pack(store, out, compact=compact)
    _say(console, f"{out}: {files} files, {out.stat().st_size / 1e6:.1f} MB")
    return errors.PASS


def unpack(console: "Console", source: Path, store: Store) -> int:
    """A tar merged into a store."""
    from harness import pack as packing

    found = packing.unpack(source, store)
    _say(
        console,
        f"{store.root}: {found.records} records are new, {found.known} were known; "
        f"{found.studies} studies, {found.run_dirs} run directories"
        + (f", {found.jobs} full jobs" if found.jobs else ""),
    )
    return errors.PASS


def doctor(console: "Console", store: Store, trainer: NativeTrainer) -> int:
    """What this machine can run; exit code 4 when the smoke study could not."""
    from harness.doctor import examine

    findings = examine(store.root, trainer)
    for finding in findings:
        _say(console, finding.line())
    lacking = [finding.name for finding in findings if finding.needed and not finding.good]
    if lacking:
        _say(console, f"The smoke study cannot run here for want of: {', '.join(lacking)}.")
        return errors.COULD_NOT_RUN
    _say(console, "The smoke study can run here: harness study ablations/smoke.yaml")
    return errors.PASS


# --- shared steps ---------------------------------------------------------------------------------


def check_gpus(asked: Sequence[str], trainer: NativeTrainer) -> None:
    """Raises UsageError where --gpus names one that is not there."""
    if not asked:
        return
    there = len(trainer.machine().get("gpus") or [])
    absent = [gpu for gpu in asked if int(gpu) >= there]
    if absent:
        raise UsageError(
            path="--gpus",
            expected=f"numbers below {there}, the GPUs of this machine" if there else "no --gpus",
            got=",".join(absent) if there else f"{','.join(asked)}, on a machine without a GPU",
            remedy="Name those there are." if there else "Leave it out: runs go one at a time.",
        )


def load(path: Path) -> StudyFile:
    """A study file, or the one of that name that ships with the project."""
    from harness.config import load_study

    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        shipped = sorted(Path("ablations").glob("*.yaml"))
        raise StudyFileError(
            path=str(path),
            expected="a study file",
            got="no such file",
            remedy="Here are: " + ", ".join(map(str, shipped)) if shipped else "Name a YAML file.",
        )
    return load_study(path)


def _tell_recovered(console: "Console", made: Sequence[Record]) -> None:
    for record in made:
        what = f"{record.launch.arm or record.plan_id}, seed {record.seed}"
        _say(console, f"A killed harness had left {what}; recorded as {record.status}.")


def _tell_written(console: "Console", written: dict[str, Path]) -> None:
    for kind, path in written.items():
        _say(console, f"{kind}: {path}")


def _say(console: "Console", text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
