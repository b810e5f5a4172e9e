"""The power of a comparison before it is paid for, and how many runs would settle it.

The rates of the three outcomes of `decision.decide` for a true harm, computed exactly: the double
integral over the error of the difference and over that of the estimated SD is taken by quadrature,
so that a plan prints the same figures every time. Pure: numbers in, numbers out.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from harness.stats.distributions import sd_nodes, t_quantile

BETA = 0.1  # a detectable effect is detected nine times in ten
MOST_RUNS = 2000  # a side; more are not feasible


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The probability of each outcome, for one true harm."""

    passes: float
    regression: float

    @property
    def settled(self) -> float:
        """P(not inconclusive)."""
        return self.passes + self.regression

    @property
    def inconclusive(self) -> float:
        """P(neither pass nor regression)."""
        return max(0.0, 1 - self.settled)


def rates(
    harm: float, margin: float, se: float, df: float, alpha: float = 0.05, share: float = 1.0
) -> Rates:
    """The rates of `decision.decide` for a true `harm` and a standard error `se` of the difference.

    `df` are those of the SD behind the error; infinite where it is known. Without any, nothing is
    decided. `share`: of alpha for a regression, where several metrics have it together.
    """
    from scipy import special

    if not df > 0:
        return Rates(passes=0.0, regression=0.0)
    if se == 0:
        return Rates(passes=float(harm < margin), regression=float(harm >= margin))
    scales, weights = sd_nodes(float(df))
    half = t_quantile(1 - alpha, df) * se * scales
    to_pass = margin - half  # an estimate below this passes; from here on it needs half to regress
    passes = weights @ special.ndtr((to_pass - harm) / se)
    to_regress = half if share == 1 else t_quantile(1 - alpha * share, df) * se * scales
    worse = to_regress.clip(min=to_pass)
    regression = weights @ special.ndtr((harm - worse) / se)
    return Rates(passes=float(passes), regression=float(regression))


def more_runs(
    harm: float,
    sd: float,
    margin: float,
    runs: tuple[int, int],
    alpha: float = 0.05,
    beta: float = BETA,
    df: float | None = None,
    share: float = 1.0,
    pairs: bool = False,
    only_b: bool = False,
) -> int | None:
    """How many more runs a side, or of B alone, would settle it with probability 1 - beta if `harm`
    is the truth.

    `alpha`: the error rate at which all runs together will be read; `share` as in `rates`;
    `pairs`: `sd` is that of differences inside pairs, over the square root of 2. None where
    MOST_RUNS are too few.
    """

    def enough(more: int) -> bool:
        n_a, n_b = runs[0] + (0 if only_b else more), runs[1] + more
        se = sd * math.sqrt(1 / n_a + 1 / n_b)
        behind = n_a - 1 if pairs else _df(n_a, n_b, df)
        return rates(harm, margin, se, behind, alpha, share).settled >= 1 - beta

    return _fewest(enough)


def _df(n_a: int, n_b: int, df: float | None) -> float:
    return n_a + n_b - 2 if df is None else df


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The first number from 1 on that is enough: by doubling, then by bisection."""
    high = 1
    while not enough(high):
        if high >= MOST_RUNS:
            return None
        high = min(2 * high, MOST_RUNS)
    numbers = range(high // 2 + 1, high)
    return numbers.start + bisect_left(numbers, True, key=enough)
