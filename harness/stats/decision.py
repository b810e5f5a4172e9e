"""Decides one comparison: pass, regression or inconclusive.

Takes the values of two sides and a rule fixed beforehand; never reads disk, never prints. Harm is
the difference in the direction that is worse, so one rule serves losses, times and scores alike:
with the one-sided limits of the harm at level alpha each,

    pass           the upper limit is below the margin
    regression     else, the lower limit is above 0
    inconclusive   else

A change without harm is called a regression with probability alpha at most, and one whose harm is
the whole margin passes with probability alpha at most. Between the two neither answer is an error.

The noise behind the limits is the noise model's where there is a row that fits, because a handful
of runs says little about its own spread; unless a side varies more than the noise model allows,
which is a finding of its own and makes the limits Welch's. In the flow: above `statistics`, below
everything that compares.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast, contrasts_with_control, pool

Outcome = Literal["pass", "regression", "inconclusive"]
Noise = Literal["noise_model", "pooled", "welch"]

GUARD_ALPHA = 0.01
"""A side whose variance exceeds the noise model's beyond this probability is not taken for the
same.
"""
GUARD_RUNS = 3  # two runs lie equally far from their mean: they say too little about a spread


@dataclass(frozen=True, kw_only=True)
class Known:
    """The SD of one run, known from elsewhere, and the degrees of freedom behind it."""

    sd: float
    df: float  # infinite where it is stated and not estimated


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Side B minus side A: the contrast, whose noise it rests on, and which sides vary too much."""

    contrast: Contrast
    noise: Noise
    sd: float  # of one run; of side B's mean times root n where Welch's
    excess_variance: tuple[int, ...] = ()  # 0: side A, 1: side B


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome with the limits it rests on, all in the direction of harm."""

    outcome: Outcome
    harm: float
    lower: float
    upper: float
    margin: float
    alpha: float

    @property
    def small_harm(self) -> bool:
        """A pass that is worse beyond noise: within the margin, but such harms add up."""
        return self.outcome == "pass" and self.lower > 0


def decide(
    harm: Contrast, margin: float, alpha: float = 0.05, critical: float | None = None
) -> Verdict:
    """The verdict on `harm` (positive is worse). `critical` replaces t's quantile at a look.

    Without degrees of freedom the limits are unknown (NaN) and the outcome is inconclusive.
    """
    assert margin > 0, f"a margin is positive, not {margin}"
    if critical is None:
        critical = t_quantile(1 - alpha, harm.df)
    half = critical * harm.se
    lower, upper = harm.estimate - half, harm.estimate + half
    outcome: Outcome = "inconclusive"
    if upper < margin:
        outcome = "pass"
    elif lower > 0:
        outcome = "regression"
    return Verdict(
        outcome=outcome, harm=harm.estimate, lower=lower, upper=upper, margin=margin, alpha=alpha
    )


def difference(a: Sequence[float], b: Sequence[float], known: Known | None = None) -> Difference:
    """Mean of `b` minus mean of `a`, with the SD `known` of one run, or with their own.

    Without `known`: one SD pooled over both sides, or Welch's where Brown and Forsythe's test finds
    the variances different; df 0 (no limits) where neither side has a second run.
    """
    own = pool([a, b])
    if known is None:
        (contrast,) = contrasts_with_control(own)
        return Difference(
            contrast=contrast, noise="pooled" if own.equal_variances else "welch", sd=own.sd
        )
    excess_variance = tuple(side for side, values in enumerate((a, b)) if has_risen(values, known))
    if not excess_variance:
        se = known.sd * math.sqrt(1 / len(a) + 1 / len(b))
        contrast = Contrast(estimate=own.means[1] - own.means[0], se=se, df=known.df)
        return Difference(contrast=contrast, noise="noise_model", sd=known.sd)
    return Difference(
        contrast=welch(a, b), noise="welch", sd=own.sd, excess_variance=excess_variance
    )


def has_risen(values: Sequence[float], known: Known) -> bool:
    """Whether a side of at least three runs varies more than the noise model's SD allows.

    (n - 1) s^2 / SD^2 is held against n - 1 times the 99 % quantile of F(n - 1, df), which is that
    of chi-square where the SD is known exactly.
    """
    from scipy import special

    n = len(values)
    if n < GUARD_RUNS:
        return False
    ratio = (n - 1) * float(np.var(values, ddof=1)) / known.sd**2 if known.sd else math.inf
    if math.isinf(known.df):
        return bool(ratio > special.chdtri(n - 1, GUARD_ALPHA))
    return bool(ratio > (n - 1) * special.fdtri(n - 1, known.df, 1 - GUARD_ALPHA))


def welch(a: Sequence[float], b: Sequence[float]) -> Contrast:
    """Each side's own variance; a side of one run borrows the other's."""
    n_a, n_b = len(a), len(b)
    own = [float(np.var(side, ddof=1)) if len(side) > 1 else None for side in (a, b)]
    estimate = float(np.mean(b) - np.mean(a))
    if own[0] is None or own[1] is None:
        shared = own[0] if own[0] is not None else own[1]
        assert shared is not None, "a side that has risen has at least three runs"
        return Contrast(
            estimate=estimate, se=math.sqrt(shared * (1 / n_a + 1 / n_b)), df=max(n_a, n_b) - 1
        )
    v_a, v_b = own[0] / n_a, own[1] / n_b
    df = (v_a + v_b) ** 2 / (v_a**2 / (n_a - 1) + v_b**2 / (n_b - 1))
    return Contrast(estimate=estimate, se=math.sqrt(v_a + v_b), df=df)
