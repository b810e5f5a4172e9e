"""Two small least-squares models: arms inside blocks, and loss against training length.

The first compares speeds, which drift from session to session: every block has its own level. The
second gives the exchange rate between loss and training tokens, by which a study states an effect
on quality as a change of the time to a target; benchmarks/statistics/time_to_target.py measures how
often its intervals hold. Pure: numbers in, numbers out.
"""

import math
from dataclasses import dataclass, replace

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
class LossCurve:
    """Loss against x = ln(tokens / the base's tokens), a parabola with one intercept a block.

    `curvature` is the coefficient of x^2, 0 where fewer than three horizons were measured.
    `weights` give the terms (slope, curvature) = weights @ losses, and so their covariance with the
    mean of the base's own runs, which are part of both.
    """

    slope: float  # at the base's own length
    curvature: float
    weights: Floats  # (terms, runs), terms: 1 or 2
    horizons: Floats  # the values of x, ascending, 0 among them
    sd: float  # NaN without degrees of freedom
    df: int

    @property
    def se(self) -> float:
        """The standard error of the slope."""
        return self.sd * float(np.linalg.norm(self.weights[0]))

    def loss(self, x: Floats) -> Floats:
        """The loss at x beyond that of the base."""
        return self.slope * x + self.curvature * x**2

    @property
    def falls(self) -> bool:
        """Whether the loss falls from each horizon to the next."""
        return bool((np.diff(self.loss(self.horizons)) < 0).all())


def fit_exchange(ln_tokens: Floats, losses: Floats, blocks: NDArray[np.intp]) -> LossCurve | None:
    """Least squares over the base's runs at several horizons; None where no block has two.

    `ln_tokens` (runs,) is 0 for the base's own length.
    """
    n_blocks = int(blocks.max()) + 1 if len(blocks) else 0
    if not n_blocks:
        return None
    horizons = np.unique(np.round(ln_tokens, 9))
    terms = np.stack([ln_tokens**power for power in range(1, min(len(horizons), 3))] or [ln_tokens])
    sizes = np.bincount(blocks, minlength=n_blocks)
    design = terms - _block_means(terms, blocks, sizes)
    y = losses - _block_means(losses[None], blocks, sizes)[0]
    while len(design) and np.linalg.matrix_rank(design, tol=1e-6) < len(design):
        design = design[:-1]  # no block has three horizons, or two
    if not len(design):
        return None
    weights: Floats = np.linalg.solve(design @ design.T, design).astype(np.float64)
    found = weights @ y
    df = len(losses) - n_blocks - len(design)
    residual = float(((y - found @ design) ** 2).sum())
    return LossCurve(
        slope=float(found[0]),
        curvature=float(found[1]) if len(found) > 1 else 0.0,
        weights=weights,
        horizons=np.unique(np.append(horizons, 0.0)),
        sd=math.sqrt(residual / df) if df > 0 else math.nan,
        df=max(df, 0),
    )


def _block_means(rows: Floats, blocks: NDArray[np.intp], sizes: NDArray[np.intp]) -> Floats:
    """Each row's mean over a run's block: (rows, runs)."""
    sums = np.stack([np.bincount(blocks, row, len(sizes)) for row in rows])
    means: Floats = (sums / sizes)[:, blocks]
    return means


def quality_part(
    loss: Contrast, rate: LossCurve, shared: NDArray[np.bool_] | None = None
) -> Contrast | None:
    """Change of ln T at equal speed: minus the x at which the base has the arm's loss.

    Between two horizons a loss curve lies near the parabola through all of them or near the chord
    of the two: the estimate is midway, and half their distance counts as an SD of the curve. The
    error of the parabola's terms is carried by the delta method. `shared` marks the runs of the fit
    that make the base's mean in `loss`; None where that mean's error is not in it (pairs). df by
    Welch and Satterthwaite. None where the parabola never has that loss. Raises AssertionError for
    a loss that does not fall.
    """
    assert rate.falls, f"loss must fall with tokens, slope {rate.slope}"
    d, c = loss.estimate, rate.curvature
    root = rate.slope**2 + 4 * c * d
    if not root > 0:
        return None
    x = 2 * d / (rate.slope - math.sqrt(root))
    gradient = np.array([x, x**2])[: len(rate.weights)] @ rate.weights  # (runs,)
    covariance = 0.0 if shared is None else -float(gradient[shared].mean()) * rate.sd**2
    from_loss = loss.se**2 / root
    from_curve = (float(gradient @ gradient) * rate.sd**2 - 2 * covariance) / root
    if from_curve < -from_loss / 2:  # the arm's own noise, about half of the loss's, always stays
        from_curve = -from_loss / 2
    on_chord = _on_chords(d, rate)
    part = from_parts(-(x + on_chord) / 2, [(from_loss, loss.df), (from_curve, rate.df)])
    return replace(part, se=math.hypot(part.se, (x - on_chord) / 2))


def _on_chords(d: float, rate: LossCurve) -> float:
    """The x with this loss on the chords between neighbouring horizons; the end ones go on."""
    knots, losses = rate.horizons, rate.loss(rate.horizons)
    right = int(np.clip(np.searchsorted(-losses, -d), 1, len(knots) - 1))
    share = (d - losses[right - 1]) / (losses[right] - losses[right - 1])
    return float(knots[right - 1] + share * (knots[right] - knots[right - 1]))


def add_contrasts(one: Contrast, other: Contrast) -> Contrast:
    """The sum of two independent contrasts: estimates add exactly, df by Satterthwaite."""
    return from_parts(one.estimate + other.estimate, [(one.se**2, one.df), (other.se**2, other.df)])
