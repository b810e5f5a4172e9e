"""Launches the run of a job: attempt by attempt, monitored, resumed after interruptions.

A lost rank, a lost node or a preemption ends an attempt and not the job: the next attempt resumes
from the newest checkpoint, as long as each got further than the one before. A run that diverges or
runs out of memory is a result, not an error, and is not repeated.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from harness import errors, files
from harness.format import duration
from harness.full.listener import FullListener
from harness.full.monitor import Alert, MonitorSettings, RunMonitor
from harness.full.plan import JobPlan
from harness.results import stored_file
from harness.results.record import FINAL_STATUSES, Record
from harness.results.run_files import Progress
from harness.results.store import Store
from harness.runner.attempt import newest_checkpoint, run_attempt
from harness.runner.process import Stop
from harness.runner.replicates import lock_plan, recorded_run
from harness.runner.replies import PreflightFinding
from harness.runner.trainer import NativeTrainer
from harness.study.budget_limits import RESUME, STOPPED

ALERTS = "alerts.json"


class Deadline(Stop):
    """Stops a run when the command is stopped, or at a moment of time.monotonic()."""

    def __init__(self, command: Stop, deadline: float, reason: str) -> None:
        """`reason`: a sentence about the deadline."""
        super().__init__(command)
        self._deadline, self._reason = deadline, reason

    def __bool__(self) -> bool:
        return super().__bool__() or time.monotonic() >= self._deadline

    @property
    def reason(self) -> str:
        """Why the run stops."""
        return STOPPED if self.command else self._reason


class LaunchResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a launch ended: the last record, the exit code and the reason."""

    record: Record | None
    exit_code: int
    reason: str


class JobLauncher:
    """The attempts of one command at a job. `folder`: the job's, where alerts are stored."""

    def __init__(
        self,
        plan: JobPlan,
        store: Store,
        trainer: NativeTrainer,
        settings: MonitorSettings,
        folder: Path,
        listener: FullListener,
    ) -> None:
        self.plan, self.store, self.trainer = plan, store, trainer
        self.settings, self.folder, self.listener = settings, folder, listener
        stored = files.read_json(folder / ALERTS)
        self.alerts = stored_file.convert(stored or [], list[Alert], folder / ALERTS, "alerts")

    def run(
        self, until: Deadline, check_machine: Callable[[], Sequence[PreflightFinding]]
    ) -> LaunchResult:
        """Attempts until one has a final status. `check_machine`: errors that forbid another one.

        Raises StoreError if another harness works on the run, and DiskError.
        """
        with lock_plan(self.store, self.plan.job):
            final = recorded_run(self.store, self.plan.job, ())
            restarts = 0
            while final is None:
                if until:
                    return LaunchResult(
                        record=None, exit_code=errors.STOPPED_AT_LIMIT, reason=until.reason
                    )
                record, advanced = self._attempt(until)
                if record.status in FINAL_STATUSES:
                    final = record
                elif until:
                    continue
                elif why := self._no_restart(record, restarts, advanced, check_machine):
                    if not until:  # otherwise the stop during the machine check is the reason
                        return LaunchResult(
                            record=record, exit_code=errors.COULD_NOT_RUN, reason=why
                        )
                else:
                    restarts += 1
                    self._report_restart(record, restarts)
        return final_result(final)

    def _attempt(self, until: Deadline) -> tuple[Record, bool]:
        """One attempt, and whether it got further than all before it."""
        attempts = self.store.attempts(self.plan.job.plan_id)
        before = max((self._checkpoint(one) for one in attempts), default=0)
        spent_s = sum(record.wall_s for record in attempts)
        settings = msgspec.structs.replace(self.settings, spent_s=spent_s)
        monitor = RunMonitor(settings, began_s=time.time(), raised=self.alerts)

        def on_progress(progress: Progress) -> None:
            now_s = time.time()
            free_bytes = shutil.disk_usage(self.store.root).free
            for alert in monitor.check(progress, now_s, free_bytes):
                self._store_alert(alert)
                self.listener.alert(alert)
            self.listener.attempt_progress(monitor.status(progress, now_s))

        self.listener.attempt_started()
        try:
            record = run_attempt(
                self.store,
                self.trainer,
                self.plan.job,
                timeout_s=float("inf"),  # `until` leaves a checkpoint, a time-out does not
                stop=until,
                on_progress=on_progress,
                after_failure=True,
            )
        finally:
            self.listener.attempt_ended()
        first = not attempts and record.steps > 0
        return record, first or self._checkpoint(record) > before

    def _checkpoint(self, record: Record) -> int:
        """The step from which another attempt would resume."""
        return newest_checkpoint(self.store.run_dir(record.plan_id, record.attempt))

    def _store_alert(self, alert: Alert) -> None:
        self.alerts.append(alert)
        files.write_json(self.folder / ALERTS, msgspec.to_builtins(self.alerts))

    def _no_restart(
        self,
        record: Record,
        restarts: int,
        advanced: bool,
        check_machine: Callable[[], Sequence[PreflightFinding]],
    ) -> str | None:
        """Why there is no further attempt; None if there is one."""
        ended = f"The run {record.status} at step {record.steps:,}: {record.reason}."
        if not advanced:
            hint = record.hint or "Read its log."
            return f"{ended} It got no further than the attempt before. {hint} {RESUME}"
        if restarts >= self.plan.file.limits.restarts:
            times = "once" if restarts == 1 else f"{restarts} times"
            return f"{ended} It was already restarted {times} (limits.restarts). {RESUME}"
        if blocking := check_machine():
            faults = "; ".join(f"{one.what}: {one.got}. {one.hint or ''}" for one in blocking)
            return f"{ended} The machine failed the preflight: {faults} {RESUME}"
        return None

    def _report_restart(self, record: Record, restarts: int) -> None:
        step = self._checkpoint(record)
        start = f"the checkpoint of step {step:,}" if step else "its first step"
        self.listener.message(
            f"The run {record.status} at step {record.steps:,} after {duration(record.wall_s)}: "
            f"{record.reason}. It resumes from {start} "
            f"(restart {restarts} of {self.plan.file.limits.restarts})."
        )


def final_result(record: Record) -> LaunchResult:
    """The result of a job whose run has a final record."""
    if record.status == "completed":
        return LaunchResult(record=record, exit_code=errors.PASS, reason="")
    status = record.status.replace("_", " ")
    hint = record.hint or "Change the recipe."
    return LaunchResult(
        record=record,
        exit_code=errors.COULD_NOT_RUN,
        reason=f"The run ended as {status} at step {record.steps:,}: {record.reason}. {hint} "
        "The run would fail again, so it is not repeated.",
    )
