"""What turns in the order A B B A say about the ratio of two step times: numbers in, numbers out.

Within one A B B A the drift of a host is the same for both sides, to first order, so each gives one
log ratio. Its scatter inside a launch (a pair of freshly started processes) says how well this
launch is measured, and nothing about the next: memory layout and compilation differ from launch to
launch. Hence one launch gets an interval that is labelled as its own, and several launches get

    SE^2 = 2 s_launch^2 / n + s_window^2 / windows
    s_launch^2 = max(0, (s_d^2 - s_window^2 / (windows / n)) / 2)

with n launches, `windows` A B B As in all, s_d the SD of the launches' means and s_window that of
the log ratios inside launches; Student's t with n - 1 degrees of freedom.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.dunnett import t_quantile
from harness.statistics import detectable

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


def log_ratio(first: float, second: float, third: float, fourth: float) -> float:
    """ln(B) - ln(A) of one A B B A from the times of its four turns."""
    return math.log(second * third / (first * fourth)) / 2


def compare(launches: Sequence[Sequence[float]]) -> Comparison:
    """From the log ratios of every launch, a list each."""
    assert launches, "nothing was measured"
    assert all(launches), "a launch without a window"
    n, windows = len(launches), sum(map(len, launches))
    means = [statistics.fmean(ratios) for ratios in launches]
    variance = _within(launches)
    if n == 1:
        se, df = math.sqrt(variance / windows), windows - 1
    else:
        launch = max(0.0, (statistics.variance(means) - variance * n / windows) / 2)
        se, df = math.sqrt(2 * launch / n + variance / windows), n - 1
    critical = t_quantile(1 - ALPHA / 2, df)
    middle = statistics.fmean(means)
    return Comparison(
        log_ratio=middle,
        se=se,
        df=df,
        low=middle - critical * se,
        high=middle + critical * se,
        detectable=detectable(critical, df, se),
        launches=n,
        windows=windows,
    )


def _within(launches: Sequence[Sequence[float]]) -> float:
    """Pooled variance inside launches; 0 where every launch has one window, which says nothing."""
    df = sum(len(ratios) - 1 for ratios in launches)
    if df == 0:
        return 0.0
    middles = [statistics.fmean(ratios) for ratios in launches]
    squares = (
        (ratio - middle) ** 2
        for ratios, middle in zip(launches, middles, strict=True)
        for ratio in ratios
    )
    return sum(squares) / df
