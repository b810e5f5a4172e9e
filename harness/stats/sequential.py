"""Three looks at a comparison while its runs come in, at the error rate of one.

Uncorrected peeking multiplies false alarms. O'Brien and Fleming's boundary is wide early and nearly
free at the end: at the share f of the planned runs a limit uses z = C / sqrt(f) in place of z, with
C such that the chance to cross at any look is alpha. The boundary is one-sided and the same for
both ends of the verdict; each end keeps its own alpha. With a noise model's SD, z becomes the t
quantile of the same probability with the noise model's df.

Where the SD is the runs' own, it is estimated anew at every look, and looks depend on each other
otherwise than C supposes: alpha is exceeded a little (.054 for .05 at three to five runs). So there
the tails of all looks are scaled to add up to alpha, which bounds the error whatever the
dependence.

Source: O'Brien and Fleming, Biometrics 35 (1979) 549-556; C by
the recursive integration of Armitage, McPherson and Rowe (JRSS A 132 (1969) 235-244).

Pure; above `verdict`, whose `decide` takes the critical value of a look.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from harness.stats.distributions import t_quantile

LOOKS = 3
_NODES = 200
_LOWEST = -8.5  # in SDs of the sum: nothing below it


def looks(runs: int, count: int = LOOKS) -> tuple[int, ...]:
    """After how many runs a side to look, for a budget of `runs` a side: thirds, rounded up."""
    assert runs >= 1
    return tuple(sorted({math.ceil(runs * k / count) for k in range(1, count + 1)}))


def criticals(
    alpha: float, df: Sequence[float], shares: Sequence[float], own: bool = False
) -> tuple[float, ...]:
    """The critical value of each look, for the df behind its SD and its share of the runs.

    `own`: the SD is that of the runs so far, and not a noise model's. A look without df has none
    (NaN).
    """
    tails = look_tails(alpha, shares, df if own else None)
    return tuple(t_quantile(1 - tail, at) for tail, at in zip(tails, df, strict=True))


def look_tails(
    alpha: float, shares: Sequence[float], own_df: Sequence[float] | None = None
) -> tuple[float, ...]:
    """The one-sided probability beyond the limit of each look, taken by itself.

    `own_df`: of each look where the SD is the runs' own; looks without df use up nothing.
    """
    from scipy import special

    c = boundary(alpha, tuple(shares))
    tails = [float(special.ndtr(-c / math.sqrt(share))) for share in shares]
    if own_df is None:
        return tuple(tails)
    used = sum(tail for tail, df in zip(tails, own_df, strict=True) if df > 0)
    return tuple(tail * alpha / used if used else tail for tail in tails)


@lru_cache(maxsize=256)
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

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
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


def _normal(z: np.ndarray) -> np.ndarray:
    return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
