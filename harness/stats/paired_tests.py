"""Two models on the same examples: do their answers differ?

A benchmark score of two models is compared example by example, because most examples are easy or
hard for both and cancel. Right-or-wrong answers take McNemar's exact test on the examples where the
two disagree; graded answers (`core_soft`) a bootstrap of the examples inside each task. Both
concern the examples and not training noise: two seeds of one recipe differ too. Where a side has
several runs, `beyond_examples` adds that noise to the error. Pure: numbers in, numbers out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.inference import Contrast

Floats = NDArray[np.float64]

_DRAWS_AT_ONCE = 200_000  # indices; a long task is drawn in parts that stay in a cache
_FEW_VALUES = 32  # distinct values up to which a resample is drawn as their counts


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Examples that only one of the two got right, and the two-sided exact p-value."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """McNemar's exact test on two sequences of right (true) and wrong, one entry an example.

    As `scipy.stats.binomtest`, whose import is slow.
    """
    from scipy import special

    right_a, right_b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    assert right_a.shape == right_b.shape, f"{right_a.shape} examples against {right_b.shape}"
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    split = only_a + only_b
    p = 2 * float(special.bdtr(min(only_a, only_b), split, 0.5)) if split else 1.0
    return McNemar(only_a=only_a, only_b=only_b, p=min(1.0, p))


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """B minus A in the mean of the tasks' means: the estimate and its percentile limits."""

    estimate: float
    low: float
    high: float
    se: float


def paired_bootstrap(
    tasks: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    alpha: float = 0.05,
    draws: int = 2000,
    seed: int = 0,
) -> Bootstrap:
    """`tasks`: (values of A, values of B) by example. Examples are drawn anew inside their task.

    `alpha` is two-sided. Equal seeds give equal limits.
    """
    gaps = [np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64) for a, b in tasks]
    return stratified_bootstrap(gaps, alpha=alpha, draws=draws, seed=seed)[0]


def stratified_bootstrap(
    gaps: Sequence[Floats], *, alpha: float = 0.05, draws: int = 2000, seed: int = 0
) -> tuple[Bootstrap, list[Bootstrap]]:
    """The same from the differences by example, one array a task: for all tasks, and for each.

    Tasks are resampled independently, also where two of them use the same examples.
    """
    rng = np.random.default_rng(seed)
    assert all(task.size for task in gaps), "a task has at least one example"
    means = [_resampled_means(task, draws, rng) for task in gaps]
    estimates = [float(task.mean()) for task in gaps]
    whole = _limits(math.fsum(estimates) / len(gaps), np.mean(means, axis=0), alpha)
    each = [_limits(*task, alpha) for task in zip(estimates, means, strict=True)]
    return whole, each


def _limits(estimate: float, means: Floats, alpha: float) -> Bootstrap:
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return Bootstrap(
        estimate=estimate, low=float(low), high=float(high), se=float(means.std(ddof=1))
    )


def _resampled_means(gaps: Floats, draws: int, rng: np.random.Generator) -> Floats:
    values, counts = np.unique(gaps, return_counts=True)
    if len(values) <= _FEW_VALUES:  # the same distribution without drawing every example
        drawn = rng.multinomial(len(gaps), counts / len(gaps), size=draws)
        return np.asarray(drawn @ values / len(gaps), dtype=np.float64)
    means, single = np.empty(draws), gaps.astype(np.float32)
    narrow = np.uint16 if len(gaps) <= 1 << 16 else np.uint32
    at_once = max(1, _DRAWS_AT_ONCE // len(gaps))
    for start in range(0, draws, at_once):
        part = means[start : start + at_once]
        drawn = rng.integers(len(gaps), size=(len(part), len(gaps)), dtype=narrow)
        part[:] = single.take(drawn).mean(axis=1)
    return means


# --- several runs a side --------------------------------------------------------------------------


def shared_variance(a: Sequence[Floats], b: Sequence[Floats]) -> float:
    """The variance that the error over runs and the error over examples have in common.

    `a`, `b`: one array (runs, examples) a task. It is the interaction of run and example, the part
    of an answer that neither explains, estimated where a side has two runs; 0 where none has, which
    leaves `beyond_examples` on the safe side. The two-way layout of Cornfield and Tukey (Ann. Math.
    Stat. 27 (1956) 907-949).
    """
    total = 0.0
    for sides in zip(a, b, strict=True):
        examples = sides[0].shape[1]
        df = sum(len(side) - 1 for side in sides) * (examples - 1)
        if df > 0:
            square = math.fsum(_interaction(side) for side in sides) / df
            total += square / examples * sum(1 / len(side) for side in sides)
    return total / len(a) ** 2


def _interaction(side: Floats) -> float:
    """The sum of squares that remains after the means of rows and of columns."""
    rest = side - side.mean(axis=1, keepdims=True) - side.mean(axis=0) + side.mean()
    return float((rest**2).sum())


def beyond_examples(runs: Contrast, examples_se: float, shared: float) -> Contrast:
    """The error of B minus A over other runs and other examples at once.

    `runs`: B minus A with its error over runs on these examples; `examples_se`: the error over
    examples of these runs. Their variances add up, less what they share; df by Satterthwaite, with
    the examples too many to count.
    """
    over_runs, over_examples = runs.se**2, examples_se**2
    both = max(over_runs + over_examples - shared, over_runs, over_examples)
    df = runs.df * (both / over_runs) ** 2 if over_runs > 0 else math.inf
    return Contrast(estimate=runs.estimate, se=math.sqrt(both), df=df)
