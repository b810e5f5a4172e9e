"""Measures how often the intervals of a study hold for all of its arms together.

    python -m benchmarks.statistics.study_intervals [--draws N]

Two tables for docs/operating-characteristics.md: arms of unequal spread, and arms whose runs follow
those of the base at the same seeds. All draws of a cell are one array; a test compares this
arithmetic with `harness.stats.moderation`, study by study.
"""

import math
from functools import lru_cache

import numpy as np
from scipy import optimize, special

from benchmarks.statistics.decisions import Array, percent
from benchmarks.statistics.section import print_section
from harness.stats.distributions import sd_nodes
from harness.stats.inference import sidak
from harness.stats.moderation import PAIRING_SHARE, prior_df

ALPHA = 0.05
LEAST = 0.93  # simultaneous coverage that every cell must have
ARMS, SEEDS = (4, 12, 23), (2, 3, 5)
SPREADS = (("none", 1.0), *((who, by) for who in ("one arm", "base") for by in (0.25, 2.0, 4.0)))
PAIRED_ARMS, PAIRED_SEEDS = (4, 12), (2, 3, 5, 8)
CORRELATIONS = (0.0, 0.3, 0.5, 0.8, 0.95, 0.99)
MOST_DF = 1e6


# --- runs of a study ------------------------------------------------------------------------------


def sds(arms: int, who: str, by: float) -> Array:
    """The SD of the base and of each arm: 1, except where `who` has `by`."""
    values = np.ones(arms + 1)
    if who != "none":
        values[0 if who == "base" else 1] = by
    return values


def draw(rng: np.random.Generator, draws: int, n: int, spread: Array, correlation: Array) -> Array:
    """Runs (draws, 1 + arms, n) without effects; each arm is correlated with the base by seed."""
    base = rng.normal(size=(draws, 1, n))
    own = rng.normal(size=(draws, len(correlation), n))
    r = correlation[:, None]
    return np.concatenate([base, r * base + np.sqrt(1 - r**2) * own], axis=1) * spread[:, None]


# --- half-widths (draws, arms) --------------------------------------------------------------------


def t_limit(level: float, df: Array) -> Array:
    return special.stdtrit(np.minimum(df, MOST_DF), 1 - level / 2)


def with_variances(variances: Array, df: Array, n: int, level: float) -> Array:
    """From each arm's variance and df, by Welch and Satterthwaite."""
    base, arms = variances[:, :1] / n, variances[:, 1:] / n
    both = (base + arms) ** 2 / (base**2 / df[:, :1] + arms**2 / df[:, 1:])
    return t_limit(level, both) * np.sqrt(base + arms)


def one_sd(runs: Array) -> Array:
    """One SD for all arms, Dunnett's critical value."""
    _, groups, n = runs.shape
    critical = dunnett(ALPHA, groups * (n - 1.0), (math.sqrt(0.5),) * (groups - 1))
    sd = np.sqrt(runs.var(axis=2, ddof=1).mean(axis=1, keepdims=True))
    return np.broadcast_to(critical * sd * math.sqrt(2 / n), (len(runs), groups - 1))


def smyth(runs: Array) -> Array:
    """Variances moderated with the d0 and s0 that their logarithms suggest."""
    n, k = runs.shape[2], runs.shape[1] - 1
    d, own = n - 1, runs.var(axis=2, ddof=1)
    logs = np.log(own) - special.digamma(d / 2) + np.log(d / 2)
    excess = logs.var(axis=1, ddof=1) - special.polygamma(1, d / 2)
    d0 = np.where(excess > 1e-8, 2 * _inverse_trigamma(np.maximum(excess, 1e-8)), MOST_DF)
    shift = np.where(excess > 1e-8, special.digamma(d0 / 2) - np.log(d0 / 2), 0.0)
    scale = np.where(excess > 1e-8, np.exp(logs.mean(axis=1) + shift), own.mean(axis=1))
    total = np.broadcast_to((d0 + d)[:, None], own.shape)
    values = ((d0 * scale)[:, None] + d * own) / total
    return with_variances(values, total, n, sidak(ALPHA, k))


def _inverse_trigamma(x: Array) -> Array:
    y = 0.5 + 1 / x
    for _ in range(20):
        value = special.polygamma(1, y)
        y = y + value * (1 - value / x) / special.polygamma(2, y)
    return y


def welch(runs: Array, level: float) -> Array:
    """Each arm's own variance: Tamhane's T2."""
    own = runs.var(axis=2, ddof=1)
    return with_variances(own, np.full(own.shape, runs.shape[2] - 1.0), runs.shape[2], level)


def moderated(runs: Array, level: float) -> Array:
    """As `harness.stats.moderation.moderate` and `unpaired`."""
    groups, n = runs.shape[1:]
    d, own = n - 1.0, runs.var(axis=2, ddof=1)
    logs = np.log(own) - special.digamma(d / 2) + np.log(d / 2)
    d0 = prior_df(groups, d)
    values = (d0 * np.exp(logs.mean(axis=1, keepdims=True)) + d * own) / (d0 + d)
    return with_variances(values, np.full(own.shape, d0 + d), n, level)


def in_blocks(runs: Array, level: float) -> Array:
    """As `harness.stats.moderation.in_blocks`, for complete blocks."""
    groups, n = runs.shape[1:]
    d = (n - 1.0) * (groups - 1) / groups
    levels = runs.mean(axis=1, keepdims=True) - runs.mean(axis=(1, 2), keepdims=True)
    residuals = runs - levels - runs.mean(axis=2, keepdims=True)
    own = (residuals**2).sum(axis=2) / d
    logs = np.log(own) - special.digamma(d / 2) + math.log(d / 2)
    d0 = prior_df(groups, d, blocks=True)
    values = (d0 * np.exp(logs.mean(axis=1, keepdims=True)) + d * own) / (d0 + d)
    return with_variances(values, np.full(own.shape, d0 + d), n, level)


def paired(runs: Array, level: float) -> Array:
    """From the differences inside seeds."""
    n = runs.shape[2]
    differences = runs[:, 1:] - runs[:, :1]
    se = differences.std(axis=2, ddof=1) / math.sqrt(n)
    return t_limit(level, np.array(n - 1.0)) * se


def of_a_study(runs: Array) -> Array:
    """The shorter of the two intervals, each at its share of alpha."""
    level = sidak(PAIRING_SHARE * ALPHA, runs.shape[1] - 1)
    return np.minimum(moderated(runs, level), paired(runs, level))


def oracle(spread: Array, n: int) -> Array:
    """With every SD known: Dunnett's critical value for these SDs; (arms,)."""
    base, arms = spread[0] ** 2, spread[1:] ** 2
    loadings = tuple(np.sqrt(base / (base + arms)))
    return dunnett(ALPHA, math.inf, loadings) * np.sqrt((base + arms) / n)


@lru_cache(maxsize=1024)
def dunnett(alpha: float, df: float, loadings: tuple[float, ...]) -> float:
    """The two-sided c with P(all |T_i| <= c) = 1 - alpha, corr(i, j) = b_i b_j (Dunnett 1955)."""
    nodes, weights = np.polynomial.legendre.leggauss(96)
    z, density = 8.5 * nodes, 8.5 * weights * np.exp(-((8.5 * nodes) ** 2) / 2)
    scales, scale_weights = sd_nodes(df)
    b = np.array(loadings)[:, None, None]
    rest = np.sqrt(1 - b**2)

    def outside(c: float) -> float:
        upper = (c * scales[:, None] - b * z) / rest
        lower = (-c * scales[:, None] - b * z) / rest
        inside = (special.ndtr(upper) - special.ndtr(lower)).prod(axis=0)
        return float(scale_weights @ inside @ density) / math.sqrt(2 * math.pi) - (1 - alpha)

    return float(optimize.brentq(outside, 1.0, 60.0))


# --- tables ---------------------------------------------------------------------------------------


def coverage(runs: Array, halves: Array) -> float:
    """The share of studies in which no arm's interval misses 0, the true effect."""
    means = runs.mean(axis=2)
    return float((np.abs(means[:, 1:] - means[:, :1]) <= halves).all(axis=1).mean())


def spread_cell(arms: int, n: int, who: str, by: float, draws: int) -> str:
    """Coverage by method; of a study, also the largest median width of an arm over the oracle's."""
    spread, level = sds(arms, who, by), sidak(ALPHA, arms)
    rng = np.random.default_rng([arms, n, len(who), int(4 * by)])
    runs = draw(rng, draws, n, spread, np.zeros(arms))
    known = oracle(spread, n)
    shown = [
        percent(coverage(runs, one)) for one in (one_sd(runs), smyth(runs), welch(runs, level))
    ]
    for halves in (of_a_study(runs), in_blocks(runs, level)):
        wide = float((np.median(halves, axis=0) / known).max())
        shown.append(f"{percent(coverage(runs, halves))} ({wide:.2f})")
    other = "none" if who == "none" else f"{who} ×{by:g}"
    return f"| {arms} | {n} | {other} | {' | '.join(shown)} |"


def spread_lines(draws: int) -> list[str]:
    """Simultaneous coverage where one arm or the base has another SD than the rest."""
    return [
        "",
        "## Studies whose arms differ in their spread: simultaneous coverage, in %",
        "",
        f"{draws:,} studies a cell, nominal 95 %; all arms have SD 1 but the one named. *one*",
        "*SD*: pooled over the arms, with Dunnett's critical value; *Smyth*: d0 from the arms;",
        "*Welch*: own SDs, Tamhane's T2. A study compares losses by *loss* and speeds, inside",
        "blocks, by *speed*. In brackets: the median interval of the arm where it is widest, over",
        "that of an oracle that knows every SD (Dunnett). A dry run names the seeds that are",
        "needed where it is more than twice as wide.",
        "",
        "| arms | seeds | other SD | one SD | Smyth | Welch | loss | speed |",
        "|---|---|---|---|---|---|---|---|",
        *(
            spread_cell(arms, n, who, by, draws)
            for arms in ARMS
            for n in SEEDS
            for who, by in SPREADS
        ),
    ]


def patterns(arms: int) -> list[Array]:
    """The spreads over which the worst coverage is taken."""
    cases = (("none", 1.0), ("one arm", 4.0), ("base", 4.0), ("base", 0.25))
    return [sds(arms, who, by) for who, by in cases]


def correlations(arms: int) -> dict[str, Array]:
    """The correlations with the base, by name."""
    found = {f"{r:g}": np.full(arms, r) for r in CORRELATIONS}
    half = np.zeros(arms)
    half[: arms // 2] = 0.99
    return {**found, "0.99 in half of the arms": half}


def pairing_cell(arms: int, n: int, correlation: Array, draws: int) -> tuple[float, float]:
    """(the worst coverage over the patterns, width over that without pairing at equal SDs)."""
    rates, ratio = [], math.nan
    for index, spread in enumerate(patterns(arms)):
        rng = np.random.default_rng([arms, n, index, int(1000 * correlation[0]), 7])
        runs = draw(rng, draws, n, spread, correlation)
        own = of_a_study(runs)
        rates.append(coverage(runs, own))
        if index == 0:
            alone = moderated(runs, sidak(ALPHA, arms))
            ratio = float(np.median(own[:, 0]) / np.median(alone[:, 0]))
    return min(rates), ratio


def pairing_lines(draws: int) -> list[str]:
    """Coverage and width where arms follow the base by seed."""
    names = list(correlations(PAIRED_ARMS[0]))
    lines = [
        "",
        "## Studies whose arms follow the base by seed: worst coverage in % (width)",
        "",
        f"{draws:,} studies a cell; the worst of equal SDs, one arm ×4, the base ×4, the base "
        "×0.25.",
        "Width: the first arm's median interval over the one without pairing, at equal SDs.",
        "",
        "| arms | seeds | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    least = 1.0
    for arms in PAIRED_ARMS:
        for n in PAIRED_SEEDS:
            shown = []
            for correlation in correlations(arms).values():
                rate, ratio = pairing_cell(arms, n, correlation, draws)
                shown.append(f"{percent(rate)} ({ratio:.2f})")
                least = min(least, rate)
            lines.append(f"| {arms} | {n} | " + " | ".join(shown) + " |")
    return [*lines, "", f"Worst cell: {percent(least)} %."]


def lines(draws: int) -> list[str]:
    """Both tables."""
    return [*spread_lines(draws), *pairing_lines(draws)]


if __name__ == "__main__":
    print_section(__doc__, lines, 10_000)
