"""What a study will cost and what it will be able to see, before it spends anything.

Time comes from records, else from one measured step of the base, else it is unknown and said to be.
The standard deviation comes from replicates of the same base, else effects are given in units of
it. Comes after resolve.py; `study --dry-run` prints it, and study.py plans its limits with it.
Pure but for `measure`, which runs the base for three steps.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import TrainerError
from harness.files import read_json, write_json
from harness.metrics import LOSSES, METRICS, SPEEDS, THROUGHPUTS
from harness.results.record import OUTCOMES, Identity, Record
from harness.results.run_files import last_step, log_tail, read_events
from harness.results.study_plan import Arm, PlannedRun, ResolvedStudy
from harness.runner import process
from harness.runner.trainer import NativeTrainer, Request, with_value

MEASURED_STEPS = 3


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One measured step of the base, and all the time of a short run beside its steps."""

    step_s: float
    overhead_s: float
    gpus: int


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest effect a study could see in one metric; in units of SD where `sd` is None."""

    metric: str
    unit: str
    sd: float | None
    replicates: int
    mde: float


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's price. None where it is unknown."""

    runs: int
    todo: int
    wall_s: float | None
    gpus_per_run: int | None
    gpu_s: float | None
    usd: float | None
    time_from: str
    sensitivities: list[Sensitivity]


def plan(
    study: ResolvedStudy,
    records: Sequence[Record],
    *,
    slots: int = 1,
    measured: Measured | None = None,
    gpus: int | None = None,
    price: float | None = None,
) -> Budget:
    """The price of what a study has left to do. `gpus`: of one run, where no record says it."""
    done = {made.plan_id for made in records if made.status in OUTCOMES}
    todo = [planned for planned in study.runs if planned.plan_id not in done]
    estimate = Estimates(study, records, measured)
    times = [estimate.wall_s(planned.arm) for planned in todo]
    known = [time for time in times if time is not None]
    wall_s = sum(known) / slots if len(known) == len(todo) else None
    seen = [made.gpus for made in records if made.identity in {a.identity for a in study.arms}]
    per_run = seen[-1] if seen else gpus
    gpu_s = sum(known) * per_run if wall_s is not None and per_run is not None else None
    rate = price if price is not None else study.limits.price
    return Budget(
        runs=len(study.runs),
        todo=len(todo),
        wall_s=wall_s,
        gpus_per_run=per_run,
        gpu_s=gpu_s,
        usd=gpu_s / 3600 * rate if gpu_s is not None and rate is not None else None,
        time_from=estimate.source,
        sensitivities=sensitivities(study, records),
    )


class Estimates:
    """How long a run of an arm takes, from the best evidence there is; grows with new records."""

    def __init__(
        self, study: ResolvedStudy, records: Sequence[Record], measured: Measured | None = None
    ) -> None:
        self._arms = {arm.name: arm for arm in study.arms}
        self._measured = measured
        self._walls: dict[Identity, list[float]] = {}
        self._per_step: list[float] = []
        ours = {arm.identity for arm in study.arms}
        for made in records:
            if made.identity in ours:
                self.add(made)

    def add(self, made: Record) -> None:
        if made.status == "completed" and made.steps > 0:
            self._walls.setdefault(made.identity, []).append(made.wall_s)
            self._per_step.append(made.wall_s / made.steps)

    @property
    def source(self) -> str:
        if self._walls:
            return "records of this study's configurations"
        return "one measured step of the base" if self._measured else "unknown"

    def wall_s(self, arm: str) -> float | None:
        """Seconds of one run; None where nothing is known."""
        steps = int(self._arms[arm].derived.get("steps") or 0)
        own = self._walls.get(self._arms[arm].identity)
        if own:
            return sum(own) / len(own)
        if self._per_step and steps:
            return steps * sum(self._per_step) / len(self._per_step)
        if self._measured is not None and steps:
            return self._measured.overhead_s + steps * self._measured.step_s
        return None


def sensitivities(study: ResolvedStudy, records: Sequence[Record]) -> list[Sensitivity]:
    """The smallest detectable effect of an arm against the base, in each metric."""
    from harness.stats.inference import minimum_detectable_effect

    base = study.arm("base")
    compared = [arm for arm in study.arms if arm.role not in ("base", "horizon", "retune")]
    seeds = len(study.seeds)
    df = (len(compared) + 1) * (seeds - 1)
    in_sd = math.inf
    if df > 0:
        in_sd = minimum_detectable_effect(
            1.0,
            df,
            seeds,
            seeds,
            study.decide.alpha,
            arms=len(compared),
            correction=study.decide.correction,
        )
    found = []
    for metric in (*LOSSES, *THROUGHPUTS[:1]):
        values = replicates(base, records, metric)
        sd = _sd(values) if len(values) >= 2 else None
        found.append(
            Sensitivity(
                metric=metric,
                unit=_unit(metric) if sd is not None else "SD",
                sd=sd,
                replicates=len(values),
                mde=in_sd * (sd if sd is not None else 1.0),
            )
        )
    return found


def replicates(base: Arm, records: Sequence[Record], metric: str) -> list[float]:
    """One value for each seed of the base; speeds as logarithms, of its last environment alone."""
    same = [m for m in records if m.identity == base.identity and m.status == "completed"]
    if metric in SPEEDS:
        same = [m for m in same if m.environment_id == same[-1].environment_id]
    by_seed = {made.seed: made.metrics.get(metric) for made in same}
    values = [value for value in by_seed.values() if value is not None]
    return [math.log(value) for value in values] if metric in SPEEDS else values


def _unit(metric: str) -> str:
    return "relative" if metric in SPEEDS else METRICS[metric].unit


def _sd(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def measure(study: ResolvedStudy, trainer: NativeTrainer, stop: process.Stop) -> Measured | str:
    """Runs the base for three steps in a temporary folder; a sentence where that did not work."""
    if "steps" not in study.settable_fields:
        return "the trainer has no handle for its number of steps"
    config = _short_config(study, trainer)
    if study.arm("base").identity.data_id is None:
        try:
            trainer.prepare(config)
        except TrainerError as error:
            return str(error)
    with tempfile.TemporaryDirectory(prefix="harness-measure-") as folder:
        run_dir = Path(folder)
        write_json(run_dir / "config.json", config)
        ended = process.execute(
            command=trainer.train_command(run_dir / "config.json", run_dir),
            run_dir=run_dir,
            checkout=trainer.checkout,
            timeout_s=60 * study.limits.run_minutes,
            stop=stop,
        )
        if last_step(run_dir / "events.jsonl")[0] < MEASURED_STEPS:
            tail = (log_tail(run_dir / "log.txt", 300) or "").strip()
            return f"the trainer {ended.describe()}" + (f": {tail}" if tail else "")
        steps = [e["t"] for e in read_events(run_dir / "events.jsonl") if e["event"] == "step"]
        environment = read_json(run_dir / "environment.json") or {}
    step_s = steps[-1] - steps[-2]  # by the clock on the wall; the first steps warm up
    overhead_s = max(0.0, ended.trainer_s - len(steps) * step_s)
    gpus = len(environment.get("gpus") or [])
    return Measured(step_s=step_s, overhead_s=overhead_s, gpus=gpus)


def _short_config(study: ResolvedStudy, trainer: NativeTrainer) -> dict[str, Any]:
    base = study.arm("base")
    overrides: Mapping[str, Any] = {**base.set, study.settable_fields["steps"]: MEASURED_STEPS}
    request = Request(name="measured", base=base.base, set=dict(overrides))
    config = trainer.describe_or_fail([request])[0].config or {}
    return with_value(config, study.settable_fields.get("seed", "seed"), study.seeds[0])


def todo_seconds(estimates: Estimates, runs: Sequence[PlannedRun]) -> float | None:
    """Seconds of some runs one after another; None where one of them is unknown."""
    times = [estimates.wall_s(planned.arm) for planned in runs]
    known = [time for time in times if time is not None]
    return sum(known) if len(known) == len(times) else None
