"""Intervals, p-values and minimum detectable effects of contrasts.

The functions know nothing of runs, arms or files. They draw no random numbers, and the tests
compare them with simulation, scipy and published tables. scipy is imported inside functions so that
`harness --help` is fast; only `scipy.special`, because importing `scipy.stats` takes over a second.

A *contrast* is the difference between an arm and its control, with a standard error and the degrees
of freedom (df) behind it; `alpha` of an interval is two-sided; `correction` names the correction
for several arms against one control.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.stats import Correction
from harness.stats.distributions import t_quantile, t_two_sided_p


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """One SD for several groups of replicates."""

    sd: float
    df: int
    means: tuple[float, ...]


def pool(groups: Sequence[Sequence[float]]) -> Pooled:
    """Pool the SD of `groups`, one list of values an arm, about their means; df = sum of n - 1."""
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    assert all(len(array) for array in arrays), "an arm without values cannot be pooled"
    means = [float(array.mean()) for array in arrays]
    squares = sum(
        float(((array - mean) ** 2).sum()) for array, mean in zip(arrays, means, strict=True)
    )
    df = sum(len(array) - 1 for array in arrays)
    return Pooled(sd=math.sqrt(squares / df) if df else math.nan, df=df, means=tuple(means))


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Arm minus control, its standard error and the df behind it (NaN and 0 when unknown)."""

    estimate: float
    se: float
    df: float


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A two-sided interval; `p` has the same correction, and is below alpha iff 0 is outside."""

    low: float
    high: float
    critical: float
    p: float


def from_parts(estimate: float, parts: Sequence[tuple[float, float]]) -> Contrast:
    """A contrast whose variance is a sum of independent parts: (variance, df) each.

    The df are those of Welch and Satterthwaite; 0 where a part that matters is unknown.
    """
    total = sum(variance for variance, _ in parts)
    if math.isnan(total):
        return Contrast(estimate=estimate, se=math.nan, df=0)
    if total == 0:
        return Contrast(estimate=estimate, se=0.0, df=min(df for _, df in parts))
    below = sum(variance**2 / df for variance, df in parts if variance != 0)
    df = total**2 / below if below else math.inf  # where every variance is known exactly
    return Contrast(estimate=estimate, se=math.sqrt(total), df=df)


def _scale(n_control: int, n_arm: int) -> float:
    return math.sqrt(1 / n_control + 1 / n_arm)


def intervals(
    contrasts: Sequence[Contrast],
    alpha: float,
    correction: Correction = "none",
) -> list[Interval]:
    """Two-sided intervals of several contrasts with one control, with a correction.

    - `none`: each on its own.
    - `dunnett`: all at once, with each contrast's own SD and df: Sidak's bound (Tamhane's T2).
    - `holm`: the interval of a contrast is taken at the level at which Holm's procedure decided it,
      so that it leaves 0 out exactly when the procedure rejects.
    - `benjamini_hochberg`: at level R alpha / k for R rejections, the false-coverage rate of
      Benjamini and Yekutieli (JASA 100 (2005) 71-81); again it agrees with the decisions.
    """
    raw = [_raw_p(contrast) for contrast in contrasts]
    k = len(contrasts)
    if correction == "holm":
        levels, adjusted = holm(raw, alpha)
    elif correction == "benjamini_hochberg":
        levels, adjusted = _benjamini_hochberg(raw, alpha)
    elif correction == "dunnett":
        levels = [sidak(alpha, k)] * k
        adjusted = [-math.expm1(k * math.log1p(-p)) if p < 1 else 1.0 for p in raw]
    else:
        levels, adjusted = [alpha] * k, raw
    return [
        _interval(contrast, t_quantile(1 - level / 2, contrast.df), p)
        for contrast, level, p in zip(contrasts, levels, adjusted, strict=True)
    ]


def sidak(alpha: float, k: int) -> float:
    """The level of each of `k` intervals that together hold with probability 1 - alpha."""
    return -math.expm1(math.log1p(-alpha) / max(k, 1))


def arm_level(alpha: float, arms: int, correction: Correction) -> float:
    """The level at which one of `arms` arms is judged; of a procedure, its first, hardest step."""
    if correction == "dunnett":
        return sidak(alpha, arms)
    return alpha if correction == "none" else alpha / max(arms, 1)


def _interval(contrast: Contrast, critical: float, p: float) -> Interval:
    half = critical * contrast.se
    return Interval(
        low=contrast.estimate - half, high=contrast.estimate + half, critical=critical, p=p
    )


def _raw_p(contrast: Contrast) -> float:
    if contrast.se == 0:
        return 1.0 if contrast.estimate == 0 else 0.0
    return t_two_sided_p(contrast.estimate / contrast.se, contrast.df)


def holm(raw: Sequence[float], alpha: float) -> tuple[list[float], list[float]]:
    """Holm's procedure on raw p-values: the level each was decided at, and adjusted p-values."""
    k = len(raw)
    order = sorted(range(k), key=lambda index: raw[index])
    levels, adjusted = [0.0] * k, [0.0] * k
    level, running, stopped = alpha / max(k, 1), 0.0, False
    for rank, index in enumerate(order):
        if not stopped:
            level = alpha / (k - rank)
            stopped = raw[index] > level
        running = max(running, min(1.0, (k - rank) * raw[index]))
        levels[index], adjusted[index] = level, running
    return levels, adjusted


def _benjamini_hochberg(raw: Sequence[float], alpha: float) -> tuple[list[float], list[float]]:
    k = len(raw)
    order = sorted(range(k), key=lambda index: raw[index])
    adjusted, running = [0.0] * k, 1.0
    for rank in range(k, 0, -1):
        index = order[rank - 1]
        running = min(running, raw[index] * k / rank)
        adjusted[index] = running
    rejections = sum(p <= alpha for p in adjusted)
    return [max(rejections, 1) * alpha / max(k, 1)] * k, adjusted


def minimum_detectable_effect(
    sd: float,
    df: float,
    n_control: int,
    n_arm: int,
    alpha: float,
    beta: float = 0.1,
    arms: int = 1,
    correction: Correction = "none",
    sides: Literal[1, 2] = 2,
) -> float:
    """The true effect that a plan would call non-zero with probability about 1 - beta.

    (critical + t_{1-beta}) * sd * sqrt(1/n_control + 1/n_arm), in the units of `sd`. The critical
    value is that of `arms` arms under `correction`; Holm and Benjamini-Hochberg are taken at their
    first and hardest step, alpha / arms. `sides=1` is for one-sided limits. Infinite without
    degrees of freedom.
    """
    if not df > 0 or n_control < 1 or n_arm < 1:
        return math.inf
    critical = t_quantile(1 - arm_level(alpha, arms, correction) / sides, df)
    return detectable(critical, df, sd * _scale(n_control, n_arm), beta)


def detectable(critical: float, df: float, se: float, beta: float = 0.1) -> float:
    """(critical + t_{1-beta}) * se: the smallest effect that a comparison could have detected."""
    return (critical + t_quantile(1 - beta, df)) * se


def effect_variance(contrasts: Sequence[Contrast]) -> float:
    """tau squared: the variance of true effects about 0, by moments; 0 where noise explains all."""
    if not contrasts:
        return 0.0
    return max(0.0, float(np.mean([c.estimate**2 - c.se**2 for c in contrasts])))


def shrink(contrast: Contrast, tau2: float) -> float:
    """effect * tau2 / (tau2 + se2): the best estimate of an effect selected for its size."""
    total = tau2 + contrast.se**2
    return contrast.estimate * tau2 / total if total > 0 else contrast.estimate
