"""Scaling laws fitted to a few model sizes, with prediction intervals for one run at another size.

    loss    L(C) = E + exp(a + b ln C)                      E: irreducible loss; -b is often alpha
    score   S(L) = a + b (1 - exp(-g (L - c))) / g          g: curvature; 0 is a straight line

Each law is a straight line once its one nonlinear parameter (E or g) is fixed, so the fit is a
weighted linear regression at every value of a grid (variable projection: Golub and Pereyra 1973).
Three sizes cannot separate a power law from one above an irreducible loss, and the forecast from
d14 to d24 depends on that more than on anything else, so parameters are penalized towards published
values. More sizes outweigh the penalty:

    E           0.25 bits per byte, SD 0.25, from 0 to 0.6: Kaplan et al. (arXiv 2001.08361) fit 0,
                Hoffmann et al. (arXiv 2203.15556) 1.69 nats per token and Besiroglu et al. (arXiv
                2404.10102) 1.82 to the same data, at about 4.5 bytes per token
    b           -0.1, SD 0.1: Kaplan -0.05 without E, Hoffmann -0.15 above theirs
    g           2 per bit, SD 2.5, from -2 to 6: the Cerebras-GPT family has about 5 (arXiv
                2304.03208); Gadre et al. (arXiv 2403.08540) fit such an exponential
    residual    SD of a size about the law: 0.8 % of a loss, 0.006 of a score, worth one degree of
                freedom, because heads and batches come in whole numbers (Cerebras-GPT: 0.8 %)

The prediction interval is a profile likelihood interval: it holds every value of a new run that
some parameters explain together with the measured sizes. The part that scales with the estimated
residual SD has Student's t as its critical value, the penalties have the normal one.
`benchmarks/statistics/forecast.py` measures how often the intervals cover. Pure functions of
numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.stats.decision import KnownSd
from harness.stats.distributions import t_quantile

Floats = NDArray[np.float64]

GRID = 61  # values of the nonlinear parameter
_CLOSEST = 0.97  # E stays below this share of the lowest loss, so that ln(L - E) is finite
_MOST_LOG = 50.0  # ln(L - E) beyond this is as good as infinite


@dataclass(frozen=True, kw_only=True)
class Points:
    """Measured sizes, smallest first."""

    x: Floats  # (k,) ln FLOPs, or val_bpb where a score is fitted
    y: Floats  # (k,) mean over the runs of a size
    n: Floats  # (k,) number of those runs


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """Normal penalty on a parameter, and the range in which it is searched."""

    mean: float
    sd: float
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Residual:
    """Expected SD of a size about the law, and how many degrees of freedom that is worth."""

    sd: float
    df: float


@dataclass(frozen=True, kw_only=True)
class LossLaw:
    """ln(y - E) = a + b x. Residual and replicate SDs are relative to the loss."""

    nonlinear: Penalty = Penalty(mean=0.25, sd=0.25, low=0.0, high=0.6)
    slope: Penalty | None = Penalty(mean=-0.1, sd=0.1)
    residual: Residual = Residual(sd=0.008, df=1.0)

    def grid(self, points: Points) -> Floats:
        """Values of E, (m,)."""
        high = min(self.nonlinear.high, _CLOSEST * float(points.y.min()))
        return np.linspace(self.nonlinear.low, high, GRID)

    def regressor(self, grid: Floats, x: Floats) -> Floats:
        """What is linear in the transformed y, (m, n)."""
        return np.broadcast_to(x, (len(grid), len(x)))

    def transform(self, grid: Floats, y: Floats) -> Floats:
        """z of y."""
        logarithm: Floats = np.log(y - grid)
        return logarithm

    def inverse(self, grid: Floats, z: Floats) -> Floats:
        """y of z."""
        return grid + np.exp(np.minimum(z, _MOST_LOG))

    def derivative(self, grid: Floats, y: Floats) -> Floats:
        """dz/dy."""
        return 1 / (y - grid)

    def scale(self, y: Floats) -> Floats:
        """What SDs are relative to."""
        return y


@dataclass(frozen=True, kw_only=True)
class ScoreLaw:
    """y = a + b u(x), where u has the curvature g. b is the slope at `centre`."""

    centre: float
    nonlinear: Penalty = Penalty(mean=2.0, sd=2.5, low=-2.0, high=6.0)
    slope: Penalty | None = None
    residual: Residual = Residual(sd=0.006, df=1.0)

    def grid(self, points: Points) -> Floats:
        """Values of g, (m,)."""
        return np.linspace(self.nonlinear.low, self.nonlinear.high, GRID)

    def regressor(self, grid: Floats, x: Floats) -> Floats:
        """u(x), (m, n)."""
        g = np.where(np.abs(grid) < 1e-9, 1e-9, grid)[:, None]
        u: Floats = -np.expm1(-g * (x - self.centre)) / g
        return u

    def transform(self, grid: Floats, y: Floats) -> Floats:
        """y itself."""
        return np.broadcast_to(y, np.broadcast_shapes(grid.shape, y.shape))

    def inverse(self, grid: Floats, z: Floats) -> Floats:
        """z itself."""
        return z

    def derivative(self, grid: Floats, y: Floats) -> Floats:
        """1."""
        return np.ones_like(y)

    def scale(self, y: Floats) -> Floats:
        """1: SDs are absolute."""
        return np.ones_like(y)


Law = LossLaw | ScoreLaw


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Profile likelihood of one new run's value: a normal in z for each candidate (m, nodes).

    `misfit` is the deviance of the sizes, `penalty` that of the penalties; both are 0 or above.
    """

    law: Law
    grid: Floats  # (m, 1)
    means: Floats  # of z
    sds: Floats  # of z
    misfit: Floats
    penalty: Floats
    df: float

    @property
    def best(self) -> float:
        """The value at the parameters that fit best."""
        values = self.law.inverse(self.grid, self.means)
        return float(values.flat[int(np.argmin(self.misfit + self.penalty))])

    def quantile(self, probability: float) -> float:
        """End of the one-sided interval at `probability`."""
        if abs(probability - 0.5) < 1e-9:
            return self.best
        t, z = t_quantile(probability, self.df), t_quantile(probability, math.inf)
        deviance = self.misfit + self.penalty * (t / z) ** 2
        room = t**2 - (deviance - deviance.min())
        half = np.sign(t) * np.sqrt(np.maximum(room, 0.0)) * self.sds
        ends = self.law.inverse(self.grid, self.means + half)[room >= 0]
        return float(ends.max() if t > 0 else ends.min())

    def below(self, y: float) -> float:
        """The probability at which `quantile` is y: the confidence that a run stays below."""
        from scipy import optimize

        least = 1e-6
        if y <= self.quantile(least):
            return least
        if y >= self.quantile(1 - least):
            return 1 - least
        return float(optimize.brentq(lambda p: self.quantile(p) - y, least, 1 - least, xtol=1e-9))


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A law fitted to sizes, at each of m values of its nonlinear parameter.

    `dispersion` is the estimated variance of sizes over the expected one. `at_target` replaces the
    SD of replicates for a new run where the noise at its scale is known; it is in the unit of y.
    """

    law: Law
    grid: Floats  # (m,)
    coefficients: Floats  # (m, 2): a and b
    covariance: Floats  # (m, 2, 2), before dispersion
    misfit: Floats  # (m,)
    penalty: Floats  # (m,)
    dispersion: float
    df: float
    replicate: KnownSd | None
    at_target: KnownSd | None

    def line(self, x: Floats) -> Floats:
        """The best fit at x."""
        i = int(np.argmin(self.misfit + self.penalty))
        grid = self.grid[i : i + 1]
        a, b = self.coefficients[i]
        line: Floats = self.law.inverse(grid[:, None], a + b * self.law.regressor(grid, x))[0]
        return line

    def run(self, x: Sequence[float], deviance: Floats | None = None) -> Profile:
        """One new run at x; `deviance`: misfit of each of several candidates of x."""
        means, of_line, of_residual, of_replicate = self._variances(x)
        penalty = self.penalty[:, None] + (np.zeros(len(x)) if deviance is None else deviance)
        return Profile(
            law=self.law,
            grid=self.grid[:, None],
            means=means,
            sds=np.sqrt(of_line + of_residual + of_replicate),
            misfit=np.broadcast_to(self.misfit[:, None], means.shape),
            penalty=penalty,
            df=self.df,
        )

    def _variances(self, x: Sequence[float]) -> tuple[Floats, Floats, Floats, Floats]:
        """Mean of z (m, n) and its variances: of the line, the residual and the replicate."""
        u = self.law.regressor(self.grid, np.asarray(x, dtype=np.float64))
        rows = np.stack([np.ones_like(u), u], axis=-1)  # (m, n, 2)
        means = np.einsum("mni,mi->mn", rows, self.coefficients)
        of_line = self.dispersion * np.einsum("mni,mij,mnj->mn", rows, self.covariance, rows)
        y = self.law.inverse(self.grid[:, None], means)
        scale, to_z = self.law.scale(y), self.law.derivative(self.grid[:, None], y) ** 2
        residual = self.dispersion * (self.law.residual.sd * scale) ** 2
        noise = self.replicate.sd * scale if self.replicate else np.zeros_like(y)
        if self.at_target is not None:
            noise = np.full_like(y, self.at_target.sd)
        return means, of_line, residual * to_z, noise**2 * to_z

    def shares(self, x: Sequence[float], deviance: Floats | None = None) -> dict[str, float]:
        """Approximate parts of the variance of a new run at x, by source; sum 1."""
        profile = self.run(x, deviance)
        means, *variances = self._variances(x)
        weights = np.exp(-(profile.misfit + profile.penalty) / 2)
        weights = weights / weights.sum()
        y = self.law.inverse(self.grid[:, None], means)
        at_x = (weights * y).sum(0) / weights.sum(0)
        to_y = self.law.derivative(self.grid[:, None], y) ** -2
        named = zip(("coefficients", "residual SD", "replicates"), variances, strict=True)
        parts = {
            "target val_bpb": (at_x - (weights.sum(0) @ at_x)) ** 2 + np.zeros_like(y),
            NONLINEAR_NAMES[type(self.law)]: (y - at_x) ** 2,
            **{name: variance * to_y for name, variance in named},
        }
        sizes = {name: float((weights * part).sum()) for name, part in parts.items()}
        return {name: size / sum(sizes.values()) for name, size in sizes.items()}

    def nonlinear(self, probability: float) -> float:
        """Quantile of the irreducible loss or the curvature."""
        allowed = self.grid[self._room(probability) >= 0]
        return float(allowed.max() if probability > 0.5 else allowed.min())

    def slope(self, probability: float) -> float:
        """Quantile of b."""
        room = self._room(probability)
        sd = np.sqrt(self.dispersion * self.covariance[:, 1, 1])
        half = np.sign(probability - 0.5) * np.sqrt(np.maximum(room, 0.0)) * sd
        ends = (self.coefficients[:, 1] + half)[room >= 0]
        return float(ends.max() if probability > 0.5 else ends.min())

    def _room(self, probability: float) -> Floats:
        deviance = self.misfit + self.penalty
        room: Floats = t_quantile(probability, self.df) ** 2 - (deviance - deviance.min())
        return room

    def residual_sd(self, probability: float) -> float:
        """Quantile of the SD of sizes about the law, in the unit of the law."""
        from scipy import special

        chi2 = float(special.chdtri(self.df, probability))  # from the upper tail
        return self.law.residual.sd * math.sqrt(self.dispersion * self.df / chi2)


NONLINEAR_NAMES: dict[type[Law], str] = {LossLaw: "irreducible loss", ScoreLaw: "curvature"}


def fit(
    law: Law, points: Points, replicate: KnownSd | None = None, at_target: KnownSd | None = None
) -> Fit:
    """Fits a law to at least three sizes.

    `replicate`: SD of one run about its size's mean, relative as the law's residual SD is; None
    where it is unknown, and the residual SD then includes it.
    """
    grid = law.grid(points)
    coefficients, covariance, misfit, penalty = _regress(law, points, grid, replicate)
    df = law.residual.df + len(points.x) - 2  # the penalty leaves E or g almost no freedom
    dispersion = (law.residual.df + float(misfit.min())) / df
    return Fit(
        law=law,
        grid=grid,
        coefficients=coefficients,
        covariance=covariance,
        misfit=misfit / dispersion,
        penalty=penalty,
        dispersion=dispersion,
        df=df,
        replicate=replicate,
        at_target=at_target,
    )


def _regress(
    law: Law, points: Points, grid: Floats, replicate: KnownSd | None
) -> tuple[Floats, Floats, Floats, Floats]:
    """Weighted least squares at every grid value: coefficients, covariance, misfit, penalty."""
    noise = replicate.sd**2 if replicate else 0.0
    variances = (law.residual.sd**2 + noise / points.n) * law.scale(points.y) ** 2  # (k,), of y
    z = law.transform(grid[:, None], points.y)  # (m, k)
    weights = 1 / (variances * law.derivative(grid[:, None], points.y + np.zeros_like(z)) ** 2)
    u = law.regressor(grid, points.x)
    rows = np.stack([np.ones_like(u), u], axis=-1)  # (m, k, 2)
    precision, pull = np.zeros((2, 2)), np.zeros(2)
    if law.slope is not None:
        precision[1, 1], pull[1] = law.slope.sd**-2, law.slope.mean
    covariance = np.linalg.inv(np.einsum("mk,mki,mkj->mij", weights, rows, rows) + precision)
    right = np.einsum("mk,mk,mki->mi", weights, z, rows) + precision @ pull
    coefficients = np.einsum("mij,mj->mi", covariance, right)
    misfit = (weights * (z - np.einsum("mki,mi->mk", rows, coefficients)) ** 2).sum(-1)
    penalty = ((grid - law.nonlinear.mean) / law.nonlinear.sd) ** 2
    if law.slope is not None:
        penalty = penalty + ((coefficients[:, 1] - law.slope.mean) / law.slope.sd) ** 2
    return coefficients, covariance, misfit, penalty


def lack_of_fit(points: Points, fitted: Fit, replicate: KnownSd | None) -> float | None:
    """P-value of sizes that lie off the law by no more than replicates explain: an F-test.

    The nonlinear parameter costs a degree of freedom like both coefficients. None with three
    sizes, which any law of three parameters meets, and without replicates.
    """
    from scipy import special

    spare = len(points.x) - 3
    if spare < 1 or replicate is None or not replicate.sd > 0:
        return None
    u = fitted.law.regressor(fitted.grid, points.x)
    z = fitted.coefficients[:, :1] + fitted.coefficients[:, 1:] * u
    off = points.y - fitted.law.inverse(fitted.grid[:, None], z)
    squares = (points.n * (off / fitted.law.scale(points.y)) ** 2).sum(axis=1)
    statistic = float(squares.min()) / replicate.sd**2 / spare
    if math.isinf(replicate.df):
        return float(special.chdtrc(spare, statistic * spare))
    return float(special.fdtrc(spare, replicate.df, statistic))
