"""One trial: a point of the space, made or found as an ordinary run, watched, and told to Optuna.

A record that answers for the point already is told instead of being made again. While a run is at
work its evaluations are told too, and where the pruner gives it up it is ended at once: it keeps
its partial record, of status `interrupted` with that reason, and its checkpoints. A point that the
trainer refuses, and a run that diverges, dies or runs out of memory, is told as a pruned trial that
never got anywhere: Optuna's samplers leave failed trials out, but learn from pruned ones where not
to go. What a trial was stands in its user attributes, the store being possibly another machine's.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from harness.metrics import COMPARED
from harness.results import run_files
from harness.results.record import LaunchInfo, Record
from harness.results.run_files import Progress
from harness.runner import process
from harness.runner.attempt import RunSpec
from harness.runner.process import Stop
from harness.runner.workers import GpuPool
from harness.search.objective import Objective
from harness.search.plan import SearchPlan
from harness.search.storage import retry_later

if TYPE_CHECKING:
    import pyarrow as pa
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

Outcome = str  # a record's status, or: refused, pruned, unmeasured


class Interrupted(Exception):
    """The command was stopped before the trial had an answer; the next command makes it again."""


class TrialStop(Stop):
    """Ends one run: with its command, or because its trial is pruned."""

    def __init__(self, command: Stop) -> None:
        super().__init__()
        self._command = command

    def __bool__(self) -> bool:
        return bool(self._command) or self.requests > 0

    @property
    def cause(self) -> str:
        return "stopped" if self._command else "pruned"

    @property
    def hurried(self) -> bool:
        return self._command.hurried


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a trial, as its user attribute `told` has it."""

    outcome: Outcome
    reason: str | None = None
    overrides: dict[str, Any] = {}
    plan_id: str | None = None
    recorded: bool = False  # before the trial: it cost nothing
    metrics: dict[str, float | None] = {}
    steps: int = 0
    wall_s: float = 0.0
    gpu_s: float = 0.0


def told(trial: "FrozenTrial") -> TrialResult | None:
    """What became of a trial; None while it is at work, and where its worker died.

    A worker that dies between telling this and ending its trial leaves a failed trial that has it.
    """
    value = trial.user_attrs.get("told")
    return None if value is None else msgspec.convert(value, TrialResult)


def worker() -> dict[str, Any]:
    """This process, so that a later command on this machine knows whether it is still alive."""
    return {
        "boot": run_files.boot_id(),
        "pid": os.getpid(),
        "ticks": process.start_ticks(os.getpid()),
    }


def is_gone(mark: dict[str, Any]) -> bool:
    """Whether the process of a mark was one of this boot of this machine, and has ended."""
    here = bool(mark.get("boot")) and mark.get("boot") == run_files.boot_id()
    return here and process.start_ticks(int(mark["pid"])) != mark["ticks"]


class TrialRunner:
    """Makes trials of one search; called by Optuna once a trial."""

    def __init__(
        self,
        plan: SearchPlan,
        slots: GpuPool,
        objective: Objective,
        stop: Stop,
        ended: Callable[[int, TrialResult, list[float] | None], None],
    ) -> None:
        self.plan, self.slots, self.objective = plan, slots, objective
        self.stop, self.ended = stop, ended

    def __call__(self, trial: "Trial", slot: str) -> list[float]:
        """The values of a trial. Raises TrialPruned, Interrupted, TrainerError and DiskError."""
        from optuna import TrialPruned

        trial.set_user_attr("worker", worker())
        candidate = self.plan.candidate(self.plan.space.suggest(trial))
        if candidate.recipe is None:
            fault = candidate.faults[0]
            reason = f"{fault.path}: expected {fault.expected}; got {fault.got}"
            answer = TrialResult(outcome="refused", reason=reason, overrides=candidate.overrides)
            self._tell(trial, answer, None)
            raise TrialPruned(reason)
        launch = LaunchInfo(study=self.plan.file.search, arm=f"trial_{trial.number}")
        job = msgspec.structs.replace(candidate.recipe.job(self.plan.file.seed), launch=launch)
        answer = self._pruned_before(trial, job) or self._made(trial, job, slot)
        answer = msgspec.structs.replace(answer, overrides=candidate.overrides)
        completed = answer.outcome == "completed"
        values = self.objective.values(answer.metrics) if completed else None
        if completed and values is None:
            answer = msgspec.structs.replace(answer, outcome="unmeasured")
        self._tell(trial, answer, values)
        if values is None:
            raise TrialPruned(answer.reason or answer.outcome)
        return values

    def _tell(self, trial: "Trial", answer: TrialResult, values: list[float] | None) -> None:
        violations = self.objective.violations(answer.metrics)
        if answer.outcome == "out_of_memory" and "peak_memory_bytes" in self.objective.bounds:
            violations["peak_memory_bytes"] = 1.0  # more than there is
        for metric, beyond in violations.items():
            trial.set_constraint(metric, beyond)
        trial.set_user_attr("told", msgspec.to_builtins(answer))
        self.ended(trial.number, answer, values)

    def _pruned_before(self, trial: "Trial", job: RunSpec) -> TrialResult | None:
        """The answer of an earlier trial at this very point that was pruned: it would be again."""
        from optuna.trial import TrialState

        for other in trial.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)):
            before = told(other)
            if before is None or before.plan_id != job.plan_id or before.outcome != "pruned":
                continue
            for number, value in other.intermediate_values.items():
                trial.report(value, number)
            return msgspec.structs.replace(before, recorded=True, wall_s=0.0, gpu_s=0.0)
        return None

    def _made(self, trial: "Trial", job: RunSpec, slot: str) -> TrialResult:
        """The answer of the point's record, which is made where there is none."""
        stop = TrialStop(self.stop)
        watch = TrialWatcher(trial, self.objective.watched, stop)
        record, fresh = self.slots.make(job, slot, stop, watch)
        interrupted = record is not None and record.status == "interrupted"
        if record is None or (interrupted and stop.cause == "stopped"):
            raise Interrupted
        if not fresh and watch.metric is not None:
            curve = self.slots.store.curve(job.plan_id)
            watch.read(curve)
        ended = "pruned" if stop else "failed"  # else by somebody else than this search
        return TrialResult(
            outcome=ended if interrupted else record.status,
            reason=record.reason,
            plan_id=job.plan_id,
            recorded=not fresh,
            metrics=_metrics(record, self.objective),
            steps=record.steps,
            wall_s=record.wall_s if fresh else 0.0,
            gpu_s=record.wall_s * record.gpus if fresh else 0.0,
        )


def _metrics(record: Record, objective: Objective) -> dict[str, float | None]:
    """The metrics that a report of the search may show; the rest stay in the record."""
    wanted = {*COMPARED, *objective.names, *objective.bounds}
    return {name: value for name, value in record.metrics.items() if name in wanted}


class TrialWatcher:
    """Follows a run: tells its evaluations to Optuna, and ends it where the pruner gives it up.

    An evaluation is told by its number and not by its step, so that it is the same resource in
    runs of other lengths.
    """

    def __init__(self, trial: "Trial", metric: str | None, stop: TrialStop) -> None:
        self.trial, self.metric, self.stop = trial, metric, stop
        self.told = 0

    def __call__(self, latest: Progress) -> None:
        """Takes in what a run has logged."""
        from optuna.exceptions import UpdateFinishedTrialError

        if self.metric is None:
            return
        try:
            for event in latest.evaluations[self.told :]:
                self._tell(event.get(self.metric))
            if self.told and not self.stop and self.trial.should_prune():
                self.stop.request()
        except UpdateFinishedTrialError:
            self.metric = None  # taken for dead; the run goes on, its record serves another trial

    def read(self, curve: "pa.Table | None") -> None:
        """Takes in a run that was made before; it is not pruned any more."""
        if curve is not None and self.metric is not None:
            for value in curve.column(self.metric).drop_null().to_pylist():
                self._tell(value)

    def _tell(self, value: float | None) -> None:
        self.told += 1
        if value is not None:
            self.trial.report(value, self.told)


def release(study: "Study") -> int:
    """Fails the trials of this machine's dead workers, and puts their points in line again."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    found = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_gone(trial.user_attrs.get("worker") or {}):
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (UpdateFinishedTrialError, ValueError):
                continue  # another command was faster
            retry_later(study, trial)
            found += 1
    return found
