"""The base of a search, run on several seeds before any trial: its values and their noise.

Without replicates a search would mistake noise for improvement. They also show which metrics a run
reports, how often it is evaluated (which is when a pruner can act) and how long it takes.
"""

import time
from collections.abc import Sequence

import msgspec
import numpy as np

from harness import errors
from harness.errors import TrainerError
from harness.results.record import LaunchInfo, Record
from harness.results.store import Store
from harness.runner.attempt import RunSpec
from harness.runner.process import Stop
from harness.runner.replicates import recorded_run
from harness.runner.workers import GpuPool
from harness.search.objective import (
    Objective,
    TimeReference,
    measured_slope,
    require_reported,
    required_metrics,
)
from harness.search.plan import SearchPlan
from harness.stats import inference
from harness.study.budget_limits import RESUME, STOPPED, StopStudy


class BaseNoise(msgspec.Struct, frozen=True, kw_only=True):
    """The base's value of each objective on each seed, with mean and SD.

    `evaluations`: of one run. `environments`: how many different ones the runs had.
    """

    seeds: list[int]
    values: dict[str, list[float]]
    mean: dict[str, float]
    sd: dict[str, float]
    evaluations: int
    wall_s: float
    gpus: int
    environments: int

    @property
    def df(self) -> int:
        """Degrees of freedom of each SD."""
        return len(self.seeds) - 1


def run_spec(plan: SearchPlan, seed: int) -> RunSpec:
    """The base's run on one seed."""
    launch = LaunchInfo(study=plan.file.search, arm="base")
    return msgspec.structs.replace(plan.base.job(seed), launch=launch)


def run_base(
    plan: SearchPlan, pool: GpuPool, stop: Stop, deadline: float | None = None
) -> list[Record]:
    """Records of the base on each of its seeds; runs those that are missing, on all GPUs.

    `deadline`: the value of time.monotonic() after which no run starts. Raises TrainerError,
    StopStudy and DiskError.
    """

    def run(seed: int, gpu: str) -> Record | None:
        spec = run_spec(plan, seed)
        late = deadline is not None and time.monotonic() >= deadline
        if late and recorded_run(pool.store, spec, ()) is None:
            return None
        return pool.make(spec, gpu, stop)[0]

    made = pool.spread(run, plan.file.base_seeds)
    if stop or any(record is not None and record.status == "interrupted" for record in made):
        raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED)
    records = [record for record in made if record is not None]
    if len(records) < len(made):
        text = f"The time limit was reached before the base had run on every seed. {RESUME}"
        raise StopStudy(errors.STOPPED_AT_LIMIT, text)
    for record in records:
        if record.status != "completed":
            raise _base_failed(record)
    return records


def base_completes(plan: SearchPlan, pool: GpuPool, gpu: str, stop: Stop) -> bool:
    """Whether a new run of the base completes. Raises DiskError."""
    record, _ = pool.make(run_spec(plan, plan.file.base_seeds[0]), gpu, stop, rerun=True)
    return record is not None and record.status == "completed"


def _base_failed(record: Record) -> TrainerError:
    tail = (record.log_tail or "").strip()[-400:]
    expected = "a base that completes, because every trial is compared with it"
    got = f"{record.status.replace('_', ' ')}: {record.reason or tail or 'no reason'}"
    hint = record.hint or "Correct the base, then re-run the same command."
    return TrainerError(f"base, seed {record.seed}", expected, got, hint)


def objective_from(plan: SearchPlan, store: Store, records: Sequence[Record]) -> Objective:
    """The objective of the search, with the base's loss and speed where it is relative to them.

    Raises StudyFileError if the base does not report a metric that it needs.
    """
    where = f"{plan.path}: objective"
    slope = measured_slope(store, plan.file, plan.base.identity, str(plan.path))
    names = required_metrics(plan.file, slope[0] if slope else None)
    for record in records:
        require_reported(names, record.metrics, where)
    reference = None
    if slope is not None:
        metric, value = slope
        reference = TimeReference(
            metric=metric,
            slope=value,
            loss=_mean(records, metric),
            tokens_per_s=_mean(records, "tokens_per_s"),
        )
    return Objective(names=plan.file.objectives, bounds=plan.file.constraints, reference=reference)


def noise_from(objective: Objective, store: Store, records: Sequence[Record]) -> BaseNoise:
    """The noise of the base from its records."""
    rows = [objective.values(record.metrics) or [] for record in records]
    values = {name: [row[i] for row in rows] for i, name in enumerate(objective.names)}
    pooled = {name: inference.pool([column]) for name, column in values.items()}
    curve = store.curve(records[0].plan_id)
    evaluations = 0 if curve is None else curve.column("val_bpb").drop_null().length()
    return BaseNoise(
        seeds=[record.seed for record in records],
        values=values,
        mean={name: group.means[0] for name, group in pooled.items()},
        sd={name: group.sd for name, group in pooled.items()},
        evaluations=evaluations,
        wall_s=float(np.mean([record.wall_s for record in records])),
        gpus=max(record.gpus for record in records),
        environments=len({record.environment_id for record in records}),
    )


def _mean(records: Sequence[Record], metric: str) -> float:
    return float(np.mean([record.metrics[metric] or 0.0 for record in records]))
