"""Runs a study, and plans one: the functions behind `harness study` and the Python API.

`run_study` reads what is recorded, ends what a killed harness left running, resolves the study,
makes its sweeps, resolves it again with their choice, and makes its runs. Nothing here prints:
progress goes to a `StudyListener`.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.config.study_file import StudyFile, check
from harness.errors import StoreError, StudyFileError, TrainerError
from harness.results.record import FINAL_STATUSES, Record
from harness.results.store import Store
from harness.results.study_plan import ResolvedStudy
from harness.runner.attempt import recover
from harness.runner.process import Stop, stop_on_signals
from harness.runner.trainer import NativeTrainer, by_name
from harness.runner.workers import check_gpus
from harness.study import budget
from harness.study.budget import Budget, Estimates
from harness.study.budget_limits import BudgetLimits, StopStudy
from harness.study.executor import (
    Command,
    Executor,
    SilentListener,
    StudyListener,
    StudyOptions,
    StudyOutcome,
    study_lock,
    tasks,
)
from harness.study.resolve import resolve

FillSweeps = Callable[[StudyFile, Path, Store, ResolvedStudy, StudyOptions, Command], object]
"""Searches the best points of every sweep that has a `space`, and saves them in the store.

harness.search is a later package, so its `sweep_search.fill` is passed in. Raises StopStudy.
"""


class StudyResult(msgspec.Struct, frozen=True, kw_only=True):
    """A study as it was run. `reason`: one sentence on how the command ended."""

    study: ResolvedStudy
    exit_code: int
    reason: str


class StudyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A dry run. `blocked`: reasons why the study could not start now, with what to do."""

    study: ResolvedStudy
    budget: Budget
    blocked: list[str]
    notes: list[str]


def with_overrides(
    file: StudyFile,
    *,
    name: str | None = None,
    seeds: list[int] | None = None,
    sets: dict[str, Any] | None = None,
    price: float | None = None,
) -> StudyFile:
    """A study file with values replaced. Raises StudyFileError where one is not allowed."""
    limits = file.limits
    if price is not None:
        limits = msgspec.structs.replace(limits, price=price)
    new = msgspec.structs.replace(
        file,
        study=name or file.study,
        seeds=seeds or file.seeds,
        set={**file.set, **(sets or {})},
        limits=limits,
    )
    check(new, lambda field: f"override of {field}")
    return new


def run_study(
    file: StudyFile,
    path: Path,
    store: Store,
    options: StudyOptions | None = None,
    listener: StudyListener | None = None,
    *,
    fill_sweeps: FillSweeps | None = None,
    command_line: str = "",
) -> StudyResult:
    """Makes the runs of a study that are not recorded yet.

    `path`: the study file; paths in it are relative to it. `fill_sweeps`: required where a sweep
    is filled by a search. `command_line`: stored for the report. Ctrl-C and SIGTERM end the runs,
    which are recorded as interrupted. Raises HarnessError; what was recorded stays.
    """
    options, listener = options or StudyOptions(), listener or SilentListener()
    trainer = by_name(file.trainer)
    check_gpus(options.gpus, trainer)
    with study_lock(store, file.study):
        for record in recover(store):
            listener.message(recovered_message(record))
        runner = _Runner(file, path, store, trainer, options, listener, command_line)
        return runner.run(fill_sweeps)


def recovered_message(record: Record) -> str:
    """What happened to a run that a killed harness left."""
    run = f"{record.launch.arm or record.plan_id}, seed {record.seed}"
    return f"Recovered {run} from a killed harness: recorded as {record.status}."


class _Runner:
    """One command on one study."""

    def __init__(
        self,
        file: StudyFile,
        path: Path,
        store: Store,
        trainer: NativeTrainer,
        options: StudyOptions,
        listener: StudyListener,
        command_line: str,
    ) -> None:
        self.file, self.path, self.store, self.trainer = file, path, store, trainer
        self.options, self.listener, self.command_line = options, listener, command_line
        self.command = Command(Stop())

    def run(self, fill_sweeps: FillSweeps | None) -> StudyResult:
        study = self._resolve()
        if more := [seed for seed in study.seeds if seed not in self.file.seeds]:
            self.listener.message(
                f"The stored study also has the seeds {', '.join(map(str, more))}: they are run "
                "with the others."
            )
        if any(grid.space for grid in self.file.arms.retune.values()):
            self.store.save_study(study)
            try:
                self._fill(study, fill_sweeps)
            except StopStudy as stop:
                return StudyResult(study=study, exit_code=stop.exit_code, reason=stop.reason)
            study = self._resolve()
        if self.file.arms.retune:
            outcome = self._execute(study, sweeps=True)
            if outcome.stopped_early or self.command.stop:
                return _result(study, outcome)
            study = self._resolve(sweeps_finished=True)
        return _result(study, self._execute(study, sweeps=False))

    def _resolve(self, *, sweeps_finished: bool = False) -> ResolvedStudy:
        return resolve(
            self.file,
            self.path,
            self.store,
            self.trainer,
            command=self.command_line,
            now=time.time(),
            sweeps_finished=sweeps_finished,
        )

    def _fill(self, study: ResolvedStudy, fill_sweeps: FillSweeps | None) -> None:
        if fill_sweeps is None:
            raise StudyFileError(
                f"{self.path}: arms.retune",
                "sweeps that list their `values`",
                "a sweep with a `space`, which a search fills",
                "Run it with `harness study`, or pass `fill_sweeps`.",
            )
        fill_sweeps(self.file, self.path, self.store, study, self.options, self.command)

    def _execute(self, study: ResolvedStudy, *, sweeps: bool) -> StudyOutcome:
        self.store.save_study(study)
        executor = Executor(
            study, self.store, self.trainer, self.options, self.listener, self.command
        )
        with stop_on_signals(self.command.stop):
            return executor.execute(sweeps=sweeps)


def _result(study: ResolvedStudy, outcome: StudyOutcome) -> StudyResult:
    return StudyResult(study=study, exit_code=outcome.exit_code, reason=outcome.reason)


# --- dry run --------------------------------------------------------------------------------------


def plan_study(
    file: StudyFile,
    path: Path,
    store: Store,
    options: StudyOptions | None = None,
    *,
    measure: bool = True,
    command_line: str = "",
) -> StudyPlan:
    """Runs, time, cost and minimum detectable effects of a study; records nothing.

    `measure`: where no record states the time of a run, measure three steps of the base. Raises
    HarnessError for a study that cannot be resolved.
    """
    options, trainer = options or StudyOptions(), by_name(file.trainer)
    if measure:
        check_gpus(options.gpus, trainer)
    study = resolve(
        file, path, store, trainer, command=command_line, now=time.time(), prepare_data=False
    )
    records = store.records()
    blocked = _blocked(study, store, records, options)
    measured = None
    if measure and Estimates(study, records).wall_s("base") is None:
        try:
            measured = budget.measure(study, trainer, Stop())
        except TrainerError as error:
            blocked.append(str(error))
    gpus = 1 if options.gpus else measured.gpus if measured is not None else None
    notes = [
        f"The sweep of {trick} is filled by a search of {grid.trials} trials, which is not "
        "included here."
        for trick, grid in file.arms.retune.items()
        if grid.space
    ]
    parallel = max(1, len(options.gpus))
    cost = budget.plan(study, records, parallel=parallel, measured=measured, gpus=gpus)
    return StudyPlan(study=study, budget=cost, blocked=blocked, notes=notes)


def _blocked(
    study: ResolvedStudy, store: Store, records: Sequence[Record], options: StudyOptions
) -> list[str]:
    """Reasons why not even the first run could start."""
    reasons = []
    if store.study_lock_path(study.study).exists():
        try:
            with study_lock(store, study.study):
                pass
        except StoreError as error:
            reasons.append(str(error))
    limits = BudgetLimits(
        study,
        records,
        began=time.monotonic(),
        max_minutes=options.max_minutes,
        allow_partial_blocks=options.allow_partial_blocks,
    )
    done = {record.plan_id for record in records if record.status in FINAL_STATUSES}
    gpus = max(1, len(options.gpus))
    todo = tasks(study, done, gpus, sweeps=True) or tasks(study, done, gpus, sweeps=False)
    try:
        if todo:
            if todo[0].opens:
                limits.check_block(todo[0].opens, 1 if len(todo[0].runs) > 1 else gpus)
            limits.check_run(todo[0].runs[0])
    except StopStudy as stop:
        reasons.append(stop.reason)
    return reasons
