"""The error rate and the width of limits where both sides have the same seeds.

    python -m benchmarks.statistics.pairing [--draws N]

Runs of one seed are correlated by an unknown amount. Two sides without a difference are compared at
the rate of a first reading: as `harness.comparison.engine` does it, with the narrower of the limits
by sides and by pairs, each at its part of the rate; by sides alone; and with the narrower of both
at the whole rate, to show what the division is for. All draws of a cell are one array; a test
compares them with the engine.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special

from benchmarks.statistics.decisions import ALPHA, Array, percent
from benchmarks.statistics.section import print_section
from harness.stats.decision import PAIRED_SHARE
from harness.stats.spending import Reading

RATE = Reading(alpha=ALPHA).rate
NOISE: dict[str, float | None] = {
    "noise model, 600 df": 600.0,
    "noise model, 8 df": 8.0,
    "own runs": None,
}
RUNS = (3, 5, 8)
CORRELATIONS = (0.0, 0.3, 0.5, 0.8, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Comparisons of one kind."""

    noise: str
    runs: int
    correlation: float


@dataclass(frozen=True, kw_only=True)
class PairingRates:
    """One-sided error rates, and the median half-width relative to that by sides alone."""

    error: float
    by_sides: float
    undivided: float
    width: float


def cells() -> Iterator[Cell]:
    """Every cell of the table."""
    for noise, runs, correlation in itertools.product(NOISE, RUNS, CORRELATIONS):
        yield Cell(noise=noise, runs=runs, correlation=correlation)


def drawn(cell: Cell, draws: int) -> tuple[Array, Array, Array | None]:
    """Runs of both sides (draws, runs), and the noise model's SDs."""
    rng = np.random.default_rng([cell.runs, int(100 * cell.correlation)])
    shared, a, b = rng.normal(size=(3, draws, cell.runs))
    common, own = math.sqrt(cell.correlation) * shared, math.sqrt(1 - cell.correlation)
    df = NOISE[cell.noise]
    known = None if df is None else np.sqrt(rng.chisquare(df, draws) / df)
    return common + own * a, common + own * b, known


def half_widths(
    a: Array, b: Array, known: Array | None, df: float | None, parts: tuple[float, float]
) -> tuple[Array, Array]:
    """Half-widths by sides and by pairs, each at its part of the rate."""
    n = a.shape[1]
    pairs = (b - a).std(axis=1, ddof=1) / math.sqrt(n)
    if known is None or df is None:
        known, df = np.sqrt((a.var(axis=1, ddof=1) + b.var(axis=1, ddof=1)) / 2), 2.0 * n - 2
    return (
        special.stdtrit(df, 1 - parts[0] * RATE) * known * math.sqrt(2 / n),
        special.stdtrit(n - 1, 1 - parts[1] * RATE) * pairs,
    )


def simulate(cell: Cell, draws: int) -> PairingRates:
    """The rates of one cell."""
    a, b, known = drawn(cell, draws)
    change, df = b.mean(axis=1) - a.mean(axis=1), NOISE[cell.noise]
    divided = np.minimum(*half_widths(a, b, known, df, (1 - PAIRED_SHARE, PAIRED_SHARE)))
    sides, pairs = half_widths(a, b, known, df, (1.0, 1.0))
    return PairingRates(
        error=float((change > divided).mean()),
        by_sides=float((change > sides).mean()),
        undivided=float((change > np.minimum(sides, pairs)).mean()),
        width=float(np.median(divided) / np.median(sides)),
    )


def lines(draws: int) -> list[str]:
    """The section of docs/operating-characteristics.md."""
    rates = {cell: simulate(cell, draws) for cell in cells()}
    bound = RATE + 2 * math.sqrt(RATE * (1 - RATE) / draws)
    rows = []
    for noise, runs in itertools.product(NOISE, RUNS):
        shown = [rates[Cell(noise=noise, runs=runs, correlation=one)] for one in CORRELATIONS]
        texts = [
            f"{percent(one.error)} / {percent(one.by_sides)} / {percent(one.undivided)} % "
            f"({one.width:.2f})"
            for one in shown
        ]
        rows.append(f"| {noise} | {runs} | {' | '.join(texts)} |")
    return [
        "",
        "## Both sides with the same seeds",
        "",
        f"{draws:,} comparisons a cell by `benchmarks/statistics/pairing.py`, by the correlation",
        f"of runs with one seed: the one-sided error at a first reading's {100 * RATE:g} % of the",
        "narrower limits, by sides or by pairs, with the rate divided between them / by sides",
        "alone / of the narrower limits without the division. In brackets: the median half-width",
        "relative to that by sides alone.",
        "",
        "| noise | runs a side | " + " | ".join(f"{one:g}" for one in CORRELATIONS) + " |",
        "|---|---|" + "---|" * len(CORRELATIONS),
        *rows,
        "",
        f"Worst cell: {percent(max(one.error for one in rates.values()))} %; the rate plus two "
        f"standard errors is {percent(bound)} %.",
    ]


if __name__ == "__main__":
    print_section(__doc__, lines, 20_000)
