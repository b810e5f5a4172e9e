"""Unchanged code on real runs: the first reading of one run a side to half a group.

Draws two sides of 1, 2 or 3 runs, or two halves, from groups of replicated real runs at random, and
decides the final loss and the training time as a first reading does, with Holm's procedure over
both; beside it, what each metric at the whole alpha would give.
operating_characteristics.py puts the table on its page.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from benchmarks.statistics.decisions import ALPHA, Array, noise_of
from benchmarks.statistics.real_noise import (
    KINDS,
    MINIMUM_RUNS,
    SPLITS,
    Kind,
    Run,
    clustered,
    groups_of,
    noise_without,
)
from harness.stats.decision import KnownSd
from harness.stats.spending import Reading

RATE = Reading(alpha=ALPHA).rate
SIZES: dict[str, int | None] = {"1": 1, "2": 2, "3": 3, "half": None}
LOSS, TIME = KINDS


@dataclass(frozen=True, kw_only=True)
class RealGroup:
    """Replicates with the values of each metric (runs,) in margins, and the noise of others."""

    values: tuple[Array, ...]
    known: tuple[KnownSd, ...]


def groups(runs: Sequence[Run], kinds: Sequence[Kind]) -> Iterator[RealGroup]:
    """The groups of at least MINIMUM_RUNS that every kind counts, by the last kind's key."""
    by_kind = [groups_of(runs, kind) for kind in kinds]
    for members in by_kind[-1].values():
        keys = [kind.group(members[0]) for kind in kinds]
        if len(members) < MINIMUM_RUNS or not all(kind.counts(members[0]) for kind in kinds):
            continue
        known = [
            noise_without(found, {key}, kind)
            for found, key, kind in zip(by_kind, keys, kinds, strict=True)
        ]
        yield RealGroup(
            values=tuple(
                np.array([kind.value(run) for run in members]) / kind.margin for kind in kinds
            ),
            known=tuple(
                KnownSd(sd=one.sd / kind.margin, df=one.df)
                for one, kind in zip(known, kinds, strict=True)
            ),
        )


def shares(
    group: RealGroup, n: int | None, splits: int = SPLITS
) -> tuple[float, float, float, float]:
    """Shares of draws of `n` runs a side: any regression by Holm at a first reading's rate, and of
    each metric at alpha; a pass of the first metric with a harm of one margin, likewise."""
    runs = len(group.values[0])
    n = n or runs // 2
    rng = np.random.default_rng([runs, n])
    order = rng.permuted(np.tile(np.arange(runs), (splits, 1)), axis=1)
    lower, upper = [], []  # limits at (metrics, draws) in standard errors and df
    for values, known in zip(group.values, group.known, strict=True):
        a, b = values[order[:, :n]], values[order[:, n : 2 * n]]
        with np.errstate(invalid="ignore"):  # times that are equal have no Welch df
            se, df = noise_of(a, b, np.full(splits, known.sd), known.df)
        lower.append(special.stdtr(df, -(b.mean(axis=1) - a.mean(axis=1)) / se))
        upper.append((b.mean(axis=1) - a.mean(axis=1), se, df))
    p = np.array(lower)  # of a regression, one-sided

    def passes(level: float, harm: float = 0.0) -> Array:
        return np.array([x + harm + special.stdtrit(df, 1 - level) * se < 1 for x, se, df in upper])

    holm = _holm(p, RATE) & ~passes(RATE)
    each = (p < ALPHA) & ~passes(ALPHA)
    return (
        float(holm.any(axis=0).mean()),
        float(each.any(axis=0).mean()),
        float(passes(RATE, 1.0)[0].mean()),
        float(passes(ALPHA, 1.0)[0].mean()),
    )


def _holm(p: Array, rate: float) -> Array:
    """Holm's rejections of p-values (metrics, draws)."""
    order = np.argsort(p, axis=0)
    level = rate / np.arange(len(p), 0, -1)[:, None]
    rejected = np.logical_and.accumulate(np.take_along_axis(p, order, axis=0) < level, axis=0)
    found = np.zeros_like(rejected)
    np.put_along_axis(found, order, rejected, axis=0)
    return found


def lines(runs: Sequence[Run]) -> list[str]:
    """The section of docs/operating-characteristics.md."""
    rows = []
    for title, kinds in (("loss", [LOSS]), ("loss and time", [LOSS, TIME])):
        found = list(groups(runs, kinds))
        for size, n in SIZES.items():
            columns = zip(*(shares(group, n) for group in found), strict=True)
            cells = [
                "{:.1f} ± {:.1f} %".format(*(100 * part for part in clustered(list(column))))
                for column in columns
            ]
            rows.append(f"| {title} | {len(found)} | {size} | {' | '.join(cells)} |")
    return [
        "",
        "## First readings of real runs that should not differ",
        "",
        f"The same groups, {SPLITS} draws of two sides each: any regression in the final loss, or",
        f"in the final loss and the training time, at a first reading's {100 * RATE:g} % with",
        f"Holm's procedure; beside it each metric at {100 * ALPHA:g} %. A harm of one margin is",
        "added to the loss of one side for the last two columns.",
        "",
        "| metrics | groups | runs a side | any regression, first reading | each at "
        f"{100 * ALPHA:g} % | pass, harm of one margin, first reading | at {100 * ALPHA:g} % |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]
