"""Two models on the same examples: did they answer differently?

A benchmark score of two models is compared example by example, because most examples are easy or
hard for both and cancel. Right-or-wrong answers take McNemar's exact test on the examples where the
two disagree; graded answers (`core_soft`) a bootstrap of the examples inside each task. Both speak
of the examples, not of training noise: two seeds of one recipe differ too. Pure; above
`statistics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DRAWS_AT_ONCE = 2_000_000  # indices; a long task is drawn in parts


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Examples that only one of the two got right, and the two-sided exact p-value."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """McNemar's exact test on two sequences of right (true) and wrong, one entry an example."""
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
    rng = np.random.default_rng(seed)
    estimate, total = 0.0, np.zeros(draws)
    for a, b in tasks:
        gaps = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
        assert gaps.size, "a task has at least one example"
        estimate += float(gaps.mean()) / len(tasks)
        total += _resampled_means(gaps, draws, rng) / len(tasks)
    low, high = np.quantile(total, [alpha / 2, 1 - alpha / 2])
    return Bootstrap(
        estimate=estimate, low=float(low), high=float(high), se=float(total.std(ddof=1))
    )


def _resampled_means(
    gaps: NDArray[np.float64], draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    means = np.empty(draws)
    at_once = max(1, _DRAWS_AT_ONCE // len(gaps))
    for start in range(0, draws, at_once):
        part = means[start : start + at_once]
        part[:] = gaps[rng.integers(len(gaps), size=(len(part), len(gaps)))].mean(axis=1)
    return means
