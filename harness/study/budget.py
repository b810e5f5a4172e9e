"""What a study will cost and which effects it can detect, before anything runs.

Time comes from records, else from one measured step of the base, else it is unknown. The standard
deviation comes from replicates of the same base; without them, effects are in units of it. Pure
functions, except `measure`, which runs the base for three steps.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec

from harness.errors import TrainerError
from harness.files import read_json, write_json
from harness.metrics import LOSSES, METRICS, SPEEDS, THROUGHPUTS
from harness.results.record import FINAL_STATUSES, Identity, Record
from harness.results.run_files import log_tail, read_events
from harness.results.study_plan import Arm, PlannedRun, ResolvedStudy
from harness.runner import process
from harness.runner.replies import Request
from harness.runner.trainer import NativeTrainer, with_value

MEASURED_STEPS = 3
TWICE = 2.0  # an interval this many times as wide as with known SDs is worth more seeds


class MeasuredStep(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one step of the base, seconds a short run takes beside its steps, and its GPUs."""

    step_s: float
    overhead_s: float
    gpus: int


class IntervalWidth(msgspec.Struct, frozen=True, kw_only=True):
    """How many times wider an arm's interval is than with every SD known, by the number of seeds.

    `enough`: the fewest seeds with which it is at most TWICE as wide; None where these are enough.
    """

    times: float
    enough: int | None
    times_then: float | None


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """The minimum detectable effect in one metric; in units of SD where `sd` is None."""

    metric: str
    unit: str
    sd: float | None
    replicates: int
    mde: float


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a study costs. None where a value is unknown."""

    runs: int
    remaining: int
    wall_s: float | None
    gpus_per_run: int | None
    gpu_s: float | None
    usd: float | None
    time_from: str
    sensitivities: list[Sensitivity]
    width: IntervalWidth | None  # None with one seed: no arm then has an interval


def plan(
    study: ResolvedStudy,
    records: Sequence[Record],
    *,
    parallel: int = 1,
    measured: MeasuredStep | None = None,
    gpus: int | None = None,
    price: float | None = None,
) -> Budget:
    """The cost of the remaining runs, `parallel` of them at a time.

    `gpus`: GPUs of one run, used where no record states them. `price`: USD per GPU-hour.
    """
    done = {record.plan_id for record in records if record.status in FINAL_STATUSES}
    remaining = [planned for planned in study.runs if planned.plan_id not in done]
    estimates = Estimates(study, records, measured)
    total_s = remaining_seconds(estimates, remaining)
    identities = {arm.identity for arm in study.arms}
    recorded = [record.gpus for record in records if record.identity in identities]
    per_run = recorded[-1] if recorded else gpus
    gpu_s = total_s * per_run if total_s is not None and per_run is not None else None
    rate = price if price is not None else study.limits.price
    return Budget(
        runs=len(study.runs),
        remaining=len(remaining),
        wall_s=None if total_s is None else total_s / parallel,
        gpus_per_run=per_run,
        gpu_s=gpu_s,
        usd=gpu_s / 3600 * rate if gpu_s is not None and rate is not None else None,
        time_from=estimates.source,
        sensitivities=sensitivities(study, records),
        width=interval_width(study),
    )


class Estimates:
    """Estimates how long a run of an arm takes; every new record improves them."""

    def __init__(
        self, study: ResolvedStudy, records: Sequence[Record], measured: MeasuredStep | None = None
    ) -> None:
        self._arms = {arm.name: arm for arm in study.arms}
        self._measured = measured
        self._wall_times_s: dict[Identity, list[float]] = {}
        self._seconds_per_step: list[float] = []
        identities = {arm.identity for arm in study.arms}
        for record in records:
            if record.identity in identities:
                self.add(record)

    def add(self, record: Record) -> None:
        """Adds a finished run."""
        if record.status == "completed" and record.steps > 0:
            self._wall_times_s.setdefault(record.identity, []).append(record.wall_s)
            self._seconds_per_step.append(record.wall_s / record.steps)

    @property
    def source(self) -> str:
        """What the estimates are based on."""
        if self._wall_times_s:
            return "records of this study's configurations"
        return "one measured step of the base" if self._measured else "unknown"

    def wall_s(self, arm: str) -> float | None:
        """Seconds of one run; None where they are unknown."""
        steps = int(self._arms[arm].derived.get("steps") or 0)
        if own := self._wall_times_s.get(self._arms[arm].identity):
            return fmean(own)
        if self._seconds_per_step and steps:
            return steps * fmean(self._seconds_per_step)
        if self._measured is not None and steps:
            return self._measured.overhead_s + steps * self._measured.step_s
        return None


def sensitivities(study: ResolvedStudy, records: Sequence[Record]) -> list[Sensitivity]:
    """The minimum detectable effect of an arm against the base, in each metric.

    For arms of one SD that gain nothing from pairing by seed.
    """
    base = study.arm("base")
    in_sd = _detectable_in_sd(study)
    result = []
    for metric in (*LOSSES, *THROUGHPUTS[:1]):
        values = replicates(base, records, metric)
        sd = stdev(values) if len(values) >= 2 else None
        result.append(
            Sensitivity(
                metric=metric,
                unit=_unit(metric) if sd is not None else "SD",
                sd=sd,
                replicates=len(values),
                mde=in_sd * (sd if sd is not None else 1.0),
            )
        )
    return result


def _detectable_in_sd(study: ResolvedStudy) -> float:
    from harness.stats.inference import minimum_detectable_effect
    from harness.stats.moderation import PAIRING_SHARE, planned_df

    seeds, arms = len(study.seeds), _compared(study)
    return minimum_detectable_effect(
        1.0,
        planned_df(arms, seeds),
        seeds,
        seeds,
        PAIRING_SHARE * study.decide.alpha,
        arms=arms,
        correction=study.decide.correction,
    )


def _compared(study: ResolvedStudy) -> int:
    return sum(arm.role not in ("base", "horizon", "retune") for arm in study.arms)


def interval_width(study: ResolvedStudy) -> IntervalWidth | None:
    """How wide the intervals of this study are because its SDs are estimated from few runs."""
    seeds, arms = len(study.seeds), _compared(study)
    if seeds < 2 or not arms:
        return None
    times = _times(study, arms, seeds)
    if times <= TWICE:
        return IntervalWidth(times=times, enough=None, times_then=None)
    enough = next(n for n in count(seeds + 1) if _times(study, arms, n) <= TWICE)
    return IntervalWidth(times=times, enough=enough, times_then=_times(study, arms, enough))


def _times(study: ResolvedStudy, arms: int, seeds: int) -> float:
    from harness.stats.distributions import t_quantile
    from harness.stats.inference import arm_level
    from harness.stats.moderation import PAIRING_SHARE, planned_df

    alpha, correction = study.decide.alpha, study.decide.correction
    known = t_quantile(1 - arm_level(alpha, arms, correction) / 2, math.inf)
    level = arm_level(PAIRING_SHARE * alpha, arms, correction)
    return t_quantile(1 - level / 2, planned_df(arms, seeds)) / known


def replicates(base: Arm, records: Sequence[Record], metric: str) -> list[float]:
    """One value for each seed of the base; speeds as logarithms, from its latest environment."""
    same = [r for r in records if r.identity == base.identity and r.status == "completed"]
    if metric in SPEEDS:
        same = [r for r in same if r.environment_id == same[-1].environment_id]
    by_seed = {record.seed: record.metrics.get(metric) for record in same}
    values = [value for value in by_seed.values() if value is not None]
    return [math.log(value) for value in values] if metric in SPEEDS else values


def _unit(metric: str) -> str:
    return "relative" if metric in SPEEDS else METRICS[metric].unit


def measure(
    study: ResolvedStudy, trainer: NativeTrainer, stop: process.Stop
) -> MeasuredStep | None:
    """Runs the base for three steps in a temporary folder.

    None where the trainer's number of steps cannot be set. Raises TrainerError where the base
    does not run.
    """
    if "steps" not in study.settable_fields:
        return None
    config = _short_config(study, trainer)
    if study.arm("base").identity.data_id is None:
        trainer.prepare(config)
    with tempfile.TemporaryDirectory(prefix="harness-measure-") as folder:
        run_dir = Path(folder)
        write_json(run_dir / "config.json", config)
        end = process.run_process(
            command=trainer.train_command(run_dir / "config.json", run_dir),
            run_dir=run_dir,
            checkout=trainer.checkout,
            timeout_s=60 * study.limits.run_minutes,
            stop=stop,
        )
        events = read_events(run_dir / "events.jsonl")
        steps = [event["t"] for event in events if event["event"] == "step" and event.get("t")]
        if len(steps) < MEASURED_STEPS:
            tail = (log_tail(run_dir / "log.txt", 300) or "").strip()
            raise TrainerError(
                "arm base",
                f"{MEASURED_STEPS} steps of the trainer, to measure their time",
                f"that the trainer {end.describe()}" + (f": {tail}" if tail else ""),
                "Repair what its log names, or plan without this measurement: --no-measure.",
            )
        environment = read_json(run_dir / "environment.json")
    step_s = steps[-1] - steps[-2]  # wall time; the first steps warm up
    overhead_s = max(0.0, end.trainer_s - len(steps) * step_s)
    found = environment.get("gpus") if isinstance(environment, dict) else None
    gpus = len(found) if isinstance(found, list) else 0
    return MeasuredStep(step_s=step_s, overhead_s=overhead_s, gpus=gpus)


def _short_config(study: ResolvedStudy, trainer: NativeTrainer) -> dict[str, Any]:
    base = study.arm("base")
    overrides: Mapping[str, Any] = {**base.set, study.settable_fields["steps"]: MEASURED_STEPS}
    request = Request(name="measured", base=base.base, set=dict(overrides))
    config = trainer.describe_or_fail([request])[0].config or {}
    return with_value(config, study.settable_fields.get("seed", "seed"), study.seeds[0])


def remaining_seconds(estimates: Estimates, runs: Sequence[PlannedRun]) -> float | None:
    """Seconds of these runs one after another; None where one of them is unknown."""
    times = [
        (number, estimates.wall_s(arm))
        for arm, number in Counter(planned.arm for planned in runs).items()
    ]
    known = [number * time for number, time in times if time is not None]
    return sum(known) if len(known) == len(times) else None
