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
from numpy.typing import NDArray

from harness.stats import Correction
from harness.stats.distributions import (
    dunnett_critical,
    dunnett_loadings,
    max_abs_t_probability,
    t_quantile,
    t_two_sided_p,
)

Floats = NDArray[np.float64]

BROWN_FORSYTHE_ALPHA = 0.01
"""Below this p-value the arms' variances are taken to differ, and each contrast keeps its own."""


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The noise of several arms: one SD for all, and whether they may share it.

    `equal_variances` is False when the Brown-Forsythe test rejects at `BROWN_FORSYTHE_ALPHA`.
    `brown_forsythe_p` is None when fewer than two arms have three runs: two runs lie equally far
    from their median, so arms of two are no evidence of unequal variances.
    """

    sd: float
    df: int
    means: tuple[float, ...]
    sds: tuple[float, ...]  # NaN for an arm of one run
    counts: tuple[int, ...]
    equal_variances: bool
    brown_forsythe_p: float | None


def pool(groups: Sequence[Sequence[float]]) -> Pooled:
    """Pool the SD of `groups`, one list of values an arm, about their means; df = sum of n - 1."""
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    assert all(len(array) for array in arrays), "an arm without values cannot be pooled"
    means = [float(array.mean()) for array in arrays]
    squares = [
        float(((array - mean) ** 2).sum()) for array, mean in zip(arrays, means, strict=True)
    ]
    df = sum(len(array) - 1 for array in arrays)
    p = brown_forsythe(arrays)
    return Pooled(
        sd=math.sqrt(sum(squares) / df) if df else math.nan,
        df=df,
        means=tuple(means),
        sds=tuple(
            math.sqrt(square / (len(array) - 1)) if len(array) > 1 else math.nan
            for square, array in zip(squares, arrays, strict=True)
        ),
        counts=tuple(len(array) for array in arrays),
        equal_variances=p is None or p >= BROWN_FORSYTHE_ALPHA,
        brown_forsythe_p=p,
    )


def brown_forsythe(groups: Sequence[Floats]) -> float | None:
    """p-value of equal variances, by one-way analysis of |x - median|; None where it is undefined.

    As `scipy.stats.levene(center="median")`, whose import is slow. Arms of fewer than three runs
    are left out (see `Pooled`). Source: Brown and Forsythe, JASA 69 (1974) 364-367.
    """
    from scipy import special

    spreads = [np.abs(group - np.median(group)) for group in groups if len(group) >= 3]
    if len(spreads) < 2:
        return None
    total = sum(len(spread) for spread in spreads)
    grand = sum(float(spread.sum()) for spread in spreads) / total
    between = sum(len(spread) * (float(spread.mean()) - grand) ** 2 for spread in spreads)
    within = sum(float(((spread - spread.mean()) ** 2).sum()) for spread in spreads)
    if within == 0:
        return None if between == 0 else 0.0
    df_between, df_within = len(spreads) - 1, total - len(spreads)
    statistic = (between / df_between) / (within / df_within)
    return float(special.fdtrc(df_between, df_within, statistic))


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


def contrasts_with_control(pooled: Pooled, control: int = 0) -> list[Contrast]:
    """Every other arm minus arm `control`: pooled SD, or Welch's where the variances differ."""
    return [_contrast(pooled, control, arm) for arm in range(len(pooled.means)) if arm != control]


def _contrast(pooled: Pooled, control: int, arm: int) -> Contrast:
    estimate = pooled.means[arm] - pooled.means[control]
    n0, n1 = pooled.counts[control], pooled.counts[arm]
    if pooled.equal_variances:
        return Contrast(estimate=estimate, se=pooled.sd * _scale(n0, n1), df=pooled.df)
    v0, v1 = pooled.sds[control] ** 2 / n0, pooled.sds[arm] ** 2 / n1
    if not v0 + v1 > 0:  # NaN (an arm of one run) or no variation at all
        return Contrast(
            estimate=estimate, se=math.sqrt(v0 + v1), df=0 if math.isnan(v0 + v1) else 1
        )
    df = (v0 + v1) ** 2 / (v0**2 / (n0 - 1) + v1**2 / (n1 - 1))
    return Contrast(estimate=estimate, se=math.sqrt(v0 + v1), df=df)


def _scale(n_control: int, n_arm: int) -> float:
    return math.sqrt(1 / n_control + 1 / n_arm)


def intervals(
    contrasts: Sequence[Contrast],
    alpha: float,
    correction: Correction = "none",
    loadings: Sequence[float] | None = None,
) -> list[Interval]:
    """Two-sided intervals of several contrasts with one control, with a correction.

    - `none`: each on its own.
    - `dunnett`: all at once, with the correlations that the shared control causes. Needs `loadings`
      (`dunnett_loadings`); without them (unequal variances) Sidak's bound is used: Tamhane's T2.
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
    elif correction == "dunnett" and k > 1 and loadings is None:
        levels = [-math.expm1(math.log1p(-alpha) / k)] * k
        adjusted = [-math.expm1(k * math.log1p(-p)) if p < 1 else 1.0 for p in raw]
    elif correction == "dunnett" and k > 1 and loadings is not None:
        return [_dunnett_interval(contrast, alpha, tuple(loadings)) for contrast in contrasts]
    else:
        levels, adjusted = [alpha] * k, raw
    return [
        _interval(contrast, t_quantile(1 - level / 2, contrast.df), p)
        for contrast, level, p in zip(contrasts, levels, adjusted, strict=True)
    ]


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


def one_sided_limits(contrast: Contrast, alpha: float) -> tuple[float, float]:
    """The lower and the upper one-sided limit, each at level `alpha` on its own."""
    half = t_quantile(1 - alpha, contrast.df) * contrast.se
    return contrast.estimate - half, contrast.estimate + half


def _dunnett_interval(contrast: Contrast, alpha: float, loadings: tuple[float, ...]) -> Interval:
    critical = dunnett_critical(alpha, contrast.df, loadings)
    if contrast.se == 0 or not contrast.df > 0:
        return _interval(contrast, critical, _raw_p(contrast))
    statistic = abs(contrast.estimate / contrast.se)
    p = max(0.0, 1 - max_abs_t_probability(statistic, contrast.df, loadings))
    return _interval(contrast, critical, p)


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
    first and hardest step, alpha / arms. `sides=1` is for one-sided limits; there `dunnett` takes
    alpha / arms too. Infinite without degrees of freedom.
    """
    if not df > 0 or n_control < 1 or n_arm < 1:
        return math.inf
    if correction == "dunnett" and arms > 1 and sides == 2:
        loadings = dunnett_loadings(n_control, [n_arm] * arms)
        critical = dunnett_critical(alpha, df, loadings)
    else:
        level = alpha if correction == "none" else alpha / arms
        critical = t_quantile(1 - level / sides, df)
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
