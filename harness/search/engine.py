"""The steps of a search: run the base, run trials, confirm the best, read the result.

Every step starts from what is recorded, so that the same command resumes a search wherever it was
stopped. Progress is reported to a listener; `harness.report.search` prints it.
"""

import copy
import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import errors
from harness.config.search_file import SearchFile, check
from harness.errors import HarnessError, StoreError, StudyFileError
from harness.files import digest
from harness.results.store import Store
from harness.results.study_plan import plan_id
from harness.runner.attempt import recover
from harness.runner.process import Stop, stop_on_signals
from harness.runner.trainer import by_name
from harness.runner.workers import GpuPool, check_gpus
from harness.search import results, storage
from harness.search.base import (
    BaseNoise,
    base_completes,
    noise_from,
    objective_from,
    run_base,
)
from harness.search.candidates import eligible_trials, select_candidates
from harness.search.confirm import Confirmation, Confirmer
from harness.search.objective import Objective, directions, measured_slope
from harness.search.plan import SearchPlan, resolve
from harness.search.results import SearchResult
from harness.search.samplers import create_pruner, create_sampler, is_shared
from harness.search.state import SearchState
from harness.search.trial import TrialResult, TrialRunner, result_of, worker_id
from harness.search.workers import POLL_S, SearchBudget, WorkerPool
from harness.study.budget_limits import RESUME, STOPPED, StopStudy
from harness.study.executor import Command, SilentListener, StudyOptions
from harness.study.run import recovered_message

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage

MAY_DIFFER = ("code_id", "data_id")  # between this machine and the one whose search is reported


class SearchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one command runs a search.

    `worker`: run trials only; another command runs the base and the confirmation. Such a worker
    waits `wait_for_base_minutes` for the base, but not if the base failed after `since` (Unix time
    in seconds; by default the start of this command). `command_line`: stored with the confirmation
    study, without passwords.
    """

    max_minutes: float | None = None
    gpus: list[str] = []
    storage: str | None = None
    worker: bool = False
    wait_for_base_minutes: float = 0.0
    since: float | None = None
    command_line: str = ""


class SearchListener(SilentListener):
    """Receives the progress of a search and of its confirmation study; this one ignores it."""

    def base_ready(self, objective: Objective, noise: BaseNoise) -> None: ...
    def trial_ended(self, number: int, result: TrialResult, values: list[float] | None) -> None: ...


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """How a command ended: exit code, reason, and the result so far; None before the base."""

    exit_code: int
    reason: str
    plan: SearchPlan
    result: SearchResult | None


class SearchEngine:
    """One command of one search."""

    def __init__(
        self,
        file: SearchFile,
        path: Path,
        store: Store,
        options: SearchOptions,
        listener: SearchListener,
        command: Command | None = None,
    ) -> None:
        storage.import_optuna()
        self.file, self.path, self.store = file, path, store
        self.options, self.listener = options, listener
        self.command = command or Command(Stop())
        self.trainer = by_name(file.trainer)
        check_gpus(options.gpus, self.trainer)
        self.url = storage.storage_url(store, file.search, options.storage)
        self.plan = resolve(file, path, self.trainer)
        self.pool = GpuPool(store, self.trainer, options.gpus, file.limits.run_minutes)
        check_settings(file, str(path))
        if not options.worker:
            measured_slope(store, file, self.plan.base.identity, str(path))

    def run(self) -> SearchOutcome:
        """Runs all steps. Raises HarnessError; what was recorded stays."""
        for record in recover(self.store):
            self.listener.message(recovered_message(record))
        self.store.locked().close()  # refuses a file system on which SQLite would wait for a lock
        with storage.open_storage(self.url) as opened:
            self._open_study(opened)
            try:
                with stop_on_signals(self.command.stop):
                    reason, exit_code = self._steps(), errors.PASS
            except StopStudy as stop:
                reason, exit_code = str(stop), stop.exit_code
            result = results.read(self.study, self.store, self.file, self.plan.invalid)
        return SearchOutcome(exit_code=exit_code, reason=reason, plan=self.plan, result=result)

    def best_points(self, count: int) -> list[dict[str, Any]]:
        """Runs base and trials; returns the overrides of the best trials.

        Raises StopStudy at a limit.
        """
        with storage.open_storage(self.url) as opened, stop_on_signals(self.command.stop):
            self._open_study(opened)
            self._trials(*self._base())
            trials = eligible_trials(self.state.trials())
        trials.sort(key=lambda trial: float(trial.values[0]))
        best = [result_of(trial) for trial in trials[:count]]
        return [result.overrides for result in best if result is not None]

    def _open_study(self, opened: "RDBStorage") -> None:
        """Opens the Optuna study, or creates it. Raises StoreError if another search has its name.

        Random samplers of a command that joins a search are seeded by its process, so that they
        propose other points than those of the commands beside it. The command that creates the
        search has no such part in its seeds: its points follow from the search file alone.
        """
        with self.store.locked():
            self.study, created = storage.create_study(
                opened, self.file.search, directions(self.file.objectives)
            )
            self.state = SearchState(self.study)
            self.state.set_fingerprint(self.plan.fingerprint())
        self.state.check_fingerprint(self.plan.fingerprint())
        self.seed_suffix = [] if created else [digest([socket.gethostname(), worker_id()], 16)]

    def _steps(self) -> str:
        objective, noise = self._base()
        self.listener.base_ready(objective, noise)
        if noise.gpus == 0 and self.file.budget.trials is None:
            expected = "a number of trials, because runs use no GPU"
            got = "a budget of GPU time or cost alone"
            hint = "Add trials: the search would never end."
            raise StudyFileError(f"{self.path}: budget", expected, got, hint)
        reason = self._trials(objective, noise)
        if self.options.worker or not self.file.confirm.best:
            return reason
        return self._confirm(noise, reason)

    # the base ---------------------------------------------------------------------------------

    def _base(self) -> tuple[Objective, BaseNoise]:
        """The objective and the noise of the base, measured by this command or by another."""
        if self.options.worker:
            return self._wait_for_base()
        with self.state.base_failure_saved(self.url):
            return self._run_base()

    def _run_base(self) -> tuple[Objective, BaseNoise]:
        minutes = self.options.max_minutes
        deadline = None if minutes is None else self.command.began + 60 * minutes
        records = run_base(self.plan, self.pool, self.command.stop, deadline)
        stored, objective = self.state.noise, self.state.objective
        if stored is None or objective is None:
            objective = objective_from(self.plan, self.store, records)
            if self.plan.start is not None:
                self.study.enqueue_trial(self.plan.start, user_attrs={storage.START: True})
            self.state.objective = objective
        noise = noise_from(objective, self.store, records)
        if stored is None or stored.seeds != noise.seeds:
            self.state.noise = noise
        return objective, noise

    def _wait_for_base(self) -> tuple[Objective, BaseNoise]:
        """The stored objective and noise, once the base has run.

        Raises StoreError after the waiting time or when the base has failed, and StopStudy at
        --max-minutes.
        """
        began, since = self.command.began, self.options.since
        if since is None:
            since = time.time() - (time.monotonic() - began)
        minutes = self.options.max_minutes
        limit_s = math.inf if minutes is None else 60 * minutes
        while (noise := self.state.noise) is None or (objective := self.state.objective) is None:
            if self.command.stop:
                raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED)
            waited_s = time.monotonic() - began
            failure = self.state.base_failure
            failed = failure is not None and failure.at >= since
            if failed or waited_s >= 60 * self.options.wait_for_base_minutes:
                got = f"a base that failed: {failure.reason}" if failure else "none in this storage"
                hint = "Start the search once without --worker; workers can then join it."
                raise StoreError(self.file.search, "a search whose base has run", got, hint)
            if waited_s >= limit_s:
                text = f"The time limit was reached before the base had run. {RESUME}"
                raise StopStudy(errors.STOPPED_AT_LIMIT, text)
            time.sleep(POLL_S)
        return objective, noise

    # the trials -------------------------------------------------------------------------------

    def _trials(self, objective: Objective, noise: BaseNoise) -> str:
        stop = self.command.stop
        workers = WorkerPool(
            lambda gpu: self._worker_study(gpu, noise.evaluations),
            TrialRunner(self.plan, self.pool, objective, stop, self.listener.trial_ended),
            self._budget(noise),
            stop,
            lambda gpu: base_completes(self.plan, self.pool, gpu, stop),
        )
        return workers.run()

    def _budget(self, noise: BaseNoise) -> SearchBudget:
        sampler = create_sampler(self.file, 0, str(self.path), self.plan.start)
        points = sampler.size if is_shared(sampler) else None
        if points is not None and self.plan.start is not None:
            points += 1
        began, minutes = self.command.began, self.options.max_minutes
        return SearchBudget(self.file, noise, began, minutes, points)

    def _worker_study(self, gpu: str, evaluations: int) -> "Study":
        """The study with a sampler for one worker; its seed differs from all other workers'.

        A copy shares the storage, which keeps ended trials in memory: thousands take seconds to
        read.
        """
        parts = [self.file.search, self.file.seed, gpu, len(self.state.trials())]
        seed = int(digest([*parts, *self.seed_suffix], 8), 16)
        study = copy.copy(self.study)
        sampler = create_sampler(self.file, seed, str(self.path), self.plan.start)
        study.sampler = sampler
        if is_shared(sampler):
            sampler.whole = study
        study.pruner = create_pruner(self.file.pruner, evaluations, str(self.path))
        return study

    # the confirmation -------------------------------------------------------------------------

    def _confirm(self, noise: BaseNoise, reason: str) -> str:
        file, trials = self.file, self.state.trials()
        base = plan_id(self.state.base_identity, file.seed)
        candidates = select_candidates(trials, file.objectives, noise, file.confirm.best, base)
        if not candidates:
            return f"{reason} There is nothing to confirm."
        options = StudyOptions(max_minutes=self.options.max_minutes, gpus=self.options.gpus)

        def save(confirmation: Confirmation) -> None:
            self.state.confirmation = confirmation

        confirmer = Confirmer(self.plan, self.store, options, self.command, self.listener)
        line = self.options.command_line
        unfinished = confirmer.run(candidates, len(trials), self.state.confirmation, save, line)
        if unfinished is not None:
            raise StopStudy(errors.COULD_NOT_RUN, unfinished)
        return reason


def run_search(
    file: SearchFile,
    path: Path,
    store: Store,
    options: SearchOptions,
    listener: SearchListener | None = None,
) -> SearchOutcome:
    """Runs a search, or resumes it, and returns how it ended with the result so far."""
    return SearchEngine(file, path, store, options, listener or SearchListener()).run()


def read_search(
    file: SearchFile, path: Path, store: Store, url: str | None, listener: SearchListener
) -> SearchOutcome:
    """The result so far, from all commands that run the search; starts no run."""
    plan, result = resolve(file, path, by_name(file.trainer), prepares=False), None
    if url is not None or store.search_path(file.search).exists():
        with storage.open_storage(storage.storage_url(store, file.search, url)) as opened:
            if (study := storage.stored_study(opened, file.search)) is not None:
                state = SearchState(study)
                state.check_fingerprint(plan.fingerprint(), MAY_DIFFER)
                if plan.base.identity.code_id != state.base_identity.code_id:
                    listener.message("The search ran on other code than this checkout's.")
                result = results.read(study, store, file, plan.invalid)
    reason = "" if result is not None else f"The search {file.search} has no results yet."
    return SearchOutcome(exit_code=errors.PASS, reason=reason, plan=plan, result=result)


def check_settings(file: SearchFile, where: str) -> None:
    """Raises StudyFileError for a sampler or pruner that Optuna does not have."""
    create_sampler(file, 0, where)
    create_pruner(file.pruner, 2, where)


def blockers(plan: SearchPlan, store: Store, options: SearchOptions) -> list[str]:
    """Why the search could not start now. Starts and writes nothing.

    Raises StudyFileError and UsageError for faults of the file and of the command line.
    """
    file, where = plan.file, str(plan.path)
    prepared = plan.base.identity.data_id is not None

    def slope() -> None:
        if prepared:
            measured_slope(store, file, plan.base.identity, where)
        elif file.slope_from is not None:
            store.study(file.slope_from)

    def stored() -> None:
        if options.storage is None and store.search_path(file.search).exists():
            with storage.open_storage(storage.storage_url(store, file.search, None)) as opened:
                if (study := storage.stored_study(opened, file.search)) is not None:
                    ignore = () if prepared else ("data_id",)
                    SearchState(study).check_fingerprint(plan.fingerprint(), ignore)

    checks: list[Callable[[], None]] = [
        lambda: check_settings(file, where),
        lambda: check_gpus(options.gpus, by_name(file.trainer)),
        slope,
        stored,
    ]
    found = []
    for one in checks:
        try:
            one()
        except HarnessError as error:
            if error.exit_code == errors.USAGE:
                raise
            found.append(str(error))
    return list(dict.fromkeys(found))


def with_overrides(file: SearchFile, *, sets: dict[str, Any], price: float | None) -> SearchFile:
    """A search file with the command line's overrides."""
    limits = file.limits
    if price is not None:
        limits = msgspec.structs.replace(limits, price=price)
    new = msgspec.structs.replace(file, set={**file.set, **sets}, limits=limits)
    check(new, lambda field: f"command line, in place of {field}")
    return new
