"""The noise of a speed A/B: launches are the replicates, windows inside a launch are not.

A launch is a pair of freshly started processes. Memory layout and compilation differ from launch to
launch, and that difference stays however long both then run. Inside a launch the sides alternate,
A B B A, and each such window gives one log ratio of step times, in which slow drift of the host
cancels. So the mean over n launches with W windows in all has

    SE^2 = 2 s_launch^2 / n + s_window^2 / W

and more windows reduce only the second part. Pure: numbers in, numbers out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.stats.decision import KnownSd, has_excess_variance
from harness.stats.inference import Contrast

OWN_LAUNCHES = 5  # from this number on the launches' own SD replaces the noise model's


@dataclass(frozen=True, kw_only=True)
class LaunchSummary:
    """ln(step time B) - ln(step time A) over several launches, with the two SDs behind its error.

    `launch_sd` is that of one process: a launch's difference has twice its variance.
    """

    contrast: Contrast
    launch_sd: float
    window_sd: float  # NaN where no launch has two windows
    from_noise_model: bool


def log_ratio(first: float, second: float, third: float, fourth: float) -> float:
    """ln(B) - ln(A) of one A B B A, from the step times of its four segments."""
    return math.log(second * third / (first * fourth)) / 2


def summarize_launches(
    ratios: Sequence[Sequence[float]],
    known: KnownSd | None = None,
    *,
    keep: bool = False,
) -> LaunchSummary:
    """From the log ratios of the ABBA windows, one list a launch; launches have equal weights.

    `known` is the noise model's s_launch, used until there are OWN_LAUNCHES, or with `keep` longer,
    for as long as the launches do not vary more than it allows. Otherwise the launches' own SD is
    used; a single launch has none, and df is then 0.
    """
    windows = [np.asarray(launch, dtype=np.float64) for launch in ratios]
    assert windows, "a speed comparison has at least one launch"
    assert all(len(launch) for launch in windows), "a launch has at least one window"
    n, total = len(windows), sum(len(launch) for launch in windows)
    means = np.array([launch.mean() for launch in windows])
    inside = total - n
    squares = sum(float(((launch - launch.mean()) ** 2).sum()) for launch in windows)
    window_variance = squares / inside if inside else math.nan
    within = 0.0 if math.isnan(window_variance) else window_variance
    excess_variance = _has_excess(means, known, within * n / total)
    trusted = (n < OWN_LAUNCHES or keep) and not excess_variance
    from_noise_model = known is not None and trusted
    if known is not None and from_noise_model:
        launch_variance, df = known.sd**2, known.df
    else:
        launch_variance, df = _own_variance(means, within * n / total), float(n - 1)
    se = math.sqrt(2 * launch_variance / n + within / total)
    return LaunchSummary(
        contrast=Contrast(estimate=float(means.mean()), se=se, df=df),
        launch_sd=math.sqrt(launch_variance),
        window_sd=math.sqrt(window_variance),
        from_noise_model=from_noise_model,
    )


def _has_excess(means: np.ndarray, known: KnownSd | None, of_mean: float) -> bool:
    """Whether launches vary more than the noise model's SD and their own windows explain."""
    if known is None:
        return False
    sd = math.sqrt(2 * known.sd**2 + of_mean)
    return has_excess_variance([float(mean) for mean in means], KnownSd(sd=sd, df=known.df))


def _own_variance(means: np.ndarray, of_mean: float) -> float:
    """s_launch^2: the variance of launches beyond `of_mean`, that of the means of their windows."""
    if len(means) < 2:
        return math.nan
    return max(0.0, (float(means.var(ddof=1)) - of_mean) / 2)
