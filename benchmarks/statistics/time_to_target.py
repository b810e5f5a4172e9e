"""Measures how often intervals of time to target hold where the base's loss curve is bent.

    python -m benchmarks.statistics.time_to_target [--draws N]

A table for docs/operating-characteristics.md. The base's final loss falls by 0.400 nats per e-fold
of tokens below its own length and by 0.308 above (depth 8, three horizons); in between the curve is
a parabola or has a kink. All draws of a cell are one array; a test compares this arithmetic with
`harness.stats.regression`, study by study.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

from benchmarks.statistics.decisions import Array, percent
from benchmarks.statistics.section import print_section
from harness.stats.moderation import prior_df

Curve = Callable[[Array], Array]

ALPHA, ARMS = 0.05, 4
X = np.log([0.71, 1.0, 1.41])
BELOW, ABOVE = -0.400, -0.308
BEND = (ABOVE - BELOW) / (X[2] - X[0])
TANGENT = BELOW - BEND * X[0]
NOISE = ((0.0087, 3), (0.004, 5), (0.004, 3), (0.0087, 5), (0.0087, 2), (0.004, 2))
EFFECTS = (-0.09, -0.059, -0.03, 0.0, 0.03, 0.059, 0.12)  # of an arm on the loss, within the reach


def parabola(x: Array) -> Array:
    return TANGENT * x + BEND * x**2


def kink(x: Array) -> Array:
    return np.where(x < 0, BELOW, ABOVE) * x


CURVES: dict[str, Curve] = {"parabola": parabola, "kink": kink}


def truth(curve: Curve, effect: float) -> float:
    """Minus the x at which the base has this much more loss."""
    grid = np.linspace(-0.6, 0.6, 240_001)
    return -float(np.interp(-effect, -curve(grid), grid))


class Studies(NamedTuple):
    """Losses of the base at each horizon (draws, n, 3) and of the arms (draws, ARMS, n)."""

    base: Array
    arms: Array


def draw(
    rng: np.random.Generator, draws: int, n: int, sd: float, curve: Curve, effect: float
) -> Studies:
    """Studies in which the first arm has an effect."""
    base = curve(X) + rng.normal(0, sd, (draws, n, len(X)))
    arms = rng.normal(0, sd, (draws, ARMS, n))
    arms[:, 0] += effect
    return Studies(base, arms)


def intervals(studies: Studies, terms: int) -> tuple[Array, Array]:
    """(estimate, half-width) of the first arm on its own, with one term (a line) or two.

    With one, as before the curve was part of the interval.
    """
    base, arms = studies
    n = base.shape[1]
    own = base[:, :, 1]
    d = arms[:, 0].mean(axis=1) - own.mean(axis=1)
    loss_variance, loss_df = _loss_noise(own, arms)
    design = np.stack([X**power - (X**power).mean() for power in range(1, terms + 1)])
    weights = np.linalg.solve(n * design @ design.T, design)  # (terms, 3) of every block
    centred = base - base.mean(axis=2, keepdims=True)
    found = np.einsum("th,bnh->bt", weights, centred)
    residuals = centred - (found @ design)[:, None, :]
    df = 2 * n - terms
    variance = (residuals**2).sum(axis=(1, 2)) / df
    slope = found[:, 0]
    bend = found[:, 1] if terms == 2 else np.zeros(len(d))
    root = slope**2 + 4 * bend * d
    x = 2 * d / (slope - np.sqrt(root))
    gradient = np.stack([x, x**2], axis=1)[:, :terms]
    own_weights = gradient @ weights  # (draws, 3)
    spread = n * (own_weights**2).sum(axis=1) + 2 * own_weights[:, 1]
    from_loss = loss_variance / root
    from_curve = np.maximum(variance * spread / root, -from_loss / 2)
    total = from_loss + from_curve
    both = total**2 / (from_loss**2 / loss_df + from_curve**2 / df)
    chord = d / (slope + bend * np.where(d > 0, X[0], X[2]))
    se = np.sqrt(total + ((x - chord) / 2) ** 2)
    return -(x + chord) / 2, special.stdtrit(both, 1 - ALPHA / 2) * se


def _loss_noise(own: Array, arms: Array) -> tuple[Array, Array]:
    """The variance of the first arm's loss difference and its df, moderated over all arms."""
    n = own.shape[1]
    d, variances = n - 1.0, np.concatenate([own[:, None], arms], axis=1).var(axis=2, ddof=1)
    logs = np.log(variances) - special.digamma(d / 2) + math.log(d / 2)
    d0 = prior_df(ARMS + 1, d)
    scale = np.exp(logs.mean(axis=1, keepdims=True))
    parts = (d0 * scale + d * variances[:, :2]) / (d0 + d) / n
    return parts.sum(axis=1), parts.sum(axis=1) ** 2 / ((parts**2).sum(axis=1) / (d0 + d))


def cell(sd: float, n: int, curve: str, effect: float, terms: int, draws: int) -> float:
    """The share of studies whose interval holds the truth."""
    rng = np.random.default_rng([n, int(1e5 * sd), int(1e5 * (1 + effect)), len(curve)])
    studies = draw(rng, draws, n, sd, CURVES[curve], effect)
    with np.errstate(invalid="ignore"):
        estimate, half = intervals(studies, terms)
        inside = np.abs(estimate) <= X[2]  # beyond it no interval is printed
    return float((np.abs(estimate - truth(CURVES[curve], effect)) <= half)[inside].mean())


def lines(draws: int) -> list[str]:
    """Coverage by noise, curve and effect, before and after."""
    shown = [
        "",
        "## Time to target where the loss curve is bent: coverage, in %",
        "",
        f"{draws:,} studies of four arms a cell, nominal 95 % of one arm; three horizons, slopes",
        f"{BELOW:.3f} and {ABOVE:.3f}. Before: a straight line through the horizons, in brackets.",
        "",
        "| SD | seeds | curve | " + " | ".join(f"loss {one:+g}" for one in EFFECTS) + " |",
        "|---|---|---|" + "---|" * len(EFFECTS),
    ]
    least = 1.0
    for sd, n in NOISE:
        for curve in CURVES:
            cells = []
            for effect in EFFECTS:
                now, before = (cell(sd, n, curve, effect, terms, draws) for terms in (2, 1))
                least = min(least, now)
                cells.append(f"{percent(now)} ({percent(before)})")
            shown.append(f"| {sd:g} | {n} | {curve} | {' | '.join(cells)} |")
    return [*shown, "", f"Worst cell: {percent(least)} %."]


if __name__ == "__main__":
    print_section(__doc__, lines, 10_000)
