"""The ratio of two step times from ABBA segments: numbers in, numbers out.

The rule is that of `harness.stats.ab_noise`, where launches are the replicates. One launch alone
gets the interval of its own segments, labelled as such: it does not cover the spread between
launches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats.ab_noise import summarize_launches
from harness.stats.distributions import t_quantile
from harness.stats.inference import detectable

ALPHA = 0.05  # two-sided


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """ln(B) - ln(A) and what is known about it; NaN where nothing is."""

    log_ratio: float
    se: float
    df: int
    low: float
    high: float
    detectable: float
    launches: int
    windows: int

    @property
    def within_one_launch(self) -> bool:
        """Whether the interval leaves out what differs between launches."""
        return self.launches == 1


def compare(launches: Sequence[Sequence[float]]) -> Comparison:
    """From the log ratios of every launch, a list each."""
    found, windows = summarize_launches(launches), sum(map(len, launches))
    middle, se, df = found.contrast.estimate, found.contrast.se, found.contrast.df
    if len(launches) == 1:  # nothing is known of the next one: the interval is this launch's own
        se, df = found.window_sd / math.sqrt(windows), windows - 1
    critical = t_quantile(1 - ALPHA / 2, df)
    return Comparison(
        log_ratio=middle,
        se=se,
        df=int(df),
        low=middle - critical * se,
        high=middle + critical * se,
        detectable=detectable(critical, df, se),
        launches=len(launches),
        windows=windows,
    )
