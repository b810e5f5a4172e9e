"""The noise of several arms that are compared with one base: each arm's own, moderated.

A trick changes the spread of runs as well as their mean: at depth 8 the SD of a run is 0.043 bpb
without Muon, 0.013 in the base and 0.0008 without the residual scalars. One SD for all arms would
be wrong for each of them, and the own SD of two or three runs is too poor alone. So each variance
is moderated towards the pool,

    s~^2 = (d0 s0^2 + d s^2) / (d0 + d)    with d0 + d degrees of freedom,

where s0^2 is the geometric mean of the arms' variances, each freed of its bias as a logarithm.
Smyth (Stat. Appl. Genet. Mol. Biol. 3 (2004) 3) estimates d0 from the scatter of the logarithms.
Among five to twenty-four arms that estimate trusts the pool too much: with the base at four times
the SD of the arms, simultaneous 95 % intervals cover 68 to 91 %. Here d0 is small enough that they
cover 93 % wherever one arm or the base has 0.25 to 4 times the SD of the others, and has a largest
value, so that an arm with many runs keeps its own variance.

**Pairing.** Arms share initialisation and data order by seed. Where that makes runs alike, the
differences inside seeds vary less than the two SDs imply. Which arms gain is not known beforehand,
and choosing the shorter of two intervals after looking at both would err too often. Each interval
is therefore made at PAIRING_SHARE of alpha, and the shorter one is used. The choice depends on
spreads only, never on the difference itself. The variance of the differences is not moderated:
those of arms that gain from pairing can be a thousand times smaller than those of arms that do not.

Measured in benchmarks/statistics/study_intervals.py. Pure: numbers in, numbers out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast, from_parts
from harness.stats.regression import BlockFit

Floats = NDArray[np.float64]

MOST_PRIOR_DF = 3.0  # an arm's df beyond these do not raise d0
BLOCKS_PRIOR_DF = 1.5  # what d0 is at least made of in blocks, whose residuals share the noise
PAIRING_SHARE = 0.66
"""Of alpha, for each of the two intervals of which the shorter is used."""


@dataclass(frozen=True, kw_only=True)
class Variances:
    """The moderated variance of one run of each arm, and the df behind it: both (arms,)."""

    values: Floats
    df: Floats


def moderate(squares: Floats, df: Floats, *, blocks: bool = False) -> Variances:
    """The arms' variances from their sums of squares, with these df: (arms,).

    An arm without df has neither. An arm of equal runs is no evidence about the pool. `blocks`: the
    squares are those of residuals of a block model, not of deviations from the arms' own means.
    """
    from scipy import special

    some = df > 0
    own = np.full(len(df), math.nan)
    own[some] = squares[some] / df[some]
    informative = some & (squares > 0)
    if not informative.any():
        return Variances(values=own, df=df)
    half = df[informative] / 2
    logs = np.log(own[informative]) - special.digamma(half) + np.log(half)
    arms = int(informative.sum())
    prior = np.array([prior_df(arms, float(one), blocks=blocks) for one in df])
    total = np.where(some, prior + df, math.nan)
    values = (prior * math.exp(float(logs.mean())) + squares) / total
    return Variances(values=values, df=np.where(some, total, 0.0))


def prior_df(arms: int, df: float, *, blocks: bool = False) -> float:
    """d0 of an arm with `df`, one of so many (the base among them).

    The pool gains weight with the number of arms. The rest is the most that held the coverage.
    """
    worth = min(df, MOST_PRIOR_DF)
    worth = max(worth, BLOCKS_PRIOR_DF) if blocks else max(1.25 * (worth - 0.6), 0.0)
    return max(arms - 2, 0) / (arms + 2) * worth


def planned_df(arms: int, runs: int) -> float:
    """The df of each contrast of `arms` arms with one base, if all have one SD and these runs."""
    return 2 * (runs - 1 + prior_df(arms + 1, runs - 1))


def unpaired(means: Sequence[float], counts: Sequence[int], variances: Variances) -> list[Contrast]:
    """Every other arm minus arm 0, each with the two arms' own variances."""
    parts = [
        (float(value) / n, float(df))
        for value, n, df in zip(variances.values, counts, variances.df, strict=True)
    ]
    return [
        from_parts(mean - means[0], [parts[0], part])
        for mean, part in zip(means[1:], parts[1:], strict=True)
    ]


def is_shorter(one: Contrast, other: Contrast, level: float) -> bool:
    """Whether the interval of `one` at this two-sided level is the shorter one."""
    if not one.df > 0 or not one.se > 0:
        return False
    if not other.df > 0:
        return True
    halves = [t_quantile(1 - level / 2, c.df) * c.se for c in (one, other)]
    return halves[0] < halves[1]


def in_blocks(fit: BlockFit) -> list[Contrast]:
    """The contrasts of a block model whose arms each have their own moderated variance.

    An arm's sum of squares is that of its residuals, its df the sum of 1 - leverage over its runs.
    """
    arms = len(fit.estimates) + 1
    df = np.bincount(fit.arms, 1 - fit.leverages, arms)
    squares: Floats = np.bincount(fit.arms, fit.residuals**2, arms).astype(np.float64)
    noise = moderate(squares, np.where(df > 1e-9, df, 0.0), blocks=True)
    found = []
    for estimate, row in zip(fit.estimates, fit.coefficients, strict=True):
        weights = np.bincount(fit.arms, row**2, arms)
        parts = [
            (float(weight * value), float(own))
            for weight, value, own in zip(weights, noise.values, noise.df, strict=True)
            if weight > 1e-12
        ]
        found.append(from_parts(float(estimate), parts))
    return found
