"""The error rate of a speed A/B whose launches vary more than the noise model's row.

    python -m benchmarks.statistics.launch_guard [--draws N]

Two to four launches a side whose SD is 1, 2 or 4 times that of the row, decided at the rate of a
first reading: as `harness.stats.ab_noise` decides it, and by the row alone. All draws of a cell are
one array; a test compares them with `summarize_launches`.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import special

from benchmarks.statistics.decisions import ALPHA, Array, percent
from benchmarks.statistics.section import print_section
from harness.stats.ab_noise import GUARD_ALPHA, PRIOR_DF
from harness.stats.spending import Reading

RATE = Reading(alpha=ALPHA).rate
ROW_DF = 500.0
LAUNCHES = (2, 3, 4)
RATIOS = (1.0, 2.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class GuardRates:
    """One-sided error rates, and the mean half-width of the limits relative to the row's."""

    error: float
    row_alone: float
    width: float
    widened: float  # share of draws whose limits are more than twice as wide as the row's


def drawn(launches: int, ratio: float, draws: int) -> tuple[Array, Array]:
    """The launches' differences (draws, launches), SD sqrt(2) `ratio`, and the row's SDs."""
    rng = np.random.default_rng([launches, int(10 * ratio)])
    means = rng.normal(0, np.sqrt(2) * ratio, (draws, launches))
    return means, np.sqrt(rng.chisquare(ROW_DF, draws) / ROW_DF)


def guarded(means: Array, sd: Array) -> tuple[Array, Array]:
    """Standard error and df of each draw, as `harness.stats.ab_noise` chooses them."""
    n = means.shape[1]
    own, row = means.var(axis=1, ddof=1) / 2, sd**2
    moderated = (PRIOR_DF * row + (n - 1) * own) / (PRIOR_DF + n - 1)
    excess = own / row > special.fdtri(n - 1, ROW_DF, 1 - GUARD_ALPHA)
    variance = np.where(own <= row, row, np.where(excess, own, moderated))
    df = np.where(own <= row, ROW_DF, np.where(excess, n - 1, PRIOR_DF + n - 1))
    return np.sqrt(2 * variance / n), df


def simulate(launches: int, ratio: float, draws: int) -> GuardRates:
    """The rates of one cell."""
    means, sd = drawn(launches, ratio, draws)
    estimate = means.mean(axis=1)
    se, df = guarded(means, sd)
    half = special.stdtrit(df, 1 - RATE) * se
    of_row = special.stdtrit(ROW_DF, 1 - RATE) * sd * np.sqrt(2 / launches)
    return GuardRates(
        error=float((estimate > half).mean()),
        row_alone=float((estimate > of_row).mean()),
        width=float((half / of_row).mean()),
        widened=float((half > 2 * of_row).mean()),
    )


def lines(draws: int) -> list[str]:
    """The section of docs/operating-characteristics.md."""
    rows = []
    for launches, ratio in itertools.product(LAUNCHES, RATIOS):
        rate = simulate(launches, ratio, draws)
        rows.append(
            f"| {launches} | {ratio:g} | {percent(rate.error)} % | {percent(rate.row_alone)} % "
            f"| {rate.width:.2f} | {percent(rate.widened)} % |"
        )
    return [
        "",
        "## Launches that vary more than the noise model's row",
        "",
        f"{draws:,} speed A/Bs a cell by `benchmarks/statistics/launch_guard.py`, one-sided, at a",
        f"first reading's {100 * RATE:g} %. Each of a few launches has the row's SD, or a multiple",
        "of it. Widths are relative to those of the row alone.",
        "",
        "| launches | SD / row's SD | error | error by the row alone | mean width "
        "| more than twice as wide |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


if __name__ == "__main__":
    print_section(__doc__, lines, 100_000)
