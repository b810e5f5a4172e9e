"""Pruning pays, by the benchmark's own simulation; and what a pruner is given."""

import math
import statistics

import pytest

from benchmarks.statistics.search import simulated
from harness.errors import StudyFileError
from harness.search import storage


def test_pruning_saves_half_of_the_gpu_seconds_at_an_equal_best_value():
    shares = []
    for seed in range(1, 8):
        whole = simulated(seed, "RandomSampler", "NopPruner", lambda spent: spent.trials >= 60)
        pruned = simulated(
            seed,
            "RandomSampler",
            "HyperbandPruner",
            lambda spent, goal=whole.best: spent.best <= goal or spent.trials >= 60,
        )
        reached = pruned.best <= whole.best
        shares.append(pruned.gpu_s / whole.gpu_s if reached else math.inf)
    assert statistics.median(shares) < 0.5


def test_a_run_with_one_evaluation_is_never_pruned():
    import optuna

    assert isinstance(storage.pruner_of("HyperbandPruner", 1, ""), optuna.pruners.NopPruner)
    assert isinstance(storage.pruner_of("MedianPruner", 5, ""), optuna.pruners.MedianPruner)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("HyperbandPrunner", "Did you mean 'HyperbandPruner'?"),
        ({"name": "MedianPruner", "n_min": 1}, "Its arguments are n_startup_trials"),
        ({"min_resource": 1}, "expected one of"),
    ],
)
def test_a_pruner_that_is_none_is_refused(asked, told):
    with pytest.raises(StudyFileError) as fault:
        storage.pruner_of(asked, 5, "search.yaml")
    assert told in str(fault.value)
