"""A law fitted to a few sizes, with an interval that holds beyond the last of them.

Three sizes cannot tell a power law from one above a floor, and from d14 to d24 the two part by
more than anything else that is not known. So no law is chosen. Every line of a family (`laws`) is
taken with the weight that the sizes give it, and everything that is not known is averaged over:

    shape       the one parameter of the law that the sizes hardly show
    a and b     the line's two coefficients
    scatter     how far a size lies off any smooth law: models come in whole heads and batches
    replicate   how far two runs of one size lie apart; measured and not assumed

This is Bayes' rule on a grid: exact, without random numbers, a few milliseconds. With three sizes
the interval is mostly what is known of shapes beforehand; four correct it. `benchmarks/forecast.py`
shows how often the intervals hold. After `laws`, before `forecast`. Numbers in, numbers out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.full.laws import BentLine, Floats, Law, Mixture, Points
from harness.stats.decision import KnownSd

SCATTERS, REPLICATES = 25, 9  # nodes of the grid
_SCATTER_SDS = 4.0  # to either side: a family may lie far off its law, and be told so
_LEAST_WEIGHT = 1e-7  # of a possibility, relative to the likeliest: below it none is felt


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """A law after it has seen the sizes: m possibilities with their weights.

    Each has a shape, a line (mean and covariance of its coefficients), a scatter, and the SD of one
    run about its size's mean; `at_target` takes that one's place for a run yet to be made, where
    the noise at its scale is known.
    """

    law: Law
    weights: Floats  # (m,), sum 1
    shapes: Floats  # (m,)
    coefficients: Floats  # (m, 2)
    covariance: Floats  # (m, 2, 2)
    scatters: Floats  # (m,)
    replicates: Floats  # (m,)
    at_target: KnownSd | None = None

    def line(self, x: Sequence[float]) -> Mixture:
        """The law at x, several x being equally likely."""
        return self._mixture(x, noisy=False)

    def run(self, x: Sequence[float]) -> Mixture:
        """One new run at x, several x being equally likely."""
        return self._mixture(x, noisy=True)

    def _mixture(self, x: Sequence[float], *, noisy: bool) -> Mixture:
        places = self.law.abscissa(self.shapes, np.asarray(x, dtype=np.float64))
        rows = np.stack([np.ones_like(places), places], axis=-1)  # (m, x, 2)
        means = np.einsum("mxi,mi->mx", rows, self.coefficients)
        variances = np.einsum("mxi,mij,mxj->mx", rows, self.covariance, rows)
        shapes = np.broadcast_to(self.shapes[:, None], means.shape)
        if noisy:
            y = self.law.value(shapes, means)
            scatters, replicates = self._noise(y)
            variances = variances + (scatters + replicates) * self.law.steepness(shapes, y) ** 2
        weights = np.broadcast_to(self.weights[:, None] / len(x), means.shape)
        return Mixture(
            law=self.law,
            weights=weights.ravel(),
            shapes=shapes.ravel(),
            means=means.ravel(),
            sds=np.sqrt(variances).ravel(),
        )

    def _noise(self, y: Floats) -> tuple[Floats, Floats]:
        """Variances of one run at y (m, x): of its size about the law, of the run about that."""
        scatters = (self.scatters[:, None] * self.law.scale(y)) ** 2
        if self.at_target is not None:
            return scatters, np.full_like(scatters, self.at_target.sd**2)
        return scatters, (self.replicates[:, None] * self.law.scale(y)) ** 2

    def shares(self, x: Sequence[float]) -> dict[str, float]:
        """What the variance of a new run at x is made of; sum 1."""
        line = self.line(x)
        y = self.law.value(line.shapes, line.means)
        in_y = line.sds / self.law.steepness(line.shapes, y)
        scatters, replicates = self._noise(y.reshape(-1, len(x)))
        where = (y.reshape(-1, len(x)) * self.weights[:, None]).sum(0)  # the mean at each x
        parts = {
            "where the target stands": (np.tile(where, len(self.weights)) - where.mean()) ** 2,
            "the law's shape": (y - np.tile(where, len(self.weights))) ** 2,
            "its coefficients": in_y**2,
            "scatter of sizes": scatters.ravel(),
            "replicates": replicates.ravel(),
        }
        sizes = {name: float(line.weights @ part) for name, part in parts.items()}
        return {name: size / sum(sizes.values()) for name, size in sizes.items()}

    def shape(self, probability: float) -> float:
        """A quantile of the shape."""
        return _quantile(self.shapes, self.weights, probability)

    def scatter(self, probability: float) -> float:
        """A quantile of the scatter, in the terms of the law."""
        return _quantile(self.scatters, self.weights, probability)

    def slope(self, probability: float) -> float:
        """A quantile of b, between components only where they have a spread of their own."""
        return Mixture(
            law=BentLine(centre=0.0),
            weights=self.weights,
            shapes=np.zeros_like(self.weights),
            means=self.coefficients[:, 1],
            sds=np.sqrt(self.covariance[:, 1, 1]),
        ).quantile(probability)


def fit(
    law: Law, points: Points, replicate: KnownSd | None = None, at_target: KnownSd | None = None
) -> Posterior:
    """The law after it has seen `points`, at least three of them.

    `replicate`: SD of one run about its size's mean, relative as the law's scatter is; None where
    nothing is known of it, and the scatter then holds both. `at_target`: in the unit of y.
    """
    shapes, (scatters, prior) = law.shapes(points), _scatters(law)
    replicates = _replicates(replicate)
    relative = scatters[:, None, None] ** 2 + replicates[:, None] ** 2 / points.n  # (t, r, k)
    coefficients, covariance, log_weights = _lines(law, points, shapes, relative)
    log_weights = log_weights + prior[:, None] + law.weight(shapes, points)[:, None, None]
    weights = np.exp(log_weights - log_weights.max())
    kept = weights > _LEAST_WEIGHT
    s, t, r = np.nonzero(kept)
    return Posterior(
        law=law,
        weights=weights[kept] / weights[kept].sum(),
        shapes=shapes[s],
        coefficients=coefficients[kept],
        covariance=covariance[kept],
        scatters=scatters[t],
        replicates=replicates[r],
        at_target=at_target,
    )


def _scatters(law: Law) -> tuple[Floats, Floats]:
    """Nodes of the scatter, even in its logarithm, and the logarithms of their weights."""
    median, ln_sd = law.scatter
    steps = np.linspace(-_SCATTER_SDS, _SCATTER_SDS, SCATTERS)
    return median * np.exp(ln_sd * steps), -0.5 * steps**2


def _replicates(known: KnownSd | None) -> Floats:
    """Equally likely values of an SD that was estimated with so many degrees of freedom."""
    from scipy import special

    if known is None or math.isinf(known.df):
        return np.array([known.sd if known else 0.0])
    slices = (np.arange(REPLICATES) + 0.5) / REPLICATES
    sds: Floats = known.sd * np.sqrt(known.df / special.chdtri(known.df, slices))
    return sds


def _lines(
    law: Law, points: Points, shapes: Floats, relative: Floats
) -> tuple[Floats, Floats, Floats]:
    """Straight lines by weighted least squares, one for each shape, scatter and replicate SD.

    Returns coefficients (s, t, r, 2), their covariances and the logarithms of how well each
    explains the sizes, its coefficients averaged over. In y and not in z: the derivatives of the
    one cancel those of the other.
    """
    z, x = law.ordinate(shapes[:, None], points.y), law.abscissa(shapes, points.x)  # (s, k)
    rows = np.stack([np.ones_like(x), x], axis=-1)  # (s, k, 2)
    variances = relative * law.scale(points.y) ** 2  # (t, r, k), of y
    steepness = law.steepness(shapes[:, None], points.y[None, :])
    precision = 1 / (variances * steepness[:, None, None, :] ** 2)  # (s, t, r, k), of z
    before, pull = _before(law)
    information = np.einsum("strk,ski,skj->strij", precision, rows, rows) + before
    covariance = np.linalg.inv(information)
    weighted = np.einsum("strk,sk,ski->stri", precision, z, rows) + before @ pull
    coefficients = np.einsum("strij,strj->stri", covariance, weighted)
    misses = z[:, None, None, :] - np.einsum("ski,stri->strk", rows, coefficients)
    off = coefficients - pull
    squares = (precision * misses**2).sum(-1) + np.einsum("stri,ij,strj->str", off, before, off)
    volume = np.linalg.slogdet(covariance)[1]
    return coefficients, covariance, (volume - np.log(variances).sum(-1) - squares) / 2


def _before(law: Law) -> tuple[Floats, Floats]:
    """What is known of the coefficients before: their precision (2, 2) and where they are."""
    if law.slope is None:
        return np.zeros((2, 2)), np.zeros(2)
    mean, sd = law.slope
    return np.diag([0.0, sd**-2]), np.array([0.0, mean])


def _quantile(values: Floats, weights: Floats, probability: float) -> float:
    order = np.argsort(values)
    index = int(np.searchsorted(np.cumsum(weights[order]), probability))
    return float(values[order][min(index, len(order) - 1)])


def lack_of_fit(points: Points, posterior: Posterior, replicate: KnownSd | None) -> float | None:
    """P-value of sizes that lie off the law by no more than replicates explain.

    F-test on the line that comes nearest; its shape costs a degree of freedom like its two
    coefficients. None with three sizes, which any law of three parameters meets, and without
    replicates.
    """
    from scipy import special

    spare = len(points.x) - 3
    if spare < 1 or replicate is None or not replicate.sd > 0:
        return None
    shapes = posterior.shapes[:, None]
    x = posterior.law.abscissa(posterior.shapes, points.x)  # (m, k)
    z = posterior.coefficients[:, :1] + posterior.coefficients[:, 1:] * x
    off = (points.y - posterior.law.value(shapes, z)) / posterior.law.scale(points.y)
    statistic = float((points.n * off**2).sum(axis=1).min()) / replicate.sd**2 / spare
    if math.isinf(replicate.df):
        return float(special.chdtrc(spare, statistic * spare))
    return float(special.fdtrc(spare, replicate.df, statistic))
