"""The decision on many comparisons at once, as arrays.

Tables of error rates take a million of decisions. A test compares this arithmetic with
`harness.stats.decision`, comparison by comparison.
"""

import math
from typing import Any

import numpy as np
from scipy import special

from harness.stats import decision

Array = np.ndarray[Any, np.dtype[Any]]

ALPHA = 0.05
REGRESSION, INCONCLUSIVE, PASS = 1, 0, -1


def outcomes(a: Array, b: Array, known: Array | None, df: float | None, level: float) -> Array:
    """The outcomes of (gates, n) runs of two sides; each limit holds with probability `level`.

    `known` (gates,): the noise model's SDs, with `df`; None for the runs' own noise.
    """
    estimate = b.mean(axis=1) - a.mean(axis=1)
    se, behind = noise_of(a, b, known, df)
    with np.errstate(invalid="ignore"):
        half = np.where(behind > 0, special.stdtrit(np.maximum(behind, 1e-9), level), np.nan) * se
        passes, worse = estimate + half < 1.0, estimate - half > 0
    return np.where(passes, PASS, np.where(worse, REGRESSION, INCONCLUSIVE))


def noise_of(a: Array, b: Array, known: Array | None, df: float | None) -> tuple[Array, Array]:
    """Standard error and df of each gate: the noise model's, pooled, or Welch's."""
    gates, n = a.shape
    if n == 1:
        if known is None or df is None:
            return np.full(gates, np.nan), np.zeros(gates)
        return known * math.sqrt(2), np.full(gates, df)
    v_a, v_b = a.var(axis=1, ddof=1) / n, b.var(axis=1, ddof=1) / n
    welch_df = (v_a + v_b) ** 2 / (v_a**2 + v_b**2) * (n - 1)
    if known is None or df is None:
        return np.sqrt(v_a + v_b), np.full(gates, 2.0 * (n - 1))
    excess_variance = np.zeros(gates, dtype=bool)
    if n >= decision.GUARD_RUNS:
        limit = special.fdtri(n - 1, df, 1 - decision.GUARD_ALPHA)
        excess_variance = np.maximum(v_a, v_b) * n / known**2 > limit
    se = np.where(excess_variance, np.sqrt(v_a + v_b), known * math.sqrt(2 / n))
    return se, np.where(excess_variance, welch_df, df)


def percent(share: float) -> str:
    """A share as tables print it, in percent without the sign."""
    return f"{100 * share:.1f}"
