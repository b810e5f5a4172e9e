"""The noise of a speed A/B: launches are the replicates, windows inside a launch are not.

A launch is a pair of freshly started processes. Memory layout and compilation differ from launch to
launch, and that difference stays however long both then run. Inside a launch the sides alternate,
A B B A, and each such window gives one log ratio of step times, in which slow drift of the host
cancels. So the mean over n launches with W windows in all has

    SE^2 = 2 s_launch^2 / n + s_window^2 / W

and more windows reduce only the second part.

A few launches estimate their own s_launch poorly, so the noise model's is used; but with launches
twice as noisy as its row, limits by the row alone err in 19 % of cases at 4 %. So where launches
vary more than the row, the variance is moderated (Smyth, Stat. Appl. Genet. Mol. Biol. 3 (2004)):
the row counts as PRIOR_DF degrees of freedom beside the launches' own. Where they vary so much more
that the row would show it in GUARD_ALPHA of cases only, their own SD stands alone. Both only widen
the limits. benchmarks/statistics/launch_guard.py has the error rates. Pure: numbers in, numbers
out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.stats import decision
from harness.stats.decision import KnownSd
from harness.stats.inference import Contrast

OWN_LAUNCHES = 5  # from this number on the launches' own SD replaces the noise model's
PRIOR_DF = 2.0  # of the row, where launches vary more than it allows
GUARD_ALPHA = 0.05  # up to OWN_LAUNCHES, where stricter tests see nothing

LaunchNoise = Literal["noise_model", "moderated", "own"]


@dataclass(frozen=True, kw_only=True)
class LaunchSummary:
    """ln(step time B) - ln(step time A) over several launches, with the two SDs behind its error.

    `launch_sd` is that of one process: a launch's difference has twice its variance.
    """

    contrast: Contrast
    launch_sd: float
    window_sd: float  # NaN where no launch has two windows
    noise: LaunchNoise


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

    `known` is the noise model's s_launch, used until there are OWN_LAUNCHES, or with `keep` for
    good, unless the launches vary more than it allows. Otherwise the launches' own SD is used; a
    single launch has none, and df is then 0.
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
    prior = known if n < OWN_LAUNCHES or keep else None
    launch_variance, df, noise = _launch_variance(means, prior, within * n / total)
    se = math.sqrt(2 * launch_variance / n + within / total)
    return LaunchSummary(
        contrast=Contrast(estimate=float(means.mean()), se=se, df=df),
        launch_sd=math.sqrt(launch_variance),
        window_sd=math.sqrt(window_variance),
        noise=noise,
    )


def _launch_variance(
    means: np.ndarray, known: KnownSd | None, of_mean: float
) -> tuple[float, float, LaunchNoise]:
    """s_launch^2 and its df, from the noise model, the launches or both."""
    n, own = len(means), _own_variance(means, of_mean)
    if known is None:
        return own, n - 1.0, "own"
    if n < 2 or own <= known.sd**2:
        return known.sd**2, known.df, "noise_model"
    if _has_excess(means, known, of_mean):
        return own, n - 1.0, "own"
    variance = (PRIOR_DF * known.sd**2 + (n - 1) * own) / (PRIOR_DF + n - 1)
    return variance, min(known.df, PRIOR_DF + n - 1), "moderated"


def _has_excess(means: np.ndarray, known: KnownSd, of_mean: float) -> bool:
    """Whether launches vary more than the noise model's SD and their own windows explain."""
    n, expected = len(means), 2 * known.sd**2 + of_mean
    alpha = GUARD_ALPHA if n < OWN_LAUNCHES else decision.GUARD_ALPHA
    return bool(float(means.var(ddof=1)) / expected > decision.f_quantile(n - 1, known.df, alpha))


def _own_variance(means: np.ndarray, of_mean: float) -> float:
    """s_launch^2: the variance of launches beyond `of_mean`, that of the means of their windows."""
    if len(means) < 2:
        return math.nan
    return max(0.0, (float(means.var(ddof=1)) - of_mean) / 2)
