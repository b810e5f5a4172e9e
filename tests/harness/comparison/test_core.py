"""CORE of two sides by example: on FakeTrainer outcomes, whose skills are known."""

import time

import msgspec
import numpy as np
import pytest

from harness.comparison.core import paired, scores
from harness.errors import StoreError
from harness.results import core_answers
from harness.results.core_answers import CoreAnswers, TaskAnswers
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer import core
from harness.stats.decision import difference
from harness.stats.inference import Contrast

LOSS = 4.8


@pytest.fixture
def evaluated(tmp_path):
    """The outcomes of a run of the FakeTrainer at one seed, as they read back from its file."""

    def make(seed, **overrides):
        config = fake.load(None, {"core.examples": 100, "seed": seed, **overrides})
        path = tmp_path / "core.parquet"
        core.write(path, config, core.answers(config, LOSS))
        return core_answers.read(path)

    return make


def test_a_side_has_the_scores_of_its_trainer_and_binomial_errors(evaluated):
    found = scores([evaluated(1)])
    config = fake.load(None, {"core.examples": 100, "seed": 1})
    theirs = core.metrics(core.answers(config, LOSS))
    assert (found.core, found.core_soft) == pytest.approx((theirs["core"], theirs["core_soft"]))
    for task in found.tasks:
        p = task.accuracy
        assert task.accuracy_se == pytest.approx((p * (1 - p) / 100) ** 0.5)
    spread = [task.accuracy_se / (1 - task.facts.baseline) for task in found.tasks]
    assert found.core_se == pytest.approx(np.linalg.norm(spread) / len(spread))


def test_several_runs_of_a_side_are_averaged_example_by_example(evaluated):
    runs = [evaluated(seed) for seed in (1, 2, 3)]
    each, together = [scores([run]) for run in runs], scores(runs)
    assert together.core == pytest.approx(np.mean([one.core for one in each]))
    assert together.core_se < max(one.core_se for one in each)
    assert together.runs == 3


def test_a_run_does_not_differ_from_itself(evaluated):
    found = paired([evaluated(1)], [evaluated(1)], 0.05)
    assert all((one.estimate, one.low, one.high) == (0, 0, 0) for one in found.totals)
    assert (found.only_a, found.only_b, found.p) == (0, 0, 1.0)


def test_runs_of_one_recipe_are_marked_at_most_as_often_as_the_level_allows(evaluated):
    rounds, marked = 40, 0
    for seed in range(rounds):
        still = {"noise.skill_sd": 0.0}
        found = paired(
            [evaluated(seed, **still)], [evaluated(1000 + seed, **still)], 0.05, None, 50
        )
        marked += any(task.marked for task in found.tasks)
    assert marked / rounds <= 0.05 + 2 * (0.05 * 0.95 / rounds) ** 0.5


def test_planted_harm_is_detected_in_the_total_and_marked_in_its_tasks(evaluated):
    found = paired([evaluated(1)], [evaluated(2, **{"plant.skill": -0.6})], 0.05)
    assert all(one.high < 0 for one in found.totals)
    assert found.p < 1e-4
    assert sum(task.marked for task in found.tasks) >= 3
    assert all(task.low <= task.estimate <= task.high for task in found.tasks)
    for task, a, b in zip(found.tasks, found.a.tasks, found.b.tasks, strict=True):
        assert task.estimate == pytest.approx(b.accuracy - a.accuracy)


def test_soft_core_sees_twice_as_far_as_core(evaluated):
    sizes = {"core": [], "core_soft": []}
    for seed in range(12):
        still = {"noise.skill_sd": 0.0}
        worse = evaluated(100 + seed, **still, **{"plant.skill": -0.1})
        for one in paired([evaluated(seed, **still)], [worse], 0.05, None, 200).totals:
            sizes[one.metric].append(one.estimate / one.se)
    assert np.mean(sizes["core_soft"]) < 2 * np.mean(sizes["core"]) < 0


def test_the_noise_between_runs_widens_the_interval_and_takes_mcnemar_away(evaluated):
    noisy = {"noise.skill_sd": 0.2}
    sides = [[evaluated(seed, **noisy) for seed in seeds] for seeds in ((1, 2, 3), (4, 5, 6))]
    values = [[scores([run]).core_soft for run in side] for side in sides]
    over_runs = {"core_soft": difference(*values).contrast}
    found = paired(*sides, 0.05, over_runs)
    hard, soft = found.totals
    assert hard.wide_low is None
    assert soft.wide_low < soft.low < soft.high < soft.wide_high
    assert found.p is None
    assert not any(task.marked for task in found.tasks)


def test_a_noise_without_degrees_of_freedom_gives_no_wide_interval(evaluated):
    unknown = {"core": Contrast(estimate=0.0, se=float("nan"), df=0)}
    found = paired([evaluated(1)], [evaluated(2)], 0.05, unknown)
    assert found.totals[0].wide_low is None


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("core.bundle", {"core.bundle": "other"}),
        ("core.tokenizer", {"core.tokenizer": "bytes"}),
        ("core.max_per_task", {"core.examples": 90}),
        ("core.long_prompts", {"core.long_prompts": "crop_left"}),
        ("core.baselines", {"core.baselines": "v2"}),
    ],
)
def test_what_was_evaluated_in_another_way_is_refused_by_the_field(evaluated, field, change):
    with pytest.raises(StoreError) as caught:
        paired([evaluated(1)], [evaluated(2, **change)], 0.05)
    assert caught.value.path == field


def _drawn(seed, like, examples):
    """Outcomes of many examples a task, without the time to draw them one by one."""
    rng = np.random.default_rng(seed)
    tasks = {
        name: TaskAnswers(
            name=name,
            facts=msgspec.structs.replace(task.facts, examples=examples),
            examples=np.arange(examples, dtype=np.int32),
            correct=rng.random(examples) < 0.4,
            soft=rng.random(examples),
        )
        for name, task in like.tasks.items()
    }
    return CoreAnswers(settings=like.settings, tasks=tasks)


def test_81_000_outcomes_a_side_take_less_than_two_seconds_of_computing(evaluated):
    like = evaluated(1)
    sides = [[_drawn(seed, like, 13_500)] for seed in (1, 2)]
    started = time.process_time()
    found = paired(*sides, 0.05)
    assert found.a.examples == found.b.examples == 81_000
    assert time.process_time() - started < 2
