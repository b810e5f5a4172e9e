"""Time to target: the combined effect of a change in loss and in speed, in training time.

The base is also trained for shorter and longer horizons, each with its own complete schedule. Its
final loss against ln(tokens) is the exchange rate. An arm changes ln T by the ln(tokens) that the
base needs less or more for the arm's loss, the quality part, plus the change of ln(seconds per
token), the speed part; the two add exactly. Outside the range of the horizons only the limit is
stated. Never reads disk.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.comparison.result import MetricResult
from harness.results.study_plan import Arm
from harness.stats import regression
from harness.stats.inference import Contrast
from harness.study.contrasts import Cell, Family, effects_of
from harness.study.effects import HorizonSlope, TimeToTarget
from harness.study.evidence import Evidence

Point = tuple[float, int, int, float]  # horizon, seed, tokens, loss


def horizon_slope(
    evidence: Evidence, metric: str
) -> tuple[HorizonSlope | None, regression.LossCurve | None]:
    """The base's loss against ln(tokens) over its horizons; (None, None) for a study without."""
    if not any(horizon != 1 for horizon in evidence.study.horizons):
        return None, None
    points = _points(evidence, metric)
    seeds = {seed: index for index, seed in enumerate(sorted({seed for _, seed, *_ in points}))}
    own = next((tokens for horizon, _, tokens, _ in points if horizon == 1), None)
    fit = None
    if own is not None:
        fit = regression.fit_exchange(
            np.log([tokens / own for *_, tokens, _ in points]),
            np.array([value for *_, value in points]),
            np.array([seeds[seed] for _, seed, *_ in points], dtype=np.intp),
        )
    missing = None
    if fit is None:
        missing = "no seed has the base at two horizons yet"
    elif not fit.falls:
        missing = f"{metric} did not fall with more tokens at every horizon: no exchange rate"
    return HorizonSlope(
        metric=metric,
        slope=fit.slope if fit else None,
        curvature=fit.curvature if fit else None,
        se=fit.se if fit and fit.df else None,
        df=fit.df if fit else 0,
        horizons=sorted({horizon for horizon, *_ in points}),
        runs=len(points),
        reach=_reach(points) if fit else None,
        missing=missing,
    ), fit if missing is None else None


def _points(evidence: Evidence, metric: str) -> list[Point]:
    """The base's completed runs at all horizons, those of its own length first."""
    study, base = evidence.study, evidence.base
    runs = [(1.0, run) for run in evidence.runs.get(base.name, [])]
    for arm in study.arms:
        if arm.role == "horizon" and arm.horizon not in (None, 1.0):
            runs += [(arm.horizon or 1.0, run) for run in evidence.runs.get(arm.name, [])]
    return [
        (horizon, run.planned.seed, run.completed.tokens, value)
        for horizon, run in runs
        if run.copy_of is None
        and run.completed
        and (value := run.completed.metrics.get(metric)) is not None
    ]


def _reach(points: Sequence[Point]) -> float | None:
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
    fit: regression.LossCurve | None,
) -> dict[str, TimeToTarget]:
    """Quality, speed and their sum for every arm, each with an interval corrected over the arms."""
    shared = _shared_runs(evidence, slope.metric, fit)
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


def _shared_runs(
    evidence: Evidence, metric: str, fit: regression.LossCurve | None
) -> NDArray[np.bool_] | None:
    """Which runs of the fit make the base's mean: those of its own length."""
    if fit is None:
        return None
    return np.array([horizon == 1 for horizon, *_ in _points(evidence, metric)])


def _quality_cell(
    evidence: Evidence,
    arm: Arm,
    effect: MetricResult,
    loss: Family,
    slope: HorizonSlope,
    fit: regression.LossCurve | None,
    shared: NDArray[np.bool_] | None,
) -> Cell:
    cell = Cell(arm=arm.name, n_base=effect.n_base, n_arm=effect.n_arm, method="delta")
    contrast = loss.contrasts.get(arm.name)
    missing = slope.missing or effect.missing or _other_length(evidence, arm)
    if missing or contrast is None or fit is None:
        return replace(cell, missing=missing or "no loss to compare")
    part = regression.quality_part(contrast, fit, None if effect.method == "paired" else shared)
    reach = slope.reach or 0.0
    if part is None or abs(part.estimate) > reach:
        return replace(cell, beyond=math.copysign(reach, contrast.estimate))
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
