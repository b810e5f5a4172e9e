"""Confirmation: which trials are candidates, which are confirmed, and how often noise is."""

import math

import msgspec
import numpy as np
import pytest

from harness.comparison import engine
from harness.config.search_file import LN_TIME
from harness.metrics import METRICS
from harness.search.base import BaseNoise
from harness.search.candidates import Candidate, at_range_end, select_candidates
from harness.search.confirm import decide
from harness.search.trial import TrialResult
from harness.stats import inference, moderation

optuna = pytest.importorskip("optuna")


def noise(sd=0.01, **means):
    values = {name: [mean - sd, mean, mean + sd] for name, mean in means.items()}
    return BaseNoise(
        seeds=[1, 2, 3],
        values=values,
        mean=means,
        sd=dict.fromkeys(means, sd),
        evaluations=3,
        wall_s=1.0,
        gpus=0,
        environments=1,
    )


def trial(values, plan_id, constraint=None, outcome="completed"):
    result = TrialResult(outcome=outcome, plan_id=plan_id, overrides={"x": plan_id})
    return optuna.create_trial(
        values=values,
        user_attrs={"result": msgspec.to_builtins(result)},
        system_attrs={} if constraint is None else {"constraints": [constraint]},
    )


def numbered(*trials):
    for number, one in enumerate(trials):
        one.number = number
    return list(trials)


def test_candidates_are_the_best_distinct_trials_within_bounds_without_the_base():
    trials = numbered(
        trial([0.90], "a"),
        trial([0.80], "b", constraint=0.5),
        trial([0.85], "c"),
        trial([0.85], "c"),
        trial([0.70], "base"),
        trial([1.20], "worse"),
    )
    candidates = select_candidates(trials, ["val_bpb"], noise(val_bpb=1.0), 3, "base")
    assert [one.number for one in candidates] == [2, 0]
    assert candidates[0].search_effect["val_bpb"] == pytest.approx(-0.15)


def test_effects_shrink_more_if_trials_differ_little_beyond_the_noise():
    spread = numbered(*(trial([1.0 - 0.1 * k], str(k)) for k in range(1, 6)))
    close = numbered(*(trial([1.0 - 0.005 * k], str(k)) for k in range(1, 6)))
    wide, narrow = (
        select_candidates(some, ["val_bpb"], noise(val_bpb=1.0), 1, "base")[0]
        for some in (spread, close)
    )
    assert wide.shrunk_effect["val_bpb"] == pytest.approx(wide.search_effect["val_bpb"], rel=0.02)
    assert abs(narrow.shrunk_effect["val_bpb"]) < 0.8 * abs(narrow.search_effect["val_bpb"])


def test_several_objectives_select_the_pareto_front():
    trials = numbered(
        trial([0.90, 100.0], "slow and good"),
        trial([0.95, 120.0], "fast"),
        trial([0.95, 110.0], "dominated"),
    )
    known = noise(val_bpb=1.0, tokens_per_s=100.0)
    candidates = select_candidates(trials, ["val_bpb", "tokens_per_s"], known, 3, "base")
    assert [one.number for one in candidates] == [0, 1]


def test_a_trial_better_in_both_objectives_comes_before_trade_offs():
    trials = numbered(
        trial([0.90, 700.0], "a"),
        trial([0.91, 750.0], "b"),
        trial([0.92, 800.0], "c"),
        trial([0.95, 1100.0], "better in both"),
    )
    known = noise(val_bpb=1.0, tokens_per_s=1000.0)
    candidates = select_candidates(trials, ["val_bpb", "tokens_per_s"], known, 3, "base")
    assert [one.number for one in candidates] == [3, 2, 1]


def effect(low, high, metric="val_bpb"):
    start = engine.draft(METRICS["time_total" if metric == LN_TIME else metric], (4, 4))
    return msgspec.structs.replace(
        start,
        estimate=(low + high) / 2,
        low=low,
        high=high,
        outside=not low <= 0 <= high,
    )


BETTER, UNCLEAR = effect(-0.02, -0.01), effect(-0.02, 0.01)


@pytest.mark.parametrize(
    ("effects", "confirmed"),
    [
        ({"val_bpb": BETTER}, True),
        ({"val_bpb": UNCLEAR}, False),
        ({"val_bpb": effect(0.01, 0.02)}, False),
        ({LN_TIME: effect(-0.02, -0.01, LN_TIME)}, True),
        (
            {"val_bpb": effect(-0.02, -0.01), "tokens_per_s": effect(-0.02, -0.01, "tokens_per_s")},
            False,
        ),
        (
            {"val_bpb": effect(-0.02, -0.01), "tokens_per_s": effect(-0.02, 0.01, "tokens_per_s")},
            True,
        ),
        (
            {"val_bpb": effect(-0.02, 0.01), "tokens_per_s": effect(0.01, 0.02, "tokens_per_s")},
            True,
        ),
    ],
)
def test_better_in_one_objective_and_worse_in_none_is_confirmed(effects, confirmed):
    assert decide(effects, list(effects))[0] is confirmed


def test_a_candidate_without_a_comparison_is_not_confirmed():
    assert decide({}, ["val_bpb"]) == (False, "val_bpb: not compared")


def test_noise_alone_is_confirmed_no_more_often_than_the_nominal_rate():
    # Forty trials without effect; the best three are compared with the base on new seeds. Noise
    # alone is better on one side of a two-sided 95 % interval.
    rng = np.random.default_rng(7)
    repeats, alpha, runs, best = 500, 0.05, 4, 3
    wrong = 0
    for _ in range(repeats):
        trials = numbered(*(trial([v], str(k)) for k, v in enumerate(rng.normal(1, 0.01, 40))))
        candidates = select_candidates(trials, ["val_bpb"], noise(val_bpb=1.0), best, "base")
        groups = rng.normal(1, 0.01, (1 + len(candidates), runs)).tolist()
        squares = np.array([np.var(group) * runs for group in groups])
        variances = moderation.moderate(squares, np.full(len(groups), runs - 1.0))
        means = [float(np.mean(group)) for group in groups]
        contrasts = moderation.unpaired(means, [runs] * len(groups), variances)
        found = inference.intervals(contrasts, alpha, "dunnett")
        confirmed = [decide({"val_bpb": effect(i.low, i.high)}, ["val_bpb"])[0] for i in found]
        wrong += any(confirmed)
    nominal = alpha / 2
    assert wrong / repeats <= nominal + 2 * math.sqrt(nominal * (1 - nominal) / repeats)


@pytest.mark.parametrize(
    ("space", "value", "edge"),
    [
        ("{bowl.x: {float: [0.005, 0.06], log: true}}", 0.0551, True),
        ("{bowl.x: {float: [0.005, 0.06], log: true}}", 0.0302, False),
        ("{bowl.x: {float: [0.005, 0.06]}}", 0.0075, True),
        ("{bowl.x: {int: [1, 9]}}", 9, True),
        ("{bowl.x: {choices: [1, 9]}}", 9, False),
        ("{bowl.x: {int: [1, 10], step: 4}}", 9, True),
        ("{bowl.x: {int: [1, 10], step: 4}}", 5, False),
        ("{bowl.x: {float: [0, 1], step: 0.3}}", 0.9, True),
    ],
)
def test_candidates_at_the_end_of_a_range_are_reported(parsed, space, value, edge):
    best = Candidate(
        number=3, overrides={"bowl.x": value, "other": 1}, search_effect={}, shrunk_effect={}
    )
    assert at_range_end(parsed(space=space), best) == (["bowl.x"] if edge else [])
