"""Two small least-squares models: arms inside blocks, and loss against training length.

The first compares speeds, which drift from session to session: every block has its own level. The
second gives the exchange rate between loss and training tokens, by which a study states an effect
on quality as a change of the time to a target. Pure: numbers in, numbers out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.stats.inference import Contrast

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BlockFit:
    """Arm effects against arm 0 from y = block + arm + noise.

    `estimates` and `unit_covariance` (times sd squared: their covariance) leave arm 0 out.
    """

    estimates: Floats  # (k,)
    unit_covariance: Floats  # (k, k)
    sd: float  # NaN without degrees of freedom
    df: int

    def contrast(self, index: int) -> Contrast:
        """The contrast of arm `index + 1` with arm 0."""
        se = self.sd * math.sqrt(self.unit_covariance[index, index])
        return Contrast(estimate=float(self.estimates[index]), se=se, df=self.df)


def fit_blocks(values: Floats, blocks: NDArray[np.intp], arms: NDArray[np.intp]) -> BlockFit:
    """Least squares of y = block + arm, one value a run: values, blocks, arms are all (runs,).

    Blocks and arms are numbered from 0 without gaps and arm 0 is in every block, so that every
    effect can be estimated. Block means are removed first, which leaves one small (k, k) system
    for any number of runs.
    """
    n_blocks, n_arms = int(blocks.max()) + 1, int(arms.max()) + 1
    counts = np.zeros((n_blocks, n_arms))
    np.add.at(counts, (blocks, arms), 1.0)
    sizes = counts.sum(axis=1)
    centred = values - (np.bincount(blocks, values, n_blocks) / sizes)[blocks]
    normal = np.diag(counts.sum(axis=0)) - counts.T @ (counts / sizes[:, None])
    covariance = np.linalg.inv(normal[1:, 1:])
    estimates: Floats = covariance @ np.bincount(arms, centred, n_arms)[1:].astype(np.float64)
    every = np.concatenate([[0.0], estimates])
    fitted = every[arms] - (counts @ every / sizes)[blocks]
    df = len(values) - n_blocks - n_arms + 1
    residual = float(((centred - fitted) ** 2).sum())
    sd = math.sqrt(residual / df) if df > 0 else math.nan
    return BlockFit(estimates=estimates, unit_covariance=covariance, sd=sd, df=max(df, 0))


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Loss against ln(tokens) inside blocks: the exchange rate between quality and training.

    `weights` (runs,) are those of the least-squares estimate, slope = weights @ losses; they give
    its covariance with the mean of the base's own runs, which are part of both.
    """

    slope: float
    se: float  # NaN without degrees of freedom
    df: int
    sd: float
    weights: Floats


def fit_slope(ln_tokens: Floats, losses: Floats, blocks: NDArray[np.intp]) -> Slope | None:
    """Least-squares slope with one intercept a block; None where no block holds two horizons."""
    n_blocks = int(blocks.max()) + 1 if len(blocks) else 0
    if not n_blocks:
        return None
    sizes = np.bincount(blocks, minlength=n_blocks)
    x = ln_tokens - (np.bincount(blocks, ln_tokens, n_blocks) / sizes)[blocks]
    y = losses - (np.bincount(blocks, losses, n_blocks) / sizes)[blocks]
    spread = float(x @ x)
    if spread <= 1e-12:
        return None
    slope = float(x @ y) / spread
    df = len(losses) - n_blocks - 1
    sd = math.sqrt(float(((y - slope * x) ** 2).sum()) / df) if df > 0 else math.nan
    return Slope(slope=slope, se=sd / math.sqrt(spread), df=max(df, 0), sd=sd, weights=x / spread)


def quality_part(loss: Contrast, slope: Slope, shared_weight: float = 0.0) -> Contrast:
    """Change of ln T at equal speed: loss difference / (-slope), by the delta method.

    The error of the slope is carried. `shared_weight` is the sum of the slope's weights over the
    runs that also make the base's mean, divided by the number of runs in that mean: cov(loss,
    slope) is minus that times the variance. df by Welch and Satterthwaite. Raises AssertionError
    for a slope >= 0.
    """
    assert slope.slope < 0, f"loss must fall with tokens, slope {slope.slope}"
    s, d = slope.slope, loss.estimate
    from_loss = (loss.se / s) ** 2
    covariance = -shared_weight * slope.sd**2
    from_slope = d**2 * slope.se**2 / s**4 - 2 * d * covariance / s**3
    if from_slope < -from_loss / 2:  # the arm's own noise, about half of the loss's, always stays
        from_slope = -from_loss / 2
    return Contrast(
        estimate=d / -s,
        se=math.sqrt(from_loss + from_slope),
        df=_satterthwaite([(from_loss, loss.df), (from_slope, slope.df)]),
    )


def add_contrasts(one: Contrast, other: Contrast) -> Contrast:
    """The sum of two independent contrasts: estimates add exactly, df by Satterthwaite."""
    return Contrast(
        estimate=one.estimate + other.estimate,
        se=math.hypot(one.se, other.se),
        df=_satterthwaite([(one.se**2, one.df), (other.se**2, other.df)]),
    )


def _satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """df of a sum of variances; 0 when one that matters is unknown."""
    total = sum(variance for variance, _ in parts)
    if math.isnan(total):
        return 0.0
    if total == 0:
        return min(df for _, df in parts)
    return total**2 / sum(variance**2 / df for variance, df in parts if variance != 0)
