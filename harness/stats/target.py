"""The one-sample test of a target: is the mean of runs beyond it?

Records of modded-nanogpt have to show p < 0.01 for a mean validation loss below 3.28. Student's t
with the runs' own SD, one-sided, as `scipy.stats.ttest_1samp`. Pure: numbers in, numbers out.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.stats.distributions import t_one_sided_p, t_quantile
from harness.stats.power import MOST_RUNS


@dataclass(frozen=True, kw_only=True)
class TargetTest:
    """`p` is None for fewer than two runs, or for equal ones, which show no noise.

    `runs`: the fewest with which this mean and SD pass; None where no feasible number does.
    """

    n: int
    mean: float
    sd: float | None
    p: float | None
    runs: int | None


def target_test(values: Sequence[float], target: float, sign: int, level: float) -> TargetTest:
    """Tests that the mean is below `target`, or above it for `sign` -1, with p below `level`."""
    n, mean = len(values), float(np.mean(values))
    sd = float(np.std(values, ddof=1)) if n > 1 else 0.0
    if not sd > 0:
        return TargetTest(n=n, mean=mean, sd=None, p=None, runs=None)
    inside = sign * (target - mean) / sd  # in SDs of one run
    return TargetTest(
        n=n,
        mean=mean,
        sd=sd,
        p=t_one_sided_p(inside * math.sqrt(n), n - 1),
        runs=_runs(inside, level),
    )


def _runs(inside: float, level: float) -> int | None:
    """The fewest runs whose mean, so many SDs inside the target, has a p below `level`."""
    if inside <= 0:
        return None

    def enough(n: int) -> bool:
        return inside * math.sqrt(n) > t_quantile(1 - level, n - 1)

    found = 2 + bisect_left(range(2, MOST_RUNS + 1), True, key=enough)
    return found if found <= MOST_RUNS else None
