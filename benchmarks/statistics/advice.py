"""The error rates of whoever follows the printed advice until a comparison is settled.

    python -m benchmarks.statistics.advice [--draws N]

A comparison that is inconclusive advises more runs a side; they are made, and all runs (or the new
ones alone) are read again, at most READINGS times. Every reading is decided as `harness compare`
decides it, for one metric: at the rate that `harness.stats.spending` leaves it, or, to compare, at
the whole alpha each time. All draws of a cell are one array; a test compares the advice with
`harness.stats.power.more_runs`. Means and variances are drawn instead of runs.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy import special

from benchmarks.statistics.decisions import ALPHA, PASS, REGRESSION, Array, percent
from benchmarks.statistics.section import print_section
from harness.metrics import METRICS, SPEEDRUN_LOSS_SD_NATS
from harness.stats.distributions import sd_nodes
from harness.stats.power import BETA, MOST_RUNS
from harness.stats.spending import Reading

SD = SPEEDRUN_LOSS_SD_NATS / METRICS["val_loss"].margin.value  # of one run, in margins
READINGS = 5
STARTS = (1, 2, 3)
NOISE: dict[str, float | None] = {
    "noise model, 600 df": 600.0,
    "noise model, 8 df": 8.0,
    "own runs": None,
}
Habit = Literal["pooled", "fresh", "one at a time"]
HABITS: tuple[Habit, ...] = ("pooled", "fresh", "one at a time")
Rate = Callable[[int], float]


def spent(seen: int) -> float:
    """The rate of a reading."""
    return Reading(alpha=ALPHA, seen=seen).rate


def unspent(seen: int) -> float:
    """The whole alpha at every reading: what happens without a rule."""
    return ALPHA


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of comparison that is read until it is settled."""

    noise: str
    start: int
    habit: Habit


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Shares of what the advice led to: without harm, and at a harm of one margin."""

    regression: float
    passes: float
    runs: float  # a side, mean over draws without harm
    settled: float  # without harm


def cells() -> Iterator[Cell]:
    """Every cell of the table. Without a noise model one run has no interval: two are the start."""
    for noise, start, habit in itertools.product(NOISE, STARTS, HABITS):
        if NOISE[noise] is not None or start > 1:
            yield Cell(noise=noise, start=start, habit=habit)


def followed(cell: Cell, draws: int, rate: Rate = spent) -> Followed:
    """The rates of one cell."""
    outcomes = [_outcomes(cell, harm, draws, rate) for harm in (0.0, 1.0)]
    (without, runs), (at_margin, _) = outcomes
    return Followed(
        regression=float((without == REGRESSION).mean()),
        passes=float((at_margin == PASS).mean()),
        runs=float(runs.mean()),
        settled=float((without != 0).mean()),
    )


def _outcomes(cell: Cell, harm: float, draws: int, rate: Rate) -> tuple[Array, Array]:
    """The outcome of each draw, and the runs a side that it took."""
    rng = np.random.default_rng([cell.start, int(harm), HABITS.index(cell.habit)])
    df = NOISE[cell.noise]
    known = None if df is None else SD * np.sqrt(rng.chisquare(df, draws) / df)
    n = np.full(draws, cell.start)
    total = n.copy()
    means, squares = _draw(rng, n, harm)
    found, open_ = np.zeros(draws, dtype=int), np.ones(draws, dtype=bool)
    for seen in range(READINGS):
        behind = 2.0 * n - 2 if df is None else np.full(draws, df)
        sd = np.sqrt(squares / behind) if known is None else known
        change = means[1] - means[0]
        half = special.stdtrit(behind, 1 - rate(seen)) * sd * np.sqrt(2 / n)
        passes, worse = change + half < 1, change - half > 0
        found = np.where(open_, np.where(passes, PASS, np.where(worse, REGRESSION, 0)), found)
        open_ &= found == 0
        if seen == READINGS - 1 or not open_.any():
            break
        more = np.ones(draws, dtype=int)
        at = np.flatnonzero(open_)
        if cell.habit != "one at a time":
            more[at] = more_runs(change[at], sd[at], n[at], rate(seen + 1), df)
        open_[at] &= more[at] > 0
        more = np.maximum(more, 1 if df is not None or cell.habit != "fresh" else 2)
        new_means, new_squares = _draw(rng, more, harm)
        if cell.habit == "fresh":
            merged = more, new_means, new_squares
        else:
            merged = _merged(n, means, squares, more, new_means, new_squares)
        n, means, squares = (
            np.where(open_, new, old) for new, old in zip(merged, (n, means, squares), strict=True)
        )
        total = np.where(open_, total + more, total)
    return found, total


def _draw(rng: np.random.Generator, n: Array, harm: float) -> tuple[Array, Array]:
    """Means of both sides over `n` runs, and the sum of squares about them."""
    means = rng.normal(size=(2, len(n))) * SD / np.sqrt(n)
    squares = rng.chisquare(np.maximum(2.0 * n - 2, 1e-9)) * SD**2
    return means + np.array([[0.0], [harm]]), np.where(n > 1, squares, 0.0)


def _merged(
    n: Array, means: Array, squares: Array, more: Array, new: Array, new_squares: Array
) -> tuple[Array, Array, Array]:
    both = n + more
    apart = ((new - means) ** 2).sum(axis=0) * n * more / both
    return both, means + (new - means) * more / both, squares + new_squares + apart


# --- the advice, as arrays ------------------------------------------------------------------------


@cache
def _nodes(df: float) -> tuple[Array, Array]:
    return sd_nodes(df)


def settled(harm: Array, sd: Array, n: Array, df: Array, alpha: float) -> Array:
    """P(pass or regression) for true harms, as `harness.stats.power.rates` computes it."""
    values, index = np.unique(df, return_inverse=True)
    scales = np.array([_nodes(float(value))[0] for value in values])[index]
    weights = np.array([_nodes(float(value))[1] for value in values])[index]
    se, column = (sd * np.sqrt(2 / n))[:, None], harm[:, None]
    half = special.stdtrit(df, 1 - alpha)[:, None] * se * scales
    to_pass = 1 - half
    worse = np.maximum(half, to_pass)
    reached = special.ndtr((to_pass - column) / se) + special.ndtr((column - worse) / se)
    return (weights * reached).sum(axis=1)


def more_runs(harm: Array, sd: Array, n: Array, alpha: float, df: float | None) -> Array:
    """`harness.stats.power.more_runs` of each draw at a margin of 1; -1 for None."""

    def enough(more: Array) -> Array:
        behind = 2.0 * (n + more) - 2 if df is None else np.full(len(n), df)
        return settled(harm, sd, n + more, behind, alpha) >= 1 - BETA

    low, high = np.zeros(len(n), dtype=int), np.ones(len(n), dtype=int)
    reached = enough(high)
    while (~reached & (high < MOST_RUNS)).any():
        low = np.where(reached, low, high)
        high = np.where(reached, high, np.minimum(2 * high, MOST_RUNS))
        reached = enough(high)
    while (between := reached & (high - low > 1)).any():
        middle = np.where(between, (low + high) // 2, high)
        good = enough(middle)
        high, low = np.where(between & good, middle, high), np.where(between & ~good, middle, low)
    return np.where(reached, high, -1)


# --- the page -------------------------------------------------------------------------------------


def lines(draws: int) -> list[str]:
    """The section of docs/operating-characteristics.md."""
    rates = {cell: followed(cell, draws) for cell in cells()}
    bound = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / draws)
    return [
        "",
        "## Following the advice until it is settled",
        "",
        f"{draws:,} comparisons a cell by `benchmarks/statistics/advice.py`. An inconclusive",
        "comparison is read again with the advised number of runs, at most "
        f"{READINGS} readings: all runs pooled,",
        "the new runs alone, or with one run a side more each time. The first reading is decided",
        f"at {spent(0):g}, the next ones at {spent(1):g}, {spent(2):g}, ... In brackets: every "
        f"reading at {ALPHA:g}.",
        "",
        "| noise | runs a side | read again | regression, no harm | pass, harm of one margin | "
        "runs a side | settled |",
        "|---|---|---|---|---|---|---|",
        *(_row(cell, rate, followed(cell, draws, unspent)) for cell, rate in rates.items()),
        "",
        "Worst cells: a regression without harm "
        f"{percent(max(one.regression for one in rates.values()))} %; a pass at a harm of one "
        f"margin {percent(max(one.passes for one in rates.values()))} %;",
        f"alpha plus two standard errors is {percent(bound)} %.",
    ]


def _row(cell: Cell, rate: Followed, before: Followed) -> str:
    return (
        f"| {cell.noise} | {cell.start} | {cell.habit} "
        f"| {percent(rate.regression)} % ({percent(before.regression)}) "
        f"| {percent(rate.passes)} % ({percent(before.passes)}) "
        f"| {rate.runs:.1f} ({before.runs:.1f}) "
        f"| {percent(rate.settled)} % |"
    )


if __name__ == "__main__":
    print_section(__doc__, lines, 10_000)
