"""The laws of a forecast: families of straight lines, one line for each value of a shape.

    loss    ln(y - E)  = a + b ln C        shape E, the floor; C the FLOPs of a run
    score   y          = a + b u(L)        shape g, the bend; u(L) = (1 - exp(-g (L - c))) / g

A law says how its quantities become those of a line and back, which values of its shape there are,
and what is known of it before any size has been seen:

    floor       none, with one chance in ten (Kaplan et al., arXiv 2001.08361), or any value up to
                0.6 bits a byte: Hoffmann et al., arXiv 2203.15556, fit 1.69 nats a token and
                Besiroglu et al., arXiv 2404.10102, 1.82 to the same data, at some 4.5 bytes a token
    exponent b  -0.1 with SD 0.1: Kaplan -0.05 without a floor, Hoffmann -0.15 above theirs
    bend g      any value from -2 to 6 a bit: from slowing down to a little more than the speed-up
                that the Cerebras-GPT family shows (arXiv 2304.03208: its average score over its
                loss, g = 5); Gadre et al., arXiv 2403.08540, fit such an exponential too
    scatter     of a size about the law: 0.5 % of a loss, 0.004 of a score, both within a factor of
                2.7 at one SD, so that a family that lies nearer or further says so itself
                (Cerebras-GPT, whose sizes differ in more than depth: 0.8 %)

First of the files of a full job: `fit` weighs the lines. Numbers in, numbers out.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_FLOOR_BPB, NO_FLOOR = 0.6, 0.1  # the highest; the chance of none
FLOORS, BENDS = 40, 17  # values of a shape that are tried
BEND_RANGE = (-2.0, 6.0)
EXPONENT = (-0.1, 0.1)  # mean and SD
LOSS_SCATTER, SCORE_SCATTER = (0.005, 1.0), (0.004, 1.0)  # relative to the loss; of a score
_CLOSEST = 0.97  # a floor stays below this share of the lowest loss: ln(y - E) has to be finite


@dataclass(frozen=True, kw_only=True)
class Points:
    """Sizes, smallest first: where each stands, the mean of its runs, and how many they were."""

    x: Floats  # (k,) ln FLOPs; a loss where scores are fitted
    y: Floats  # (k,)
    n: Floats  # (k,)


class Law(Protocol):
    """A family of straight lines, one for each of S shapes."""

    @property
    def slope(self) -> tuple[float, float] | None:
        """What is known of b before: mean and SD."""

    @property
    def scatter(self) -> tuple[float, float]:
        """What is known of the scatter before: its median, and the SD of its logarithm."""

    def shapes(self, points: Points) -> Floats:
        """Values of the shape that are tried, (S,)."""

    def abscissa(self, shapes: Floats, x: Floats) -> Floats:
        """What stands for x in the line of each shape, (S, n)."""

    def ordinate(self, shapes: Floats, y: Floats) -> Floats:
        """z, what stands for y; grows with y, and is -inf where a shape cannot have y."""

    def value(self, shapes: Floats, z: Floats) -> Floats:
        """The y of a z."""

    def steepness(self, shapes: Floats, y: Floats) -> Floats:
        """dz/dy."""

    def scale(self, y: Floats) -> Floats:
        """What the scatter is relative to."""

    def weight(self, shapes: Floats, points: Points) -> Floats:
        """Logarithms of how likely each shape is before, (S,), where the lines of all shapes are as
        likely in their level and steepness in the middle of the sizes: what those show decides."""


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """ln(y - E) = a + b x, with the floor E as shape. `most_floor` in the unit of y."""

    most_floor: float = MOST_FLOOR_BPB
    slope: tuple[float, float] | None = EXPONENT
    scatter: tuple[float, float] = LOSS_SCATTER

    def shapes(self, points: Points) -> Floats:
        most = min(self.most_floor, _CLOSEST * float(points.y.min()))
        middles = (np.arange(FLOORS) + 0.5) * most / FLOORS
        return np.concatenate([[0.0], middles])

    def abscissa(self, shapes: Floats, x: Floats) -> Floats:
        return np.broadcast_to(x, (len(shapes), len(x)))

    def ordinate(self, shapes: Floats, y: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            logarithms: Floats = np.log(np.maximum(y - shapes, 0.0))
        return logarithms

    def value(self, shapes: Floats, z: Floats) -> Floats:
        return shapes + np.exp(z)

    def steepness(self, shapes: Floats, y: Floats) -> Floats:
        return 1 / (y - shapes)

    def scale(self, y: Floats) -> Floats:
        return y

    def weight(self, shapes: Floats, points: Points) -> Floats:
        # a and b are a level and a steepness over (y - E): to each of them its derivative
        weights: Floats = 2 * np.log(points.y.mean() - shapes)
        weights[shapes == 0] += np.log(FLOORS * NO_FLOOR / (1 - NO_FLOOR))
        return weights


@dataclass(frozen=True, kw_only=True)
class BentLine:
    """y = a + b u(x), with the bend of u as shape; b is the slope at `centre`."""

    centre: float
    bends: tuple[float, float] = BEND_RANGE
    slope: tuple[float, float] | None = None
    scatter: tuple[float, float] = SCORE_SCATTER

    def shapes(self, points: Points) -> Floats:
        return np.linspace(*self.bends, BENDS)

    def abscissa(self, shapes: Floats, x: Floats) -> Floats:
        bends = shapes[:, None]
        straight = np.abs(bends) < 1e-9
        safe = np.where(straight, 1.0, bends)
        bent = -np.expm1(-safe * (x - self.centre)) / safe
        return np.where(straight, x - self.centre, bent)

    def ordinate(self, shapes: Floats, y: Floats) -> Floats:
        return np.broadcast_to(y, np.broadcast_shapes(shapes.shape, y.shape))

    def value(self, shapes: Floats, z: Floats) -> Floats:
        return z

    def steepness(self, shapes: Floats, y: Floats) -> Floats:
        return np.ones_like(y)

    def scale(self, y: Floats) -> Floats:
        return np.ones_like(y)

    def weight(self, shapes: Floats, points: Points) -> Floats:
        return np.zeros_like(shapes)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What is known of one number: normal in z, each component with its weight and its shape."""

    law: Law
    weights: Floats  # (m,), sum 1
    shapes: Floats
    means: Floats  # of z
    sds: Floats

    def below(self, y: float) -> float:
        """P(number <= y)."""
        from scipy import special

        z = self.law.ordinate(self.shapes, np.asarray(y, dtype=np.float64))
        return float(self.weights @ special.ndtr((z - self.means) / self.sds))

    def quantile(self, probability: float) -> float:
        """The y with `below(y) == probability`."""
        from scipy import optimize

        ends = [self.means - 9 * self.sds, self.means + 9 * self.sds]
        low, high = (self.law.value(self.shapes, end) for end in ends)
        between = (float(low.min()), float(high.max()))  # 1e20 apart where little is known
        return float(
            optimize.brentq(
                lambda y: self.below(y) - probability, *between, xtol=1e-9, maxiter=1000
            )
        )

    def nodes(self, count: int) -> Floats:
        """Values that are equally likely, one from each of `count` slices."""
        return np.array([self.quantile((i + 0.5) / count) for i in range(count)])
