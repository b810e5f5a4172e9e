"""Time to target: the combined effect of a change in loss and in speed, in training time.

The base is also trained for shorter and longer horizons, each with its own complete schedule. The
slope of its final loss on ln(tokens) is the exchange rate s < 0. An arm changes ln T by its loss
difference / (-s), the quality part, plus the change of ln(seconds per token), the speed part; the
two add exactly. Outside the range of the horizons only the limit is stated. Never reads disk.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.comparison.result import MetricResult
from harness.results.study_plan import Arm
from harness.stats import regression
from harness.stats.inference import Contrast
from harness.study.contrasts import Cell, Family, effects_of
from harness.study.effects import HorizonSlope, TimeToTarget
from harness.study.evidence import Evidence


def horizon_slope(
    evidence: Evidence, metric: str
) -> tuple[HorizonSlope | None, regression.Slope | None]:
    """The base's loss against ln(tokens) over its horizons; (None, None) for a study without."""
    study, base = evidence.study, evidence.base
    if not any(horizon != 1 for horizon in study.horizons):
        return None, None
    runs = [(1.0, run) for run in evidence.runs.get(base.name, [])]
    for arm in study.arms:
        if arm.role == "horizon" and arm.horizon not in (None, 1.0):
            runs += [(arm.horizon or 1.0, run) for run in evidence.runs.get(arm.name, [])]
    points = [
        (horizon, run.planned.seed, run.completed.tokens, value)
        for horizon, run in runs
        if run.completed and (value := run.completed.metrics.get(metric)) is not None
    ]
    horizons = sorted({horizon for horizon, *_ in points})
    seeds = {seed: index for index, seed in enumerate(sorted({seed for _, seed, *_ in points}))}
    fit = regression.fit_slope(
        np.log([float(tokens) for *_, tokens, _ in points]),
        np.array([value for *_, value in points]),
        np.array([seeds[seed] for _, seed, *_ in points], dtype=np.intp),
    )
    missing = None
    if fit is None:
        missing = "no seed has the base at two horizons yet"
    elif fit.slope >= 0:
        missing = f"{metric} did not fall with more tokens: no exchange rate"
    return HorizonSlope(
        metric=metric,
        slope=fit.slope if fit else None,
        se=fit.se if fit and fit.df else None,
        df=fit.df if fit else 0,
        horizons=horizons,
        runs=len(points),
        reach=_reach(points) if fit else None,
        missing=missing,
    ), fit if missing is None else None


def _reach(points: Sequence[tuple[float, int, int, float]]) -> float | None:
    """The largest |ln(tokens / base tokens)| that was measured."""
    at_base = [tokens for horizon, _, tokens, _ in points if horizon == 1]
    if not at_base:
        return None
    return max(abs(math.log(tokens / at_base[0])) for _, _, tokens, _ in points)


def times_to_target(
    evidence: Evidence,
    loss: Family,
    speed: Family,
    slope: HorizonSlope,
    fit: regression.Slope | None,
) -> dict[str, TimeToTarget]:
    """Quality, speed and their sum for every arm, each with an interval corrected over the arms."""
    shared = _shared_weight(evidence, slope, fit)
    quality, seconds, total = [], [], []
    for arm in evidence.arms:
        one = _quality_cell(evidence, arm, loss.effects[arm.name], loss, slope, fit, shared)
        two = _seconds_cell(arm, speed)
        quality.append(one)
        seconds.append(two)
        total.append(_total_cell(one, two))
    of_quality = effects_of("time_quality", quality, evidence, loss.share)
    of_speed = effects_of("time_speed", seconds, evidence)
    of_total = effects_of("time_total", total, evidence, loss.share)
    return {
        arm.name: TimeToTarget(
            quality=of_quality[arm.name], speed=of_speed[arm.name], total=of_total[arm.name]
        )
        for arm in evidence.arms
    }


def _shared_weight(evidence: Evidence, slope: HorizonSlope, fit: regression.Slope | None) -> float:
    """Sum of the slope's weights over the base's own runs / their number (see
    regression.quality_part).

    The points of the slope begin with the base's completed runs, in the order of `horizon_slope`.
    """
    if fit is None:
        return 0.0
    runs = evidence.runs.get(evidence.base.name, [])
    n = sum(1 for r in runs if r.completed and r.completed.metrics.get(slope.metric) is not None)
    return float(fit.weights[:n].sum()) / n if n else 0.0


def _quality_cell(
    evidence: Evidence,
    arm: Arm,
    effect: MetricResult,
    loss: Family,
    slope: HorizonSlope,
    fit: regression.Slope | None,
    shared: float,
) -> Cell:
    cell = Cell(arm=arm.name, n_base=effect.n_base, n_arm=effect.n_arm, method="delta")
    contrast = loss.contrasts.get(arm.name)
    missing = slope.missing or effect.missing or _other_length(evidence, arm)
    if missing or contrast is None or fit is None:
        return replace(cell, missing=missing or "no loss to compare")
    part = regression.quality_part(contrast, fit, shared)
    reach = slope.reach or 0.0
    if abs(part.estimate) > reach:
        return replace(cell, beyond=math.copysign(reach, part.estimate))
    return replace(cell, contrast=part)


def _other_length(evidence: Evidence, arm: Arm) -> str | None:
    """Why an arm that trained on another number of tokens has no time to target."""
    own, base = (
        {run.completed.tokens for run in evidence.runs.get(name, []) if run.completed}
        for name in (arm.name, evidence.base.name)
    )
    if own == base:
        return None
    return (
        f"trained on {_numbers(own)} tokens, the base on {_numbers(base)}: "
        "the two parts add up at equal tokens only"
    )


def _numbers(values: set[int]) -> str:
    return " or ".join(f"{value:,}" for value in sorted(values))


def _seconds_cell(arm: Arm, speed: Family) -> Cell:
    effect, contrast = speed.effects[arm.name], speed.contrasts.get(arm.name)
    return Cell(
        arm=arm.name,
        n_base=effect.n_base,
        n_arm=effect.n_arm,
        contrast=Contrast(estimate=-contrast.estimate, se=contrast.se, df=contrast.df)
        if contrast
        else None,
        method="blocks",
        missing=effect.missing,
        left_out=effect.left_out,
    )


def _total_cell(quality: Cell, seconds: Cell) -> Cell:
    n_base, n_arm = min(quality.n_base, seconds.n_base), min(quality.n_arm, seconds.n_arm)
    total = Cell(arm=quality.arm, n_base=n_base, n_arm=n_arm, method="delta")
    missing = quality.missing or (seconds.missing and f"speed: {seconds.missing}")
    if missing or seconds.contrast is None:
        return replace(total, missing=missing or "no speed to compare")
    if quality.contrast is None:
        beyond = (quality.beyond or 0.0) + seconds.contrast.estimate
        return replace(total, beyond=beyond)
    return replace(total, contrast=regression.add_contrasts(quality.contrast, seconds.contrast))
