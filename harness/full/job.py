"""Runs a full job: `run_full` goes from preflight and forecast to the leaderboard entry.

Plans the job, checks the machine, forecasts the result, runs a step test, estimates time and cost,
launches the run, monitors it and finalizes it. Every step starts from what is recorded, so that
the same command resumes wherever it was stopped. What happens is reported to a `FullListener`.
"""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import msgspec

from harness import errors, files
from harness.comparison.noise_model import NoiseModel
from harness.config.full_file import FullFile
from harness.errors import StoreError
from harness.files import lock_file
from harness.format import plural
from harness.full import artifacts
from harness.full.finalize import ENTRY, FORECAST, Finalizer
from harness.full.job_forecast import JobForecast, estimate_cost, forecast_job
from harness.full.launch import Deadline, JobLauncher, LaunchResult, final_result
from harness.full.leaderboard import LeaderboardEntry
from harness.full.listener import FullListener
from harness.full.monitor import MonitorSettings
from harness.full.plan import JobPlan, check_name, plan_job, store_plan
from harness.full.preflight import Preflight, PreflightRunner, time_limit
from harness.full.proxy_runs import (
    completed_proxies,
    failed_proxies,
    missing_proxies,
    run_proxies,
)
from harness.gate import baseline
from harness.gate.noise_sources import load_noise_model
from harness.results.record import Record
from harness.results.store import Store
from harness.runner.attempt import recover
from harness.runner.multinode import multinode_command
from harness.runner.process import Stop, stop_on_signals
from harness.runner.replicates import recorded_run
from harness.runner.stepper import StepperStopped
from harness.runner.trainer import NativeTrainer, by_name
from harness.study.budget_limits import RESUME
from harness.study.run import recovered_message

PREFLIGHT = "preflight"
NOTHING_STARTED = "Nothing was started."


class FullOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How far one command goes, and where stored noise and baselines are."""

    noise_model: Path
    baselines: Path
    dry_run: bool = False
    preflight_only: bool = False
    proxies: bool = False
    without_forecast: bool = False
    max_minutes: float | None = None
    artifacts: Path | None = None


class FinishedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A completed job: its leaderboard entry, the forecast before it and its loss curve."""

    entry: LeaderboardEntry
    forecast: JobForecast
    loss_points: list[tuple[float, float]]


class FullResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended. `data`: everything that it found, as plain values."""

    exit_code: int
    reason: str
    data: dict[str, Any]
    finished: FinishedJob | None = None


def run_full(
    file: FullFile,
    path: Path,
    store: Store,
    options: FullOptions,
    listener: FullListener | None = None,
) -> FullResult:
    """Runs or resumes a full job. Raises HarnessError; everything recorded is kept."""
    return FullJob(file, path, store, options, listener or FullListener()).run()


class FullJob:
    """One command of one job."""

    def __init__(
        self,
        file: FullFile,
        path: Path,
        store: Store,
        options: FullOptions,
        listener: FullListener,
    ) -> None:
        self.file, self.path, self.store = file, path, store
        self.options, self.listener = options, listener
        self.trainer = multinode_trainer(by_name(file.trainer), file)
        self.folder = artifacts.job_dir(store, file.full)
        self.stop, self.began = Stop(), time.monotonic()
        self.until = self._deadline(math.inf)
        self.stored: baseline.Baseline | None = None
        self.data: dict[str, Any] = {"full": file.full}

    def run(self) -> FullResult:
        """All steps of the command. A dry run only reads the store, also beside a running job."""
        reads = self.options.dry_run
        with nullcontext() if reads else self._job_lock(), stop_on_signals(self.stop):
            for record in () if reads else recover(self.store):
                self.listener.message(recovered_message(record))
            try:
                return self._run()
            except StepperStopped:
                return self._result(errors.STOPPED_AT_LIMIT, self.until.reason)

    def _run(self) -> FullResult:
        if self.file.baseline is not None:  # an unknown name is an error before anything else
            self.stored = baseline.find(self.options.baselines, self.file.baseline)
        plan = plan_job(self.file, self.path, self.trainer, prepare=False)
        check_name(self.folder, plan, self.store)
        if not self.options.proxies:
            final = recorded_run(self.store, plan.job, ())
            if final is not None:
                if not self.options.dry_run:
                    store_plan(self.folder, plan, self.path, self.store)
                return self._finalize(plan, final)
        if self.options.dry_run:
            return self._dry_run(plan)
        return self._prepare(plan)

    def _prepare(self, plan: JobPlan) -> FullResult:
        """Requirements and data; then the proxies or the job."""
        runner = self._preflight_runner(plan, self.folder)
        preflight = runner.requirements()
        if preflight.errors and not self.options.proxies:
            self._report_preflight(preflight)
            return self._result(errors.COULD_NOT_RUN, NOTHING_STARTED)
        if not plan.data_ready:
            plan = plan_job(self.file, self.path, self.trainer)
            preflight = runner.requirements()
        store_plan(self.folder, plan, self.path, self.store)
        if self.stored is not None:  # a baseline of another recipe cannot decide anything
            baseline.check_comparable(self.stored, plan.job.identity, own_settings=False)
        if self.options.proxies:
            return self._run_proxies(plan)
        return self._run_job(plan, runner, preflight)

    def _preflight_runner(self, plan: JobPlan, config_folder: Path) -> PreflightRunner:
        """`config_folder`: where the configuration is written for the trainer."""
        return PreflightRunner(
            self.trainer,
            plan.job.config,
            self.file.ranks,
            self.folder,
            self.until,
            self.file.nodes,
            config_folder.resolve() / "config.json",
        )

    def _run_job(self, plan: JobPlan, runner: PreflightRunner, preflight: Preflight) -> FullResult:
        """Forecast, probe, step test and cost; then the run, unless an error forbids it."""
        records, noise_model = completed_proxies(plan, self.store), self._noise_model()
        forecast = forecast_job(plan, self.store, records, noise_model)
        self._report_forecast(plan, forecast)
        if self._lacks_forecast(forecast):
            return self._result(errors.COULD_NOT_RUN, NOTHING_STARTED)
        preflight = self._measure(runner, preflight, plan.stages)
        cost = estimate_cost(plan, self.store, records, noise_model, preflight)
        forecast = msgspec.structs.replace(forecast, cost=cost)
        if cost is not None:
            preflight = preflight.extended(
                [time_limit(plan, cost.wall_s.high, self.store.attempts(plan.job.plan_id))]
            )
        self._report_preflight(preflight)
        if cost is not None:
            self.listener.cost_estimated(cost)
        self._store_forecast(plan, forecast)
        if preflight.errors:
            return self._result(errors.COULD_NOT_RUN, NOTHING_STARTED)
        if self.options.preflight_only:
            return self._result(errors.PASS, "The job can start on this machine.")
        return self._launch(plan, forecast, preflight, runner)

    # --- before the run ---------------------------------------------------------------------------

    def _dry_run(self, plan: JobPlan) -> FullResult:
        """Forecast and requirements; prepares nothing and uses no GPU."""
        with TemporaryDirectory() as scratch:
            preflight = self._preflight_runner(plan, Path(scratch)).requirements()
        records = completed_proxies(plan, self.store)
        forecast = forecast_job(plan, self.store, records, self._noise_model())
        self._report_forecast(plan, forecast)
        self._report_preflight(preflight)
        more = "`--preflight` also measures the GPUs and runs a step test."
        faults = []
        if preflight.errors:
            faults.append(f"the preflight found {plural(len(preflight.errors), 'error')}")
        if self._lacks_forecast(forecast):
            faults.append("there is no forecast")
        if faults:
            text = f"Dry run: the job cannot start, {' and '.join(faults)}. {more}"
            return self._result(errors.COULD_NOT_RUN, text)
        return self._result(errors.PASS, f"Dry run: the requirements are met. {more}")

    def _lacks_forecast(self, forecast: JobForecast) -> bool:
        """Whether the command may not start the job, because it has no forecast."""
        options = self.options
        optional = options.without_forecast or options.preflight_only or options.proxies
        return forecast.forecast is None and not optional

    def _measure(
        self, runner: PreflightRunner, preflight: Preflight, stages: Sequence[int]
    ) -> Preflight:
        """Probes the ranks; then the step test, unless the probe found an error."""
        preflight = runner.probe(preflight)
        if self.until:
            raise StepperStopped
        if not preflight.errors and self.trainer.paces:
            preflight = runner.step_test(preflight, self.file.step_test_seconds, stages)
        return preflight

    def _report_forecast(self, plan: JobPlan, forecast: JobForecast) -> None:
        self.listener.forecast_made(forecast)
        self._store_forecast(plan, forecast)

    def _store_forecast(self, plan: JobPlan, forecast: JobForecast) -> None:
        """Keeps the forecast from before the first attempt: the run is checked against it."""
        launched = self.store.attempts(plan.job.plan_id)
        if launched and (self.folder / f"{FORECAST}.json").exists():
            self.data[FORECAST] = msgspec.to_builtins(forecast)
        else:
            self._store(FORECAST, forecast)

    def _report_preflight(self, preflight: Preflight) -> None:
        every = self.options.preflight_only or self.options.dry_run
        self.listener.preflight_done(preflight, every_finding=every)
        self._store(PREFLIGHT, preflight)

    # --- proxies ----------------------------------------------------------------------------------

    def _run_proxies(self, plan: JobPlan) -> FullResult:
        todo = missing_proxies(plan, self.store)
        self.listener.message(
            f"{plural(len(plan.proxies), 'proxy', 'proxies')}, {len(todo)} to run"
        )
        until = self._deadline(math.inf)
        run_proxies(todo, plan, self.store, self.trainer, until, self.listener)
        records = completed_proxies(plan, self.store)
        self._report_forecast(plan, forecast_job(plan, self.store, records, self._noise_model()))
        if len(records) == len(plan.proxies):
            return self._result(errors.PASS, "All proxies are recorded.")
        if until:
            return self._result(errors.STOPPED_AT_LIMIT, until.reason)
        if failed := failed_proxies(plan, self.store):
            names = "; ".join(
                f"{one.proxy.label} ({one.record.status})" for one in failed if one.record
            )
            return self._result(
                errors.COULD_NOT_RUN,
                f"Not completed: {names}. These proxies would fail again: change proxies.values or "
                "proxies.set.",
            )
        text = "Not all proxies were completed. Re-run the same command to run the others."
        return self._result(errors.COULD_NOT_RUN, text)

    # --- the run ----------------------------------------------------------------------------------

    def _deadline(self, left_s: float) -> Deadline:
        """The earlier of the command's --max-minutes and the job's limits.hours."""
        ends = [(time.monotonic() + left_s, f"limits.hours is reached. Raise it. {RESUME}")]
        if (minutes := self.options.max_minutes) is not None:
            text = f"--max-minutes {minutes:g} is reached. {RESUME}"
            ends.append((self.began + 60 * minutes, text))
        moment, reason = min(ends)
        return Deadline(self.stop, moment, reason)

    def _launch(
        self, plan: JobPlan, forecast: JobForecast, preflight: Preflight, runner: PreflightRunner
    ) -> FullResult:
        attempts = self.store.attempts(plan.job.plan_id)
        if not attempts:  # a resumed run has the code of its first attempt
            artifacts.save_code(self.folder, self.trainer.checkout)
        settings = MonitorSettings(
            steps=plan.steps,
            ranks=self.file.ranks,
            price_usd_per_gpu_hour=self.file.price_usd_per_gpu_hour,
            envelope=forecast.envelope,
            cost=forecast.cost,
            checkpoint_bytes=preflight.checkpoint_bytes,
        )
        launcher = JobLauncher(plan, self.store, self.trainer, settings, self.folder, self.listener)
        spent_s = sum(record.wall_s for record in attempts)
        result = launcher.run(
            self._deadline(3600 * self.file.limits.hours - spent_s),
            lambda: runner.probe(runner.requirements()).errors,
        )
        self.data["alerts"] = msgspec.to_builtins(launcher.alerts)
        if result.record is None or result.exit_code != errors.PASS:
            return self._unfinished(result)
        return self._finalize(plan, result.record)

    def _unfinished(self, result: LaunchResult) -> FullResult:
        if (record := result.record) is not None:
            folder = self.store.run_dir(record.plan_id, record.attempt)
            self.listener.message(record.log_tail or "")
            self.listener.message(f"run directory: {folder}")
        return self._result(result.exit_code, result.reason)

    # --- after the run ----------------------------------------------------------------------------

    def _finalize(self, plan: JobPlan, record: Record) -> FullResult:
        """The leaderboard entry, its comparison with the baseline, the artifact bundle."""
        result = final_result(record)
        if result.exit_code != errors.PASS:
            return self._result(result.exit_code, result.reason)
        finalizer = Finalizer(self.store, self.file, record, self._noise_model(), self.stored)
        entry, code = finalizer.entry()
        self._store(ENTRY, entry)
        self.listener.entry_made(entry, finalizer.checks(entry))
        if not self.options.dry_run:
            finalizer.write(entry)
            self._bundle(finalizer, plan)
        finished = FinishedJob(
            entry=entry, forecast=finalizer.forecast, loss_points=finalizer.loss_points()
        )
        return self._result(code, "", finished)

    def _bundle(self, finalizer: Finalizer, plan: JobPlan) -> None:
        out = self.options.artifacts
        if out is None:
            text = "`--artifacts OUT.tar` packs the records, curves and findings of the job."
        else:
            count = finalizer.bundle(out, completed_proxies(plan, self.store))
            text = f"artifact bundle: {out} ({plural(count, 'file')})"
        self.listener.message(text)

    # --- shared -----------------------------------------------------------------------------------

    def _noise_model(self) -> NoiseModel:
        return load_noise_model(self.options.noise_model, self.store)

    def _store(self, name: str, value: msgspec.Struct) -> None:
        """Stores a part of the result with the job, except in a dry run."""
        self.data[name] = msgspec.to_builtins(value)
        if not self.options.dry_run:
            files.write_json(self.folder / f"{name}.json", self.data[name])

    def _result(self, code: int, reason: str, finished: FinishedJob | None = None) -> FullResult:
        self.data.update(reason=reason or None, exit_code=code)
        return FullResult(exit_code=code, reason=reason, data=self.data, finished=finished)

    def _job_lock(self) -> IO[bytes]:
        """The lock of the job. Raises StoreError while another harness works on the job."""
        handle = lock_file(self.folder / "lock")
        if handle is None:
            expected = f"one harness at work on the job {self.file.full!r}"
            hint = "Wait until it ends, or use another --store."
            raise StoreError(str(self.store.root), expected, "another one is running", hint)
        return handle


def multinode_trainer(trainer: NativeTrainer, file: FullFile) -> NativeTrainer:
    """The trainer; with several nodes, its ranks start on all nodes of the allocation."""
    if file.nodes > 1:

        def launcher(python: str, argv: Sequence[str], ranks: int) -> list[str]:
            return multinode_command(argv, file.nodes, ranks // file.nodes, python=python)

        trainer.launcher = launcher
    return trainer
