"""Measures the coverage of intervals of a CORE difference: over examples, over runs, over both.

    python -m benchmarks.statistics.core_intervals [--rounds 2000]

Two sides of runs answer the same examples and the true difference is zero. An answer is the
easiness of its example, common and by side, plus the level of the run, plus a residual; the two SDs
that a comparison cannot know in advance are varied. An interval over examples misses the noise
between runs, one over runs misses the choice of examples; the one over both is what `harness
compare` calls "examples and runs". Nominal coverage is 90 %.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from harness.stats.decision import difference
from harness.stats.distributions import t_quantile
from harness.stats.paired_tests import beyond_examples, shared_variance

LEVEL = 0.9
RUNS, SIZES = 3, (60, 150)  # runs a side; examples of two tasks
EASE_SD, RESIDUAL_SD = 0.3, 0.2
KINDS = ("over examples", "over runs", "over both")

Answers = list[NDArray[np.float64]]


def sides(
    rng: np.random.Generator, *, run_sd: float, apart_sd: float = 0.0, runs: int = RUNS
) -> tuple[Answers, Answers]:
    """Both sides: one array (runs, examples) a task. `apart_sd`: of an example for one side."""
    ease = [rng.normal(0, EASE_SD, size) for size in SIZES]

    def side(levels: NDArray[np.float64]) -> Answers:
        return [
            levels[:, None]
            + task
            + rng.normal(0, apart_sd, len(task))
            + rng.normal(0, RESIDUAL_SD, (runs, len(task)))
            for task in ease
        ]

    a, b = (side(levels) for levels in rng.normal(0, run_sd, (2, runs)))
    return a, b


def covers(a: Answers, b: Answers) -> tuple[bool, bool, bool]:
    """Whether each kind of interval holds zero."""
    gaps = [own.mean(axis=0) - base.mean(axis=0) for base, own in zip(a, b, strict=True)]
    se = float(np.sqrt(sum(gap.var() / len(gap) for gap in gaps))) / len(gaps)
    scores = [np.mean([task.mean(axis=1) for task in side], axis=0) for side in (a, b)]
    runs = difference(list(scores[0]), list(scores[1])).contrast
    both = beyond_examples(runs, se, shared_variance(a, b))
    tail = (1 + LEVEL) / 2
    halves = t_quantile(tail, np.inf) * se, *(t_quantile(tail, c.df) * c.se for c in (runs, both))
    over_examples, over_runs, over_both = (abs(runs.estimate) < half for half in halves)
    return over_examples, over_runs, over_both


def coverage(run_sd: float, apart_sd: float, rounds: int, seed: int = 1) -> tuple[float, ...]:
    """The share of rounds in which each kind holds the truth."""
    rng = np.random.default_rng(seed)
    held = [covers(*sides(rng, run_sd=run_sd, apart_sd=apart_sd)) for _ in range(rounds)]
    return tuple(float(share) for share in np.mean(held, axis=0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2000)
    rounds = parser.parse_args().rounds
    print(f"{RUNS} runs a side, {rounds} rounds, nominal {LEVEL:.0%}")
    print("run SD  SD of an example for one side  " + "  ".join(KINDS))
    for run_sd in (0.0, 0.02, 0.05):
        for apart_sd in (0.0, 0.3):
            found = coverage(run_sd, apart_sd, rounds)
            shares = "  ".join(
                f"{share:>{len(kind)}.1%}" for kind, share in zip(KINDS, found, strict=True)
            )
            print(f"{run_sd:6.2f}  {apart_sd:29.1f}  {shares}")


if __name__ == "__main__":
    main()
