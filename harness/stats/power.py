"""What a comparison will be able to say, before it is paid for; and how many runs would settle it.

The rates of the three outcomes of `verdict` for a true harm, exactly: the double integral over the
error of the difference and over that of the estimated SD is taken by quadrature, so a plan prints
the same figures every time. The smallest detectable effect is in `statistics`. Pure; above
`verdict`, below the plans and reports that print it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from harness.stats.distributions import sd_nodes, t_quantile

BETA = 0.1  # what is called detectable is detected nine times in ten
MOST_RUNS = 2000  # a side; beyond it the answer is that runs will not settle it


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How often each outcome comes, for one true harm."""

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


def rates(harm: float, margin: float, se: float, df: float, alpha: float = 0.05) -> Rates:
    """The rates of `verdict.decide` where the truth is `harm` and the error of the difference `se`.

    `df` are those of the SD behind the error; infinite where it is known. Without any, nothing is
    ever decided.
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
    worse = half.clip(min=to_pass)
    regression = weights @ special.ndtr((harm - worse) / se)
    return Rates(passes=float(passes), regression=float(regression))


def planned_runs(
    sd: float, margin: float, alpha: float = 0.05, beta: float = BETA, df: float | None = None
) -> int | None:
    """The fewest runs a side with P(pass | no change) and P(regression | margin) >= 1 - beta.

    `df` of a noise model's SD; None for the SD of the runs themselves, 2 (n - 1). None where
    MOST_RUNS a side are too few.
    """

    def good(n: int) -> bool:
        se, behind = sd * math.sqrt(2 / n), _df(n, n, df)
        without = rates(0.0, margin, se, behind, alpha).passes
        return min(without, rates(margin, margin, se, behind, alpha).regression) >= 1 - beta

    return _fewest(good, 1)


def more_runs(
    harm: float,
    sd: float,
    margin: float,
    runs: tuple[int, int],
    alpha: float = 0.05,
    beta: float = BETA,
    df: float | None = None,
) -> int | None:
    """How many more runs a side would settle it with probability 1 - beta, were `harm` the truth.

    None where MOST_RUNS are too few.
    """

    def good(more: int) -> bool:
        n_a, n_b = runs[0] + more, runs[1] + more
        se = sd * math.sqrt(1 / n_a + 1 / n_b)
        return rates(harm, margin, se, _df(n_a, n_b, df), alpha).settled >= 1 - beta

    return _fewest(good, 1)


def _df(n_a: int, n_b: int, df: float | None) -> float:
    return n_a + n_b - 2 if df is None else df


def _fewest(good: Callable[[int], bool], start: int) -> int | None:
    """The first number from `start` on that is good: by doubling, then by halving."""
    high = start
    while not good(high):
        if high >= MOST_RUNS:
            return None
        high = min(2 * high, MOST_RUNS)
    low = high // 2 if high > start else start - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high
