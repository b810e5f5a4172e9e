"""The base, replicated before any trial: what it reaches, how much that varies, what it reports.

A search without it would take noise for gain. The replicates also say what a run of the base
reports at all, how often it evaluates (what a pruner can look at), and how long it takes. After
slots.py, before trial.py; `measure` makes the runs, all else is arithmetic.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

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
from harness.search.objective import Objective, Reference, needed, refuse_unreported, slope_of
from harness.search.plan import SearchPlan
from harness.stats import inference
from harness.study.budget_limits import STOPPED, StopStudy


class BaseNoise(msgspec.Struct, frozen=True, kw_only=True):
    """The base in each objective: a value for each seed, their mean and SD. `evaluations` a run."""

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


def job_of(plan: SearchPlan, seed: int) -> RunSpec:
    """The base's run at a seed."""
    launch = LaunchInfo(study=plan.file.search, arm="base")
    return msgspec.structs.replace(plan.base.job(seed), launch=launch)


def replicate(
    plan: SearchPlan, slots: GpuPool, stop: Stop, deadline: float | None = None
) -> list[Record]:
    """The base at each of its seeds, on all slots.

    `deadline`: by time.monotonic(), after which no run is begun. Raises TrainerError, Halt and
    DiskError.
    """
    free: SimpleQueue[str] = SimpleQueue()
    for name in slots.names:
        free.put(name)

    def one(seed: int) -> Record | None:
        slot = free.get()
        try:
            job = job_of(plan, seed)
            late = deadline is not None and time.monotonic() >= deadline
            if late and recorded_run(slots.store, job, ()) is None:
                return None
            return slots.make(job, slot, stop)[0]
        finally:
            free.put(slot)

    with ThreadPoolExecutor(max_workers=len(slots.names)) as pool:
        made = list(pool.map(one, plan.file.base_seeds))
    if stop or any(record is not None and record.status == "interrupted" for record in made):
        raise StopStudy(errors.STOPPED_AT_LIMIT, STOPPED)
    records = [record for record in made if record is not None]
    if len(records) < len(made):
        text = "The time is up before the base has run at every seed. The same command goes on."
        raise StopStudy(errors.STOPPED_AT_LIMIT, text)
    for record in records:
        if record.status != "completed":
            raise _base_broken(record)
    return records


def still_works(plan: SearchPlan, slots: GpuPool, slot: str, stop: Stop) -> bool:
    """Whether the base, made once more, trains to its end. Raises DiskError."""
    made, _ = slots.make(job_of(plan, plan.file.base_seeds[0]), slot, stop, rerun=True)
    return made is not None and made.status == "completed"


def _base_broken(record: Record) -> TrainerError:
    tail = (record.log_tail or "").strip()[-400:]
    return TrainerError(
        f"base, seed {record.seed}",
        "a base that trains to its end: every trial is compared with it",
        f"{record.status.replace('_', ' ')}: {record.reason or tail or 'no reason'}",
        record.hint or "Correct the base, then give the same command.",
    )


def objective_of(plan: SearchPlan, store: Store, records: Sequence[Record]) -> Objective:
    """What the search seeks, relative to the base where that is asked for.

    Raises StudyFileError where the base does not report it.
    """
    where = f"{plan.path}: objective"
    slope = slope_of(store, plan.file, plan.base.identity, str(plan.path))
    for name in needed(plan.file, slope[0] if slope else None):
        for record in records:
            refuse_unreported([name], record.metrics, where)
    reference = None
    if slope is not None:
        metric, value = slope
        reference = Reference(
            metric=metric,
            slope=value,
            loss=_mean(records, metric),
            tokens_per_s=_mean(records, "tokens_per_s"),
        )
    return Objective(names=plan.file.objectives, bounds=plan.file.constraints, reference=reference)


def noise_of(objective: Objective, store: Store, records: Sequence[Record]) -> BaseNoise:
    """The noise of the base from its records."""
    rows = [objective.values(record.metrics) or [] for record in records]
    values = {name: [row[i] for row in rows] for i, name in enumerate(objective.names)}
    pooled = {name: inference.pool([column]) for name, column in values.items()}
    curve = store.curve(records[0].plan_id)
    seen = 0 if curve is None else curve.column("val_bpb").drop_null().length()
    return BaseNoise(
        seeds=[record.seed for record in records],
        values=values,
        mean={name: found.means[0] for name, found in pooled.items()},
        sd={name: found.sd for name, found in pooled.items()},
        evaluations=seen,
        wall_s=float(np.mean([record.wall_s for record in records])),
        gpus=max(record.gpus for record in records),
        environments=len({record.environment_id for record in records}),
    )


def _mean(records: Sequence[Record], metric: str) -> float:
    return float(np.mean([record.metrics[metric] or 0.0 for record in records]))
