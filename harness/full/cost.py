"""Forecasts time and cost of a full run from a step test on the same machine.

Steps take most of the time, and a step test measures them to a fraction of a percent, by schedule
stage because stages differ in cost. It cannot measure how launches differ, which the noise model
knows, nor how the mean step of a whole run differs from that of a short stretch, because clocks,
loaders and other processes drift. Everything besides steps is added part by part, each with its own
spread; a part that was never measured is named and not guessed.

All spreads are of logarithms, because times are positive. Pure functions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.format import percent
from harness.full.forecast import LEVEL, Estimate
from harness.full.proxies import ForecastError
from harness.metrics import SPEEDS
from harness.results.recipe import NoiseScope
from harness.results.record import Record
from harness.stats.distributions import t_quantile

FIRST_COUNTED_STEP = 11  # steps 0 to 10 are left out of nanochat's training time
STRETCH_SD = 0.005
"""SD of the log ratio of a whole run's mean step time to that of a stretch near its start: 338 runs
of the optimization track of modded-nanogpt, with steps of one shape
(`benchmarks/statistics/forecast.py`)."""
SCALED_SD = 0.3  # relative, of a part measured at another size


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of one shape: how many the job has, and the measured times of some."""

    name: str
    steps: int
    step_s: list[float]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A cost besides steps: start-up, evaluations, CORE.

    `each_s` None: not measured. `relative_sd` is shared by all `count` of them.
    """

    name: str
    count: int
    each_s: float | None
    relative_sd: float = 0.0
    source: str = ""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Forecast of time and money, with intervals.

    `train_s` is all steps, `leaderboard_s` the steps that nanochat's leaderboard counts, `wall_s`
    everything from start to end, `usd` all ranks for `wall_s`; `parts` the seconds by part, steps
    first. `stages`: (steps, seconds per step) in order; `step_sd`: relative SD of one step.
    """

    train_s: Estimate
    leaderboard_s: Estimate
    wall_s: Estimate
    usd: Estimate | None
    parts: list[tuple[str, float]]
    notes: list[str]
    stages: list[tuple[int, float]] = []
    step_sd: float = 0.0

    def seconds(self, first: int, end: int) -> float:
        """Forecast time of the steps from `first` up to and without `end`, counted from 0."""
        total_s, at = 0.0, 0
        for steps, step_s in self.stages:
            total_s += step_s * max(0, min(end, at + steps) - max(first, at))
            at += steps
        return total_s


def launch_row(noise_model: NoiseModel, bench: NoiseScope) -> NoiseRow:
    """Launch-to-launch noise: this recipe's row, else its device's, else the widest row.

    Raises ForecastError if the noise model has none.
    """
    own = noise_model.of_launches("train_time_s", bench, "launch")
    rows = [row for row in noise_model.rows if row.source == "launch" and row.metric in SPEEDS]
    if own is None and not rows:
        expected = "at least one row of launch-to-launch noise"
        hint = "Add the shipped noise model to your own: `harness noise` prints the rows."
        raise ForecastError("noise model", expected, "none", hint)
    return own or max(rows, key=lambda row: row.sd)


def time_and_cost(
    stages: Sequence[Stage],
    parts: Sequence[Part],
    *,
    ranks: int,
    launch: NoiseRow,
    price_usd_per_gpu_hour: float | None = None,
) -> Cost:
    """Forecast of time and money. `launch`: a row of the noise model (`launch_row`).

    Raises ForecastError for a stage without measured steps.
    """
    train_s = sum(stage.steps * _step_s(stage) for stage in stages)
    leaderboard_s = max(0.0, train_s - FIRST_COUNTED_STEP * _step_s(stages[0]))
    log_sd, df = _welch_satterthwaite(
        [
            (launch.sd**2, launch.known.df),
            _step_test_variance(stages, train_s),
            (STRETCH_SD**2, math.inf),
        ]
    )
    others = {part.name: part.count * part.each_s for part in parts if part.each_s is not None}
    errors = [others[part.name] * part.relative_sd for part in parts if part.name in others]
    wall_s = train_s + sum(others.values())
    wall = _interval(wall_s, math.hypot(log_sd * train_s, *errors) / wall_s, df)
    rate = None if price_usd_per_gpu_hour is None else price_usd_per_gpu_hour * ranks / 3600
    return Cost(
        train_s=_interval(train_s, log_sd, df),
        leaderboard_s=_interval(leaderboard_s, log_sd, df),
        wall_s=wall,
        usd=_scaled_by(wall, rate) if rate is not None else None,
        parts=[("steps", train_s), *others.items()],
        notes=_notes(stages, parts, launch),
        stages=[(stage.steps, _step_s(stage)) for stage in stages],
        step_sd=_step_sd(stages),
    )


def _step_s(stage: Stage) -> float:
    if not stage.step_s or min(stage.step_s) <= 0:
        expected = "at least one measured step in every stage"
        got = f"{len(stage.step_s)} of {stage.steps:,} steps"
        hint = "Raise step_test_seconds, or find out why the stage did not run."
        raise ForecastError(f"step test: {stage.name}", expected, got, hint)
    return float(np.mean(stage.step_s))


def _step_sd(stages: Sequence[Stage]) -> float:
    """Relative SD of one step, pooled over stages."""
    pairs = [(len(stage.step_s), np.array(stage.step_s) / _step_s(stage)) for stage in stages]
    df = sum(n - 1 for n, _ in pairs)
    return math.sqrt(sum(float(np.sum((each - 1) ** 2)) for _, each in pairs) / df) if df else 0.0


def _step_test_variance(stages: Sequence[Stage], train_s: float) -> tuple[float, float]:
    """Variance of the log of the whole, from the measured steps, and its degrees of freedom."""
    terms, df = 0.0, 0
    for stage in stages:
        n = len(stage.step_s)
        if n > 1:
            terms += (stage.steps / train_s) ** 2 * float(np.var(stage.step_s, ddof=1)) / n
            df += n - 1
    return terms, float(df) or math.inf


def _welch_satterthwaite(variances: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """SD and degrees of freedom of a sum of variances."""
    total = sum(variance for variance, _ in variances)
    if total == 0:
        return 0.0, math.inf
    squares = sum(variance**2 / df for variance, df in variances)
    return math.sqrt(total), total**2 / squares if squares > 0 else math.inf


def _interval(middle: float, log_sd: float, df: float) -> Estimate:
    half = t_quantile((1 + LEVEL) / 2, df) * log_sd
    low, high = middle * math.exp(-half), middle * math.exp(half)
    return Estimate(estimate=middle, low=low, high=high)


def _scaled_by(estimate: Estimate, factor: float) -> Estimate:
    low, middle, high = estimate.low, estimate.estimate, estimate.high
    return Estimate(estimate=middle * factor, low=low * factor, high=high * factor)


def _notes(stages: Sequence[Stage], parts: Sequence[Part], launch: NoiseRow) -> list[str]:
    measured = sum(len(stage.step_s) for stage in stages)
    sd = percent(launch.sd, 2)
    notes = [
        f"{measured} measured steps of {sum(stage.steps for stage in stages):,}",
        f"SD between launches {sd}: {launch.scale} on {launch.gpu}, {launch.df} df",
    ]
    for part in parts:
        source = part.source if part.each_s is not None else "not included: never measured"
        notes += [f"{part.name}: {source}"] if source else []
    stretch = percent(STRETCH_SD)
    return [*notes, f"SD between a short stretch of a run and the whole run {stretch}"]


def parts_of(
    record: Record,
    events: Sequence[Mapping[str, Any]],
    derived: Mapping[str, Any],
    *,
    ranks: int,
    evaluations: int,
    cores: int,
) -> list[Part]:
    """Evaluations and CORE, from a proxy's run: preferably the largest, on this machine.

    Their times are scaled by FLOPs per token and number of ranks, within about `SCALED_SD`.
    """
    factor = float(derived["flops_per_token"]) / float(record.derived["flops_per_token"])
    factor *= max(1, record.gpus) / ranks
    source = f"{factor:.3g} times that of {record.plan_id}, scaled by FLOPs and ranks"
    wanted = [
        ("evaluations", evaluations, "evaluation", "seconds"),
        ("CORE", cores, "core", "core_s"),
    ]
    return [
        Part(
            name=name,
            count=count,
            each_s=_seconds(events, kind, key, factor),
            relative_sd=SCALED_SD,
            source=source,
        )
        for name, count, kind, key in wanted
    ]


def _seconds(
    events: Sequence[Mapping[str, Any]], kind: str, key: str, factor: float
) -> float | None:
    values = [event.get(key) for event in events if event.get("event") == kind]
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    return float(np.median(numbers)) * factor if numbers else None
