"""One trial: a point of the space as an ordinary run, watched while it runs, reported to Optuna.

If the store already has a record of the point, that record is the result and nothing is run. While
a run trains, its evaluations are reported; when the pruner gives the trial up, the run is stopped
at once and keeps its partial record (status `interrupted`) and checkpoints. A point that the
trainer rejects and a run that diverges, crashes or runs out of memory end as *pruned* trials
without a value: Optuna's samplers ignore failed trials but learn from pruned ones which region to
avoid. The result is a user attribute of the trial, because the store may be on another machine.
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
from harness.search.plan import ResolvedPoint, SearchPlan
from harness.search.storage import WORKER, fail_trial

if TYPE_CHECKING:
    import pyarrow as pa
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

RESULT = "result"  # user attribute of a trial


class Interrupted(Exception):
    """The command was stopped before the trial had a result; the next command runs it again."""


class TrialStop(Stop):
    """Stops one run: together with its command, or because its trial is pruned."""

    @property
    def cause(self) -> str:
        return "stopped" if self.command else "pruned"


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial ended. `outcome`: a record's status, or invalid, pruned, unmeasured.

    `reused`: the record existed before the trial, so that the trial cost nothing.
    """

    outcome: str
    reason: str | None = None
    overrides: dict[str, Any] = {}
    plan_id: str | None = None
    reused: bool = False
    metrics: dict[str, float | None] = {}
    steps: int = 0
    wall_s: float = 0.0
    gpu_s: float = 0.0


def result_of(trial: "FrozenTrial") -> TrialResult | None:
    """The result of a trial; None while it runs, and usually if its worker died.

    A worker that dies between storing the result and ending the trial leaves a failed trial that
    has a result.
    """
    value = trial.user_attrs.get(RESULT)
    return None if value is None else msgspec.convert(value, TrialResult)


def worker_id() -> dict[str, Any]:
    """This process, so that a later command on this machine can check whether it is alive."""
    return {
        "boot": run_files.boot_id(),
        "pid": os.getpid(),
        "ticks": process.start_ticks(os.getpid()),
    }


def has_exited(worker: dict[str, Any]) -> bool:
    """Whether a worker was a process of this machine since its boot, and has ended."""
    here = bool(worker.get("boot")) and worker.get("boot") == run_files.boot_id()
    return here and process.start_ticks(int(worker["pid"])) != worker["ticks"]


def fail_abandoned_trials(study: "Study") -> None:
    """Marks trials of this machine's dead workers as failed and queues their points again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if has_exited(trial.user_attrs.get(WORKER) or {}):
            fail_trial(study, trial)


class TrialRunner:
    """Runs the trials of one search. `on_end` receives number, result and objective values."""

    def __init__(
        self,
        plan: SearchPlan,
        pool: GpuPool,
        objective: Objective,
        stop: Stop,
        on_end: Callable[[int, TrialResult, list[float] | None], None],
    ) -> None:
        self.plan, self.pool, self.objective = plan, pool, objective
        self.stop, self.on_end = stop, on_end

    def __call__(self, trial: "Trial", gpu: str) -> list[float]:
        """The objective values of a trial.

        Raises TrialPruned, Interrupted, TrainerError and DiskError.
        """
        from optuna import TrialPruned

        point = self.plan.space.suggest(trial)
        trial.set_user_attr(WORKER, worker_id())
        result = self._result(trial, self.plan.resolve_point(point), gpu)
        completed = result.outcome == "completed"
        values = self.objective.values(result.metrics) if completed else None
        if completed and values is None:
            result = msgspec.structs.replace(result, outcome="unmeasured")
        self._store(trial, result, values)
        if values is None:
            raise TrialPruned(result.reason or result.outcome)
        return values

    def _result(self, trial: "Trial", point: ResolvedPoint, gpu: str) -> TrialResult:
        if point.recipe is None:
            reason = str(point.faults[0])
            return TrialResult(outcome="invalid", reason=reason, overrides=point.overrides)
        launch = LaunchInfo(study=self.plan.file.search, arm=f"trial_{trial.number}")
        spec = msgspec.structs.replace(point.recipe.job(self.plan.file.seed), launch=launch)
        result = self._pruned_before(trial, spec) or self._run(trial, spec, gpu)
        return msgspec.structs.replace(result, overrides=point.overrides)

    def _store(self, trial: "Trial", result: TrialResult, values: list[float] | None) -> None:
        violations = self.objective.violations(result.metrics)
        if result.outcome == "out_of_memory" and "peak_memory_bytes" in self.objective.bounds:
            violations["peak_memory_bytes"] = 1.0  # it needs more than the GPU has
        for metric, excess in violations.items():
            trial.set_constraint(metric, excess)
        trial.set_user_attr(RESULT, msgspec.to_builtins(result))
        self.on_end(trial.number, result, values)

    def _pruned_before(self, trial: "Trial", spec: RunSpec) -> TrialResult | None:
        """The result of an earlier pruned trial at this point: this one would be pruned, too."""
        from optuna.trial import TrialState

        for other in trial.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)):
            before = result_of(other)
            if before is None or before.plan_id != spec.plan_id or before.outcome != "pruned":
                continue
            for number, value in other.intermediate_values.items():
                trial.report(value, number)
            return msgspec.structs.replace(before, reused=True, wall_s=0.0, gpu_s=0.0)
        return None

    def _run(self, trial: "Trial", spec: RunSpec, gpu: str) -> TrialResult:
        """The result from the record of the point, which is made if there is none."""
        stop = TrialStop(self.stop)
        watcher = TrialWatcher(trial, self.objective.watched, stop)
        record, is_new = self.pool.make(spec, gpu, stop, watcher)
        interrupted = record is not None and record.status == "interrupted"
        if record is None or (interrupted and stop.cause == "stopped"):
            raise Interrupted
        if not is_new and watcher.metric is not None:
            watcher.replay(self.pool.store.curve(spec.plan_id))
        ended = "pruned" if stop else "failed"  # not pruned: something else killed the run
        return TrialResult(
            outcome=ended if interrupted else record.status,
            reason=record.reason,
            plan_id=spec.plan_id,
            reused=not is_new,
            metrics=_metrics(record, self.objective),
            steps=record.steps,
            wall_s=record.wall_s if is_new else 0.0,
            gpu_s=record.wall_s * record.gpus if is_new else 0.0,
        )


def _metrics(record: Record, objective: Objective) -> dict[str, float | None]:
    """The metrics that a report of the search may show; the record has the others."""
    wanted = {*COMPARED, *objective.names, *objective.bounds}
    return {name: value for name, value in record.metrics.items() if name in wanted}


class TrialWatcher:
    """Follows a run: reports its evaluations to Optuna, and stops it if the trial is pruned.

    Evaluations are reported by number, not by training step, so that they are the same resource in
    runs of different lengths.
    """

    def __init__(self, trial: "Trial", metric: str | None, stop: TrialStop) -> None:
        self.trial, self.metric, self.stop = trial, metric, stop
        self.reported = 0

    def __call__(self, latest: Progress) -> None:
        """Takes the events that a run has logged so far."""
        from optuna.exceptions import UpdateFinishedTrialError

        if self.metric is None:
            return
        try:
            for event in latest.evaluations[self.reported :]:
                self._report(event.get(self.metric))
            if self.reported and not self.stop and self.trial.should_prune():
                self.stop.request()
        except UpdateFinishedTrialError:
            # Another worker took this one for dead. The run continues: its record serves the
            # trial that was queued instead.
            self.metric = None

    def replay(self, curve: "pa.Table | None") -> None:
        """Reports the evaluations of a run that was recorded earlier; it is not pruned."""
        if curve is not None and self.metric is not None:
            for value in curve.column(self.metric).drop_null().to_pylist():
                self._report(value)

    def _report(self, value: float | None) -> None:
        self.reported += 1
        if value is not None:
            self.trial.report(value, self.reported)
