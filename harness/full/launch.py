"""The run of a job, attempt by attempt: started, followed, gone on with after what was no fault.

A lost rank, a node that vanished and a preemption end an attempt and not the job: the next one goes
on from the newest checkpoint, as long as each got further than the one before. Divergence and want
of memory are answers: they would come again. After `watch` and what shows it.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness import errors, files
from harness.full.monitor import Alert, Course, RunMonitor
from harness.full.plan import JobPlan
from harness.report.full.progress import JobProgress
from harness.report.full.terminal import duration, say
from harness.results.record import FINAL_STATUSES, Record
from harness.results.run_files import Progress
from harness.results.store import Store
from harness.runner.attempt import newest_checkpoint, run_attempt
from harness.runner.process import Stop
from harness.runner.replicates import lock_plan, recorded_run
from harness.runner.trainer import NativeTrainer, PreflightFinding
from harness.study.budget_limits import STOPPED

if TYPE_CHECKING:
    from rich.console import Console

ALARMS = "alarms.json"
GOES_ON = "The same command goes on."


class Until(Stop):
    """Asks the run to end when the command is asked to, or at a moment of time.monotonic()."""

    def __init__(self, command: Stop, deadline: float, reason: str) -> None:
        """`reason`: what the moment is, as a sentence."""
        super().__init__()
        self._command, self._deadline, self._reason = command, deadline, reason

    def __bool__(self) -> bool:
        return bool(self._command) or time.monotonic() >= self._deadline

    @property
    def hurried(self) -> bool:
        return self._command.hurried

    @property
    def reason(self) -> str:
        """Why it asks."""
        return STOPPED if self._command else self._reason


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a launch ended: with an answer, or with an exit code and the reason."""

    record: Record | None
    exit_code: int
    reason: str


class JobLauncher:
    """One command's attempts at a job. `folder`: of the job, where alarms are kept."""

    def __init__(
        self,
        console: "Console",
        plan: JobPlan,
        store: Store,
        trainer: NativeTrainer,
        course: Course,
        folder: Path,
    ) -> None:
        self.console, self.plan, self.store, self.trainer = console, plan, store, trainer
        self.course, self.folder = course, folder
        kept = files.read_json(folder / ALARMS)
        self.alarms: list[Alert] = msgspec.convert(kept or [], list[Alert])

    def run(self, until: Until, look_again: Callable[[], Sequence[PreflightFinding]]) -> End:
        """Attempts until one is an answer. `look_again`: what keeps the machine from another one.

        Raises StoreError where another harness is at work on it, and DiskError.
        """
        with lock_plan(self.store, self.plan.job):
            found = recorded_run(self.store, self.plan.job, ())
            restarts = 0
            while found is None:
                if until:
                    reason = until.reason
                    return End(record=None, exit_code=errors.STOPPED_AT_LIMIT, reason=reason)
                made, further = self._attempt(until)
                if made.status in FINAL_STATUSES:
                    found = made
                elif until:
                    continue
                elif why := self._no_restart(made, restarts, further, look_again):
                    if not until:  # asked to end while it looked again: that is the reason then
                        return End(record=made, exit_code=errors.COULD_NOT_RUN, reason=why)
                else:
                    restarts += 1
                    self._tell_restart(made, restarts)
        return answer(found)

    def _attempt(self, until: Until) -> tuple[Record, bool]:
        """One attempt, and whether it got further than all before it."""
        attempts = self.store.attempts(self.plan.job.plan_id)
        before = max((self._reached(one) for one in attempts), default=0)
        course = msgspec.structs.replace(self.course, spent_s=sum(made.wall_s for made in attempts))
        watch = RunMonitor(course, began_s=time.time(), said=self.alarms)
        with JobProgress(self.console, self.plan.file.full) as live:

            def hear(progress: Progress) -> None:
                now_s = time.time()
                free_bytes = shutil.disk_usage(self.store.root).free
                for alarm in watch.look(progress, now_s, free_bytes):
                    self._keep(alarm)
                    live.alarm(alarm)
                live.show(watch.standing(progress, now_s))

            made = run_attempt(
                self.store,
                self.trainer,
                self.plan.job,
                timeout_s=float("inf"),  # `until` leaves a checkpoint behind, a time-out does not
                stop=until,
                on_progress=hear,
                after_failure=True,
            )
        first = not attempts and made.steps > 0
        return made, first or self._reached(made) > before

    def _reached(self, made: Record) -> int:
        """The step that another attempt would go on from."""
        return newest_checkpoint(self.store.run_dir(made.plan_id, made.attempt))

    def _keep(self, alarm: Alert) -> None:
        self.alarms.append(alarm)
        files.write_json(self.folder / ALARMS, msgspec.to_builtins(self.alarms))

    def _no_restart(
        self,
        made: Record,
        restarts: int,
        further: bool,
        look_again: Callable[[], Sequence[PreflightFinding]],
    ) -> str | None:
        """Why no other attempt is made now; None where one is."""
        ended = f"The run {made.status} at step {made.steps:,}: {made.reason}."
        if not further:
            return f"{ended} It got no further than before, so it is not tried again. " + (
                f"{made.hint or 'Its log has more.'} {GOES_ON}"
            )
        if restarts >= self.plan.file.limits.restarts:
            return f"{ended} It was restarted {restarts} times (limits.restarts). {GOES_ON}"
        if stops := look_again():
            faults = "; ".join(f"{one.what}: {one.got}. {one.hint or ''}" for one in stops)
            return f"{ended} The machine is not fit to go on: {faults} {GOES_ON}"
        return None

    def _tell_restart(self, made: Record, restarts: int) -> None:
        step = self._reached(made)
        whence = f"the checkpoint of step {step:,}" if step else "its first step"
        limit = self.plan.file.limits.restarts
        say(
            self.console,
            f"The run {made.status} at step {made.steps:,} after {duration(made.wall_s)}: "
            f"{made.reason}. It goes on from {whence} (restart {restarts} of {limit}).",
        )


def answer(found: Record) -> End:
    """What a record that answers for the job ends it with."""
    if found.status == "completed":
        return End(record=found, exit_code=errors.PASS, reason="")
    status = found.status.replace("_", " ")
    reason = f"The run ended as {status} at step {found.steps:,}: {found.reason}. "
    hint = found.hint or "Change the recipe."
    return End(
        record=found,
        exit_code=errors.COULD_NOT_RUN,
        reason=f"{reason}{hint} It would end so again, and is not made again.",
    )
