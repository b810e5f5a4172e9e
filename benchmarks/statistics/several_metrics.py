"""The error rate of the exit code of a comparison in several metrics.

    python -m benchmarks.statistics.several_metrics [--draws N]

The worst metric is the outcome of a comparison, so an unchanged candidate has as many chances to be
a regression as there are metrics. Simulates the first reading of unchanged candidates with one to
three metrics and one to three runs a side, with Holm's procedure over the metrics (as
`harness.comparison.engine.conclude_all`) and without it, for independent and for correlated
metrics. The price is the power for a candidate that is worse by two margins in one metric. All
draws of a cell are one array; a test compares them with the engine.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special

from benchmarks.statistics.decisions import ALPHA, Array, percent
from benchmarks.statistics.gate_rates import LAUNCH_SD
from benchmarks.statistics.section import print_section
from harness.metrics import METRICS, SPEEDRUN_LOSS_SD_NATS
from harness.stats.spending import Reading

RATE = Reading(alpha=ALPHA).rate
LOSS_SD = SPEEDRUN_LOSS_SD_NATS / METRICS["val_loss"].margin.value
SDS = (LOSS_SD, LAUNCH_SD / METRICS["train_time_s"].margin.value, LOSS_SD)  # in margins of each
NOISE: dict[str, float | None] = {"noise model, 600 df": 600.0, "own runs": None}
RUNS = (1, 2, 3)
CORRELATIONS = (0.0, 0.8)
HARM = 2.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Comparisons of one kind."""

    noise: str
    metrics: int
    runs: int
    correlation: float


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Shares of comparisons with a regression in any metric: by Holm's procedure, and without."""

    holm: float
    each: float
    detected: float  # with a harm in the first metric, by Holm's procedure
    detected_each: float


def cells() -> Iterator[Cell]:
    """Every cell of the table."""
    for noise, runs, metrics, correlation in itertools.product(
        NOISE, RUNS, range(1, len(SDS) + 1), CORRELATIONS
    ):
        if not (NOISE[noise] is None and runs == 1) and not (metrics == 1 and correlation):
            yield Cell(noise=noise, metrics=metrics, runs=runs, correlation=correlation)


def simulate(cell: Cell, draws: int) -> Joint:
    """The rates of one cell."""
    change, se, df = drawn(cell, draws)
    harmed = change + np.array([HARM] + [0.0] * (cell.metrics - 1))
    return Joint(
        holm=float(regressions(change, se, df, holm=True).any(axis=1).mean()),
        each=float(regressions(change, se, df, holm=False).any(axis=1).mean()),
        detected=float(regressions(harmed, se, df, holm=True)[:, 0].mean()),
        detected_each=float(regressions(harmed, se, df, holm=False)[:, 0].mean()),
    )


def drawn(cell: Cell, draws: int) -> tuple[Array, Array, float]:
    """Differences and their standard errors (draws, metrics) in margins, and the df."""
    rng, n = np.random.default_rng([cell.metrics, cell.runs]), cell.runs
    sds = np.array(SDS[: cell.metrics])
    shared = math.sqrt(cell.correlation) * rng.normal(size=(draws, 1))
    own = math.sqrt(1 - cell.correlation) * rng.normal(size=(draws, cell.metrics))
    change = (shared + own) * sds * math.sqrt(2 / n)
    df = NOISE[cell.noise] or 2.0 * (n - 1)
    scale = np.sqrt(rng.chisquare(df, size=(draws, cell.metrics)) / df)
    return change, scale * sds * math.sqrt(2 / n), df


def regressions(change: Array, se: Array, df: float, *, holm: bool) -> Array:
    """Which metrics (draws, metrics) are regressions at a margin of 1 each."""
    critical = special.stdtrit(df, 1 - RATE)
    passes = change + critical * se < 1
    if not holm:
        return (change - critical * se > 0) & ~passes
    open_ = np.ones_like(passes)
    for _ in range(change.shape[1]):
        left = np.maximum(open_.sum(axis=1, keepdims=True), 1)
        open_ &= ~(change - special.stdtrit(df, 1 - RATE / left) * se > 0)
    return ~open_ & ~passes


# --- the page -------------------------------------------------------------------------------------


def lines(draws: int) -> list[str]:
    """The section of docs/operating-characteristics.md."""
    rates = {cell: simulate(cell, draws) for cell in cells()}
    bound = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / draws)
    worst = max(one.holm for one in rates.values())
    return [
        "",
        "## Several metrics and one exit code",
        "",
        f"{draws:,} comparisons a cell by `benchmarks/statistics/several_metrics.py`: the first",
        f"reading of unchanged candidates, with a loss (SD {SDS[0]:.1g} margins), a time",
        f"(SD {SDS[1]:.2g} margins) and another loss. A regression in any metric is an error. In",
        "brackets: without Holm's procedure. The last column is the share of candidates with a",
        f"harm of {HARM:g} margins in the first metric that are a regression in it.",
        "",
        "| noise | runs a side | metrics | correlation | any regression, no harm | harm detected |",
        "|---|---|---|---|---|---|",
        *(
            f"| {cell.noise} | {cell.runs} | {cell.metrics} | {cell.correlation:g} "
            f"| {percent(rate.holm)} % ({percent(rate.each)}) "
            f"| {percent(rate.detected)} % ({percent(rate.detected_each)}) |"
            for cell, rate in rates.items()
        ),
        "",
        f"Worst cell: {percent(worst)} %; alpha plus two standard errors is {percent(bound)} %.",
    ]


if __name__ == "__main__":
    print_section(__doc__, lines, 20_000)
