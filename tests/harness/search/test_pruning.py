"""Pruning saves GPU time in the benchmark's simulation; how pruners are created."""

import math
import statistics

import pytest

from benchmarks.statistics.search import simulated
from harness.errors import StudyFileError
from harness.search.samplers import create_pruner


def test_pruning_halves_the_gpu_seconds_to_an_equal_best_value():
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

    assert isinstance(create_pruner("HyperbandPruner", 1, ""), optuna.pruners.NopPruner)
    assert isinstance(create_pruner("MedianPruner", 5, ""), optuna.pruners.MedianPruner)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("HyperbandPrunner", "Did you mean 'HyperbandPruner'?"),
        ({"name": "MedianPruner", "n_min": 1}, "Its arguments are n_startup_trials"),
        ({"min_resource": 1}, "expected one of"),
    ],
)
def test_an_unknown_pruner_or_argument_is_an_error(setting, message):
    with pytest.raises(StudyFileError) as fault:
        create_pruner(setting, 5, "search.yaml")
    assert message in str(fault.value)
