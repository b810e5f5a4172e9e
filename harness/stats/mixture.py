"""A test that may be looked at after every block, for as long as anyone likes.

Where nobody can say beforehand how many blocks there will be, a fixed number of looks is no plan.
The mixture test pays for looking always: with block differences d of known variance V and true
effects spread as N(0, tau^2), the likelihood ratio against no effect after n blocks is

    L_n = sqrt(V / (V + n tau^2)) exp(n^2 tau^2 dbar^2 / (2 V (V + n tau^2)))

and min over n of 1 / L_n is a p-value at every moment at once (Robbins, Ann. Math. Stat. 41 (1970)
1397-1409; Howard and others, Ann. Stat. 49 (2021) 1055-1080). It costs power: fixed looks are
better wherever they can be planned.

Blocks enter only through their mean and its variance V / n. So the same holds for any estimate
whose errors have independent increments as its variance falls, such as the mean of a candidate's
runs minus that of a baseline's, of which one side stays and the other grows. Pure; beside
`sequential`, whose looks it takes the place of.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEAST_TAIL = 1e-12  # below it a quantile of t can no longer be told from infinity


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


def tail(se: float, tau: float, alpha: float) -> float:
    """The one-sided probability beyond the limit of an estimate with this standard error.

    The limit is z standard errors from the estimate, with z such that the test of `running_p` has
    its p-value at 2 alpha there. So an interval of that width holds the truth at every look at
    once, each side with probability 1 - alpha, and `verdict.decide` may be asked at all of them.
    Where the SD is estimated, the limit is taken at the t quantile of this probability.
    """
    from scipy import special

    assert tau > 0, f"the spread of true effects is positive, not {tau}"
    if se == 0:
        return alpha
    ratio = (tau / se) ** 2
    z = math.sqrt(2 * (1 + ratio) / ratio * math.log(math.sqrt(1 + ratio) / (2 * alpha)))
    return max(LEAST_TAIL, float(special.ndtr(-z)))
