"""Decides one comparison: pass, regression or inconclusive.

Harm is the difference in the direction that is worse, so one rule serves losses, times and scores.
With the one-sided limits of the harm, each at level alpha:

    pass           the upper limit is below the margin
    regression     else, the lower limit is above 0
    inconclusive   else

A change without harm is called a regression with probability alpha at most, and a change whose harm
equals the margin passes with probability alpha at most. Between the two neither answer is an error.

The SD behind the limits is the noise model's where a row fits, because a few runs estimate
their own spread poorly. A side that varies more than the noise model allows is reported, and the
limits are then Welch's.

Where both sides have the same seeds, runs of one seed may share most of their noise: by how much
depends on the change, and cannot be known before. So the differences inside pairs, with their own
SD, get PAIRED_SHARE of the error rate and the two sides the rest; the narrower limits count. By the
union bound that keeps the error rate for any correlation. It costs 6 % of width where pairing does
not help, and gains a factor of 2 to 5 from a correlation of 0.95 on
(benchmarks/statistics/pairing.py). Pure: numbers in, numbers out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast, from_parts, pool

Outcome = Literal["pass", "regression", "inconclusive"]
Method = Literal[
    "noise_model", "stated", "pooled", "welch", "moderated", "paired", "blocks", "delta", "exact"
]
"""How a difference and its error were estimated."""

GUARD_ALPHA = 0.01
"""A side has excess variance where its variance is less probable than this under the known SD."""
GUARD_RUNS = 3  # two runs lie equally far from their mean: too little evidence about a spread
PAIRED_SHARE = 0.2
PAIRS = 3  # with fewer, a share of the error rate lies too far out in the tail of t


@dataclass(frozen=True, kw_only=True)
class KnownSd:
    """The SD of one run, estimated elsewhere, and the degrees of freedom behind it."""

    sd: float
    df: float  # infinite where the SD is stated and not estimated


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Side B minus side A: the contrast, and how its error was estimated.

    `sd` is that of one run as it is reported; `run_sd` the one to plan more runs with, so that the
    error of n runs a side is run_sd * sqrt(2 / n). `excess_variance` names the sides that vary more
    than the known SD allows (0: A, 1: B). `paired`: the same difference from pairs of runs.
    """

    contrast: Contrast
    method: Method
    sd: float | None = None
    run_sd: float | None = None
    excess_variance: tuple[int, ...] = ()
    paired: Contrast | None = None

    @property
    def of_pairs(self) -> "Difference":
        """The difference as its pairs show it."""
        assert self.paired is not None
        run_sd = self.paired.se * math.sqrt((self.paired.df + 1) / 2)
        return Difference(contrast=self.paired, method="paired", sd=run_sd, run_sd=run_sd)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The outcome with the limits behind it, all in the direction of harm."""

    outcome: Outcome
    harm: float
    lower: float
    upper: float
    margin: float
    alpha: float

    @property
    def small_harm(self) -> bool:
        """A pass that is worse beyond noise. Each is within the margin, but they add up."""
        return self.outcome == "pass" and self.lower > 0


def decide(
    harm: Contrast,
    margin: float,
    alpha: float = 0.05,
    critical: float | None = None,
    critical_worse: float | None = None,
) -> Decision:
    """The decision on `harm` (positive is worse). `critical` replaces the t quantile at alpha.

    `critical_worse` replaces it for the lower limit, which is further out where several metrics
    share the error rate of a regression. Without degrees of freedom the limits are unknown (NaN)
    and the outcome is inconclusive.
    """
    assert margin > 0, f"a margin is positive, not {margin}"
    if critical is None:
        critical = t_quantile(1 - alpha, harm.df)
    if critical_worse is None:
        critical_worse = critical
    lower, upper = harm.estimate - critical_worse * harm.se, harm.estimate + critical * harm.se
    outcome: Outcome = "inconclusive"
    if upper < margin:
        outcome = "pass"
    elif lower > 0:
        outcome = "regression"
    return Decision(
        outcome=outcome, harm=harm.estimate, lower=lower, upper=upper, margin=margin, alpha=alpha
    )


def difference(
    a: Sequence[float], b: Sequence[float], known: KnownSd | None = None, *, stated: bool = False
) -> Difference:
    """Mean of `b` minus mean of `a`, with the SD `known` of one run, or with their own.

    Without `known`: one SD pooled over both sides where they have equally many runs, which unequal
    variances then hardly disturb, or where one side has a single run; else Welch's limits. df 0 (no
    limits) where neither side has a second run. `stated`: the known SD is the user's and not the
    noise model's.
    """
    own = pool([a, b])
    if known is None:
        shared = len(a) == len(b) or min(len(a), len(b)) == 1
        se = own.sd * math.sqrt(1 / len(a) + 1 / len(b))
        return Difference(
            contrast=Contrast(estimate=own.means[1] - own.means[0], se=se, df=own.df)
            if shared
            else welch(a, b),
            method="pooled" if shared else "welch",
            sd=own.sd,
            run_sd=own.sd,
        )
    excess = tuple(side for side, values in enumerate((a, b)) if has_excess_variance(values, known))
    if excess:
        return Difference(
            contrast=welch(a, b), method="welch", sd=own.sd, run_sd=own.sd, excess_variance=excess
        )
    se = known.sd * math.sqrt(1 / len(a) + 1 / len(b))
    return Difference(
        contrast=Contrast(estimate=own.means[1] - own.means[0], se=se, df=known.df),
        method="stated" if stated else "noise_model",
        sd=known.sd,
        run_sd=known.sd,
    )


def of_pairs(a: Sequence[float], b: Sequence[float], least: int = PAIRS) -> Contrast | None:
    """B minus A from pairs of runs, `a[i]` with `b[i]`; None for fewer than `least`, or for equal
    changes.

    Changes that are equal to rounding are no evidence about noise.
    """
    assert len(a) == len(b), f"{len(a)} runs against {len(b)}"
    change = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    sd, size = float(change.std(ddof=1)) if len(change) > 1 else 0.0, float(np.abs([*a, *b]).max())
    if len(change) < least or sd <= 1e-9 * size:
        return None
    return Contrast(
        estimate=float(change.mean()), se=sd / math.sqrt(len(change)), df=len(change) - 1
    )


def has_excess_variance(values: Sequence[float], known: KnownSd) -> bool:
    """Whether a side of at least three runs varies more than the known SD allows.

    (n - 1) s^2 / SD^2 is compared with n - 1 times the 99 % quantile of F(n - 1, df), which is that
    of chi-square where the SD is known exactly.
    """
    n = len(values)
    if n < GUARD_RUNS:
        return False
    ratio = float(np.var(values, ddof=1)) / known.sd**2 if known.sd else math.inf
    return ratio > f_quantile(n - 1, known.df, GUARD_ALPHA)


def f_quantile(df: float, known_df: float, tail: float) -> float:
    """The value that a ratio of variances exceeds with probability `tail`; chi-square / df where
    the second is known exactly."""
    from scipy import special

    if math.isinf(known_df):
        return float(special.chdtri(df, tail) / df)
    return float(special.fdtri(df, known_df, 1 - tail))


def welch(a: Sequence[float], b: Sequence[float]) -> Contrast:
    """B minus A with each side's own variance; a side of one run takes the other's."""
    n_a, n_b = len(a), len(b)
    own = [float(np.var(side, ddof=1)) if len(side) > 1 else None for side in (a, b)]
    estimate = float(np.mean(b) - np.mean(a))
    if own[0] is None or own[1] is None:
        shared = own[0] if own[0] is not None else own[1]
        assert shared is not None, "a side with excess variance has at least three runs"
        return Contrast(
            estimate=estimate, se=math.sqrt(shared * (1 / n_a + 1 / n_b)), df=max(n_a, n_b) - 1
        )
    return from_parts(estimate, [(own[0] / n_a, n_a - 1), (own[1] / n_b, n_b - 1)])
