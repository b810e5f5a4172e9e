"""A test that may be looked at after every block, for as long as anyone likes.

Where nobody can say beforehand how many blocks there will be, a fixed number of looks is no plan.
The mixture test pays for looking always: with block differences d of known variance V and true
effects spread as N(0, tau^2), the likelihood ratio against no effect after n blocks is

    L_n = sqrt(V / (V + n tau^2)) exp(n^2 tau^2 dbar^2 / (2 V (V + n tau^2)))

and min over n of 1 / L_n is a p-value at every moment at once (Robbins, Ann. Math. Stat. 41 (1970)
1397-1409; Howard and others, Ann. Stat. 49 (2021) 1055-1080). It costs power: fixed looks are
better wherever they can be planned. Pure; beside `sequential`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.verdict import Outcome

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Open:
    """An open comparison: its outcome, and the block at which it was reached (None: not yet)."""

    outcome: Outcome
    block: int | None
    p_harm: float  # against no change
    p_margin: float  # against a harm of the margin


def block_variance(sd: float, correlation: float = 0.0) -> float:
    """V of a block's difference: two runs of this SD, correlated where they share seed and host."""
    return 2 * sd**2 * (1 - correlation)


def running_p(differences: ArrayLike, variance: float, tau: float) -> Floats:
    """The always-valid two-sided p-value after each block, along the last axis."""
    d = np.asarray(differences, dtype=np.float64)
    n = np.arange(1, d.shape[-1] + 1)
    mean = np.cumsum(d, axis=-1) / n
    spread = variance + n * tau**2
    log_ratio = 0.5 * np.log(variance / spread) + (n * tau * mean) ** 2 / (2 * variance * spread)
    least: Floats = np.minimum.accumulate(np.exp(-np.maximum(log_ratio, -700.0)), axis=-1)
    return np.minimum(least, 1.0)


def decide(harms: Sequence[float], variance: float, margin: float, alpha: float = 0.05) -> Open:
    """The verdict on block differences in the direction of harm, in the order they came.

    Regression where the test against 0 rejects at 2 alpha (it is two-sided) and the mean is above
    0; pass where that against `margin` rejects and the mean is below. The first block that decides
    counts; at the same block a pass goes first, as in `verdict`.
    """
    assert variance > 0, f"a variance is positive, not {variance}"
    assert margin > 0, f"a margin is positive, not {margin}"
    d = np.asarray(harms, dtype=np.float64)
    if not d.size:
        return Open(outcome="inconclusive", block=None, p_harm=1.0, p_margin=1.0)
    p_harm, p_margin = (running_p(d - shift, variance, margin / 2) for shift in (0.0, margin))
    mean = np.cumsum(d) / np.arange(1, d.size + 1)
    passes = _first((p_margin <= 2 * alpha) & (mean < margin))
    worse = _first((p_harm <= 2 * alpha) & (mean > 0))
    outcome: Outcome = "inconclusive"
    if min(passes, worse) < math.inf:
        outcome = "pass" if passes <= worse else "regression"
    block = None if outcome == "inconclusive" else int(min(passes, worse)) + 1
    return Open(
        outcome=outcome, block=block, p_harm=float(p_harm[-1]), p_margin=float(p_margin[-1])
    )


def _first(flags: NDArray[np.bool_]) -> float:
    """The index of the first true flag; infinite without one."""
    return float(np.argmax(flags)) if flags.any() else math.inf
