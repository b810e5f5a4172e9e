"""Measures how often each outcome comes: by simulation, and on real runs that should not differ.

    python -m benchmarks.statistics.operating_characteristics [--gates N] [--noise FOLDER]

Simulates comparisons (runs, noise, guard, limits, looks, decision) for harms of 0, 0.5, 1 and 2
margins, all of a cell as one array (decisions.py); adds the stored rates of whole gates
(gate_rates.py), with --noise the results on replicated runs and published comparisons
(real_noise.py, real_readings.py), repeated readings (readings.py), and the coverage of a study's
intervals (study_intervals.py, time_to_target.py). Prints Markdown; --write FILE replaces a page of
docs/. FOLDER holds runs.parquet and comparisons.csv (shipped_noise.py).
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.statistics import (
    gate_rates,
    readings,
    real_noise,
    real_readings,
    study_intervals,
    time_to_target,
)
from benchmarks.statistics.decisions import ALPHA, INCONCLUSIVE, PASS, REGRESSION, outcomes, percent
from harness.metrics import METRICS, SPEEDRUN_LOSS_SD_NATS
from harness.stats import sequential

LOSS_MARGIN_NATS = METRICS["val_loss"].margin.value
SD = SPEEDRUN_LOSS_SD_NATS / LOSS_MARGIN_NATS  # of one run, in margins
NOISE_MODELS: dict[str, float | None] = {
    "noise model, 600 df": 600.0,
    "noise model, 8 df": 8.0,
    "noise model, 5 df": 5.0,
    "own runs": None,
}
RUNS = (1, 3, 5, 10)
HARMS = (0.0, 0.5, 1.0, 2.0)
ALWAYS_VALID_BLOCKS = (5, 10, 30)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Shares of the outcomes in one cell, and the mean number of runs a side."""

    passes: float
    regression: float
    runs: float
    gates: int

    def error(self, share: float) -> float:
        """The Monte-Carlo standard error of a share."""
        return math.sqrt(share * (1 - share) / self.gates)


# --- simulated comparisons ------------------------------------------------------------------------


def simulate(n: int, harm: float, df: float | None, looks: bool, gates: int, seed: int = 0) -> Rate:
    """One cell: comparisons of n runs a side, all at once or in three looks."""
    rng = np.random.default_rng([seed, n, int(df or 0)])
    a, b = rng.normal(0, SD, (2, gates, n))
    known = SD * np.sqrt(rng.chisquare(df, gates) / df) if df else None
    at = sequential.looks(n) if looks else (n,)
    own_df = None if df else [2 * (k - 1) for k in at]
    tails = sequential.look_tails(ALPHA, [k / n for k in at], own_df)
    found = np.zeros(gates, dtype=int)
    used = np.full(gates, n)
    for k, tail in zip(at, tails, strict=True):
        now = outcomes(a[:, :k], b[:, :k] + harm, known, df, 1 - tail)
        decided = (found == INCONCLUSIVE) & (now != INCONCLUSIVE)
        used[decided] = k
        found = np.where(found == INCONCLUSIVE, now, found)
    return Rate(
        passes=float((found == PASS).mean()),
        regression=float((found == REGRESSION).mean()),
        runs=float(used.mean()),
        gates=gates,
    )


def simulate_always_valid(blocks: int, harm: float, gates: int, seed: int = 0) -> Rate:
    """One cell of the always-valid test: a look after every block, the SD known."""
    rng = np.random.default_rng([seed, blocks, 99])
    variance = sequential.block_variance(SD)
    d = rng.normal(harm, math.sqrt(variance), (gates, blocks))
    mean = np.cumsum(d, axis=1) / np.arange(1, blocks + 1)
    tests = {
        PASS: (sequential.running_p(d - 1.0, variance, 0.5) <= 2 * ALPHA) & (mean < 1.0),
        REGRESSION: (sequential.running_p(d, variance, 0.5) <= 2 * ALPHA) & (mean > 0),
    }
    first = {kind: np.where(hit.any(1), hit.argmax(1), blocks) for kind, hit in tests.items()}
    used = np.minimum(first[PASS], first[REGRESSION])
    passes = (first[PASS] <= first[REGRESSION]) & (used < blocks)
    return Rate(
        passes=float(passes.mean()),
        regression=float(((used < blocks) & ~passes).mean()),
        runs=float(np.minimum(used + 1, blocks).mean()),
        gates=gates,
    )


Cell = tuple[str, int, bool, float]  # noise, runs a side, looks, harm


def cells(gates: int) -> Iterator[tuple[Cell, Rate]]:
    """Every cell of the table."""
    for noise, df in NOISE_MODELS.items():
        for n in RUNS:
            for looks in (False, True):
                if n == 1 and (looks or df is None):
                    continue
                for harm in HARMS:
                    yield (noise, n, looks, harm), simulate(n, harm, df, looks, gates)


# --- the page -------------------------------------------------------------------------------------


def page(gates: int, noise: Path | None) -> str:
    """The whole page as Markdown."""
    parts = [
        _head(gates),
        *_simulated(gates),
        *_always_valid(gates),
        *gate_rates.lines(gate_rates.load()),
    ]
    if noise is not None:
        runs = real_noise.load(noise)
        parts += real_noise.split_lines(runs)
        parts += real_noise.recorded_lines(real_noise.pairs(noise, runs))
        parts += real_readings.lines(runs)
    return "\n".join(parts) + "\n"


def studies(draws: int) -> str:
    """The parts that other scripts simulate: readings, and the intervals of studies."""
    parts = [readings.lines(draws), study_intervals.lines(draws), time_to_target.lines(draws)]
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(gates: int) -> str:
    alpha, error = 100 * ALPHA, 100 * math.sqrt(ALPHA * (1 - ALPHA) / gates)
    return "\n".join(
        (
            "# How often each outcome occurs",
            "",
            "Generated by "
            "`python -m benchmarks.statistics.operating_characteristics --noise FOLDER`.",
            "",
            f"{gates:,} simulated comparisons a cell, {alpha:g} % one-sided, SD of one run {SD:g} "
            "margins",
            f"(the GPT-2-small speedrun: {SPEEDRUN_LOSS_SD_NATS:g} nats, margin "
            f"{LOSS_MARGIN_NATS:g}). "
            "A regression without harm",
            "and a pass at a harm of one margin are errors; each may occur in at most",
            f"{alpha:g} % of cases. Between the two no outcome is an error. A share of {alpha:g} %",
            f"has a Monte-Carlo error of {error:.2f} %.",
        )
    )


def _trio(rate: Rate) -> str:
    inconclusive = max(0.0, 1 - rate.passes - rate.regression)
    return " / ".join(map(percent, (rate.passes, inconclusive, rate.regression)))


def _simulated(gates: int) -> list[str]:
    rates = dict(cells(gates))
    lines = [
        "",
        "## The decision alone: pass / inconclusive / regression, in %",
        "",
        "| noise | runs a side | looks | " + " | ".join(f"harm {h:g}" for h in HARMS) + " |",
        "|---|---|---|" + "---|" * len(HARMS),
    ]
    for noise, n, looks in dict.fromkeys(cell[:3] for cell in rates):
        shown = []
        for harm in HARMS:
            rate = rates[noise, n, looks, harm]
            shown.append(f"{_trio(rate)} ({rate.runs:.1f} runs)" if looks else _trio(rate))
        lines.append(f"| {noise} | {n} | {'3' if looks else '1'} | {' | '.join(shown)} |")
    worst = {
        "a regression without harm": max(r.regression for c, r in rates.items() if c[3] == 0),
        "a pass at a harm of one margin": max(r.passes for c, r in rates.items() if c[3] == 1),
    }
    stated = "; ".join(f"{what} {percent(share)} %" for what, share in worst.items())
    bound = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / gates)
    lines += ["", f"Worst cells: {stated}; alpha plus two standard errors is {percent(bound)} %."]
    return lines


def _always_valid(gates: int) -> list[str]:
    lines = [
        "",
        "## The always-valid test: a look after every block",
        "",
        "| at most | " + " | ".join(f"harm {harm:g}" for harm in HARMS) + " |",
        "|---|" + "---|" * len(HARMS),
    ]
    for blocks in ALWAYS_VALID_BLOCKS:
        shown = []
        for harm in HARMS:
            rate = simulate_always_valid(blocks, harm, gates)
            shown.append(f"{_trio(rate)} ({rate.runs:.1f} blocks)")
        lines.append(f"| {blocks} blocks | {' | '.join(shown)} |")
    return lines


def main() -> None:
    """Prints the page, or writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--gates", type=int, default=20_000)
    parser.add_argument("--draws", type=int, default=10_000, help="of readings and studies, a cell")
    parser.add_argument("--noise", type=Path)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    text = page(arguments.gates, arguments.noise) + studies(arguments.draws)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
