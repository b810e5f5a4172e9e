"""What a full run takes in time and money, from a step test on the very machine.

The steps are by far the most of it, and a step test knows the time of those that it took to a
fraction of a percent: by schedule stage, because stages differ in cost. What it cannot know is how
this launch will differ from that of the job, which the noise model tells, and how a run's mean step
differs from that of a short stretch of it: clocks, loaders and neighbours drift. What stands beside
steps is counted part by part, each with its own spread, and a part that nobody has measured is
named and not guessed.

All spreads are of logarithms: a time has no lower half to be symmetric about. In the flow: after
`forecast`, before the job. Pure.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from harness.compare.noise_model import NoiseModel, NoiseRow
from harness.full.forecast import LEVEL, Estimate
from harness.full.proxies import ForecastError
from harness.metrics import SPEEDS
from harness.results.recipe import NoiseScope
from harness.results.record import Record
from harness.stats.distributions import t_quantile

FIELD_FROM_STEP = 11  # steps 0 to 10 are left out of nanochat's training time
STRETCH_SD = 0.005
"""Of the logarithm of a whole run's mean step over that of a stretch near its start: 338 runs of
modded-nanogpt's optimization track, whose steps are of one shape (`benchmarks/forecast.py`)."""
SCALED_SD = 0.3  # of a part that was measured at another size


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of steps of one shape: how many the job has, and times measured of some."""

    name: str
    steps: int
    step_s: list[float]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Something beside steps: start-up, compilation, evaluations, CORE, checkpoints.

    `each_s` None: nobody has measured it. `relative_sd` is common to all of them.
    """

    name: str
    count: int
    each_s: float | None
    relative_sd: float = 0.0
    rests_on: str = ""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals of what a run takes.

    `train_s` is all steps, `field_s` those that nanochat's leaderboard counts, `wall_s` everything
    from start to end, `usd` all ranks for `wall_s`; `parts` the seconds by part, steps first.
    `stages`: (steps, seconds a step), one after the other; `step_sd`: of one step, relative.
    """

    train_s: Estimate
    field_s: Estimate
    wall_s: Estimate
    usd: Estimate | None
    parts: list[tuple[str, float]]
    notes: list[str]
    stages: list[tuple[int, float]] = []
    step_sd: float = 0.0

    def seconds(self, first: int, end: int) -> float:
        """What the steps from `first` to before `end` (from 0) take, as foretold."""
        found, at = 0.0, 0
        for steps, step_s in self.stages:
            found += step_s * max(0, min(end, at + steps) - max(first, at))
            at += steps
        return found


def launch_row(noise_model: NoiseModel, bench: NoiseScope) -> NoiseRow:
    """How much launches differ: this recipe's row, else its device's, else the widest there is.

    Raises ForecastError for a noise model without any.
    """
    own = noise_model.of_launches("train_time_s", bench, "launch")
    rows = [row for row in noise_model.rows if row.source == "launch" and row.metric in SPEEDS]
    if own is None and not rows:
        raise ForecastError(
            "noise noise model",
            "at least one row of launches",
            "none",
            "Give the noise model that ships beside your own: `harness noise` shows the rows.",
        )
    return own or max(rows, key=lambda row: row.sd)


def time_and_cost(
    stages: Sequence[Stage],
    parts: Sequence[Part],
    *,
    ranks: int,
    launch: NoiseRow,
    host: NoiseRow | None = None,
    price_usd_per_gpu_hour: float | None = None,
    level: float = LEVEL,
) -> Cost:
    """Time and money.

    `launch`, `host`: rows of the noise model (`launch_row`); `host` only where the steps were
    measured on another machine than the job's. Raises ForecastError for a stage without times.
    """
    train_s = sum(stage.steps * _step_s(stage) for stage in stages)
    field_s = max(0.0, train_s - FIELD_FROM_STEP * _step_s(stages[0]))
    rows = [row for row in (launch, host) if row is not None]
    log_sd, df = _together(
        [
            *((row.sd**2, float(row.df)) for row in rows),
            _window_variance(stages, train_s),
            (STRETCH_SD**2, math.inf),
        ]
    )
    beside = {part.name: part.count * part.each_s for part in parts if part.each_s is not None}
    errors = [beside[part.name] * part.relative_sd for part in parts if part.name in beside]
    wall_s = train_s + sum(beside.values())
    wall = _interval(wall_s, math.hypot(log_sd * train_s, *errors) / wall_s, df, level)
    rate = None if price_usd_per_gpu_hour is None else price_usd_per_gpu_hour * ranks / 3600
    return Cost(
        train_s=_interval(train_s, log_sd, df, level),
        field_s=_interval(field_s, log_sd, df, level),
        wall_s=wall,
        usd=_times(wall, rate) if rate is not None else None,
        parts=[("steps", train_s), *beside.items()],
        notes=_notes(stages, parts, launch, host),
        stages=[(stage.steps, _step_s(stage)) for stage in stages],
        step_sd=_step_sd(stages),
    )


def _step_s(stage: Stage) -> float:
    if not stage.step_s or min(stage.step_s) <= 0:
        raise ForecastError(
            f"step test: {stage.name}",
            "times of at least one step of every stage",
            f"{len(stage.step_s)} of {stage.steps:,} steps",
            "Let the step test take longer, or look why the stage did not run.",
        )
    return float(np.mean(stage.step_s))


def _step_sd(stages: Sequence[Stage]) -> float:
    """The relative SD of one step, over all stages together."""
    pairs = [(len(stage.step_s), np.array(stage.step_s) / _step_s(stage)) for stage in stages]
    df = sum(n - 1 for n, _ in pairs)
    return math.sqrt(sum(float(np.sum((each - 1) ** 2)) for _, each in pairs) / df) if df else 0.0


def _window_variance(stages: Sequence[Stage], train_s: float) -> tuple[float, float]:
    """Of the logarithm of the whole, from the steps that were measured; and its df."""
    terms, df = 0.0, 0
    for stage in stages:
        n = len(stage.step_s)
        if n > 1:
            terms += (stage.steps / train_s) ** 2 * float(np.var(stage.step_s, ddof=1)) / n
            df += n - 1
    return terms, float(df) or math.inf


def _together(variances: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """SD and df of a sum, by Welch and Satterthwaite."""
    total = sum(variance for variance, _ in variances)
    if total == 0:
        return 0.0, math.inf
    spent = sum(variance**2 / df for variance, df in variances)
    return math.sqrt(total), total**2 / spent if spent > 0 else math.inf


def _interval(middle: float, log_sd: float, df: float, level: float) -> Estimate:
    half = t_quantile((1 + level) / 2, df) * log_sd
    low, high = middle * math.exp(-half), middle * math.exp(half)
    return Estimate(estimate=middle, low=low, high=high, level=level)


def _times(found: Estimate, factor: float) -> Estimate:
    return Estimate(
        estimate=found.estimate * factor,
        low=found.low * factor,
        high=found.high * factor,
        level=found.level,
    )


def _notes(
    stages: Sequence[Stage], parts: Sequence[Part], launch: NoiseRow, host: NoiseRow | None
) -> list[str]:
    measured = sum(len(stage.step_s) for stage in stages)
    notes = [f"{measured} measured steps of {sum(stage.steps for stage in stages):,}"]
    notes.append(
        f"between launches {launch.sd:.2%}: {launch.scale} on {launch.gpu}, {launch.df} df"
    )
    if host is not None:
        notes.append(f"measured on another machine: {host.sd:.2%} between hosts, {host.df} df")
    for part in parts:
        told = part.rests_on if part.each_s is not None else "not counted: nobody has measured it"
        notes += [f"{part.name}: {told}"] if told else []
    return [*notes, f"{STRETCH_SD:.1%} between a short stretch of a run and the whole of it"]


def parts_of(
    record: Record,
    events: Sequence[Mapping[str, Any]],
    derived: Mapping[str, Any],
    *,
    ranks: int,
    evaluations: int,
    cores: int,
) -> list[Part]:
    """What stands beside the job's steps, from a proxy's run: best the largest, on this machine.

    Starting takes about as long at every size. Evaluations take what the FLOPs of a token and the
    number of ranks make of them, which is a guess to within `SCALED_SD`.
    """
    factor = float(derived["flops_per_token"]) / float(record.derived["flops_per_token"])
    factor *= max(1, record.gpus) / ranks
    start_s = record.metrics.get("startup_s")
    return [
        Part(
            name="start-up",
            count=1,
            each_s=start_s,
            relative_sd=SCALED_SD,
            rests_on=f"as in {record.plan_id}",
        ),
        _scaled(
            "evaluations", evaluations, _seconds(events, "evaluation", "seconds"), factor, record
        ),
        _scaled("CORE", cores, _seconds(events, "core", "core_s"), factor, record),
    ]


def _scaled(name: str, number: int, each_s: float | None, factor: float, record: Record) -> Part:
    return Part(
        name=name,
        count=number,
        each_s=None if each_s is None else each_s * factor,
        relative_sd=SCALED_SD,
        rests_on=f"{factor:.3g} times that of {record.plan_id}, by FLOPs and ranks",
    )


def _seconds(events: Sequence[Mapping[str, Any]], kind: str, key: str) -> float | None:
    found = [event.get(key) for event in events if event.get("event") == kind]
    numbers = [float(value) for value in found if isinstance(value, int | float)]
    return float(np.median(numbers)) if numbers else None
