"""Two small least-squares models: arms inside blocks, and loss against training length.

The first compares speeds, which drift from session to session: every block has its own level. The
second gives the exchange rate between loss and training tokens, by which a study states an effect
on quality as a change of the time to a target. Pure: numbers in, numbers out.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.stats.inference import Contrast, from_parts

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BlockFit:
    """Arm effects against arm 0 from y = block + arm + noise.

    `estimates` leave arm 0 out; each is its row of `coefficients` @ the values.
    """

    estimates: Floats  # (k,)
    coefficients: Floats  # (k, runs)
    arms: NDArray[np.intp]  # (runs,)
    residuals: Floats  # (runs,)
    leverages: Floats  # (runs,)
    sd: float  # NaN without degrees of freedom
    df: int

    def contrast(self, index: int) -> Contrast:
        """The contrast of arm `index + 1` with arm 0, with one SD for all arms."""
        se = self.sd * float(np.linalg.norm(self.coefficients[index]))
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
    design = (np.eye(n_arms)[arms] - (counts / sizes[:, None])[blocks])[:, 1:]  # (runs, k)
    coefficients = covariance @ design.T
    estimates = coefficients @ values
    residuals = centred - design @ estimates
    df = len(values) - n_blocks - n_arms + 1
    return BlockFit(
        estimates=estimates,
        coefficients=coefficients,
        arms=arms,
        residuals=residuals,
        leverages=1 / sizes[blocks] + (design * coefficients.T).sum(axis=1),
        sd=math.sqrt(float(residuals @ residuals) / df) if df > 0 else math.nan,
        df=max(df, 0),
    )


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
    return from_parts(d / -s, [(from_loss, loss.df), (from_slope, slope.df)])


def add_contrasts(one: Contrast, other: Contrast) -> Contrast:
    """The sum of two independent contrasts: estimates add exactly, df by Satterthwaite."""
    return from_parts(one.estimate + other.estimate, [(one.se**2, one.df), (other.se**2, other.df)])
