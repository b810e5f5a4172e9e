"""Looks at a comparison while its runs come in, at the error rate of one look.

Uncorrected peeking multiplies false alarms. Two rules prevent it; the upper and the lower limit
each keep their own alpha.

**Planned looks** (O'Brien and Fleming): wide limits early, almost that of one look at the end. At
the share f of the planned runs a limit uses z = C / sqrt(f) in place of z, with C such that the
probability of crossing at any look is alpha. With a noise model's SD, z becomes the t quantile of
the same probability with the noise model's df. An SD that is estimated from the runs themselves
changes at every look, and alpha is exceeded a little (.054 for .05 at three to five runs); the
tails of all looks are then scaled to add up to alpha, which bounds the error by Bonferroni.

**Always valid** (mixture test): a look after every block, for as long as the budget lasts. With
block differences d of known variance V and true effects distributed as N(0, tau^2), the likelihood
ratio against no effect after n blocks is

    L_n = sqrt(V / (V + n tau^2)) exp(n^2 tau^2 dbar^2 / (2 V (V + n tau^2)))

and min over n of 1 / L_n is a p-value at every look at once. It costs power: planned looks are
better wherever they can be planned. Blocks enter only through their mean and its variance V / n, so
the same holds for any estimate whose errors have independent increments as its variance falls, such
as the mean of a growing candidate minus that of a fixed baseline.

Sources: O'Brien and Fleming, Biometrics 35 (1979) 549-556, C by the recursive integration of
Armitage, McPherson and Rowe (JRSS A 132 (1969) 235-244); Robbins, Ann. Math. Stat. 41 (1970)
1397-1409; Howard and others, Ann. Stat. 49 (2021) 1055-1080. Pure: numbers in, numbers out.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.distributions import t_quantile

Floats = NDArray[np.float64]

LOOKS = 3
LEAST_TAIL = 1e-12  # below it a t quantile is numerically infinite
_NODES = 200
_LOWEST = -8.5  # in SDs of the sum: nothing below it


def looks(runs: int, count: int = LOOKS) -> tuple[int, ...]:
    """The numbers of runs a side at which to look, for `runs` a side: thirds, rounded up."""
    assert runs >= 1
    return tuple(sorted({math.ceil(runs * k / count) for k in range(1, count + 1)}))


def criticals(
    alpha: float, df: Sequence[float], shares: Sequence[float], own: bool = False
) -> tuple[float, ...]:
    """The critical value of each look, from the df behind its SD and its share of the runs.

    `own`: the SD is estimated from the runs so far. A look without df has none (NaN).
    """
    tails = look_tails(alpha, shares, df if own else None)
    return tuple(t_quantile(1 - tail, at) for tail, at in zip(tails, df, strict=True))


def look_tails(
    alpha: float, shares: Sequence[float], own_df: Sequence[float] | None = None
) -> tuple[float, ...]:
    """The one-sided probability beyond the limit of each look, on its own.

    `own_df`: the df of each look, where the SD is estimated from the runs themselves. A look
    without df uses up no alpha.
    """
    from scipy import special

    c = boundary(alpha, tuple(shares))
    tails = [float(special.ndtr(-c / math.sqrt(share))) for share in shares]
    if own_df is None:
        return tuple(tails)
    used = sum(tail for tail, df in zip(tails, own_df, strict=True) if df > 0)
    return tuple(tail * alpha / used if used else tail for tail in tails)


@lru_cache(maxsize=4096)
def boundary(alpha: float, shares: tuple[float, ...] = (1 / 3, 2 / 3, 1.0)) -> float:
    """C of O'Brien and Fleming, one-sided: P(Z_k >= C / sqrt(share_k) for some k) = alpha."""
    from scipy import optimize, special

    assert shares[-1] == 1.0, f"the last look has all runs, not {shares[-1]:g} of them"
    single = float(special.ndtri(1 - alpha))
    several = float(special.ndtri(1 - alpha / len(shares)))
    return float(
        optimize.brentq(
            lambda c: crossing(c, shares) - alpha, single - 1e-9, several + 1e-9, xtol=1e-10
        )
    )


def crossing(c: float, shares: Sequence[float]) -> float:
    """P(W(share) >= c at some look) of a Brownian motion W: Z_k = W(share_k) / sqrt(share_k)."""
    from scipy import special

    nodes, weights = _legendre()
    points = (c - _LOWEST) / 2 * nodes + (c + _LOWEST) / 2
    weights = (c - _LOWEST) / 2 * weights
    density, before = None, 0.0
    crossed = 0.0
    for share in shares:
        step = math.sqrt(share - before)
        if density is None:
            crossed += float(special.ndtr(-c / step))
            density = _normal(points / step) / step
        else:
            crossed += float((weights * density) @ special.ndtr((points - c) / step))
            moves = _normal((points[:, None] - points[None, :]) / step) / step
            density = moves @ (weights * density)
        before = share
    return crossed


@lru_cache(maxsize=1)
def _legendre() -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss and Legendre, which take longer than the integral itself."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


def _normal(z: np.ndarray) -> np.ndarray:
    return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


# --- a look after every block


def block_variance(sd: float, correlation: float = 0.0) -> float:
    """V of a block's difference: two runs of this SD, correlated if they share seed and host."""
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


def mixture_tail(se: float, tau: float, alpha: float) -> float:
    """The one-sided probability beyond the always-valid limit of an estimate with this error.

    The limit is z standard errors from the estimate, with z such that `running_p` equals 2 alpha
    there. So an interval of that width holds the truth at every look at once, each side with
    probability 1 - alpha. Where the SD is estimated, the limit is the t quantile at this tail.
    """
    from scipy import special

    assert tau > 0, f"the SD of true effects is positive, not {tau}"
    if se == 0:
        return alpha
    ratio = (tau / se) ** 2
    z = math.sqrt(2 * (1 + ratio) / ratio * math.log(math.sqrt(1 + ratio) / (2 * alpha)))
    return max(LEAST_TAIL, float(special.ndtr(-z)))
