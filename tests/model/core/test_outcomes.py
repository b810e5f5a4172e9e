"""Decisions and scores, compared with values computed by hand."""

import numpy as np
import pytest

from model.core.outcomes import Outcomes, Result, Scores, TaskResult, decide, summarise
from model.core.questions import NO_GOLD, Questions
from model.core.task import Task

NAN = float("nan")


def outcomes_of(
    rows: list[list[float]], gold: list[int], gaps: list[float] | None = None
) -> Outcomes:
    counts = [len(each) for each in rows]
    losses = np.array([loss for each in rows for loss in each])
    first_row = np.concatenate(([0], np.cumsum(counts)))
    count = len(losses)
    row_gaps = np.zeros(count) if gaps is None else np.array(gaps)
    questions = Questions(
        task=np.zeros(len(rows), np.int32),
        example=np.arange(len(rows), dtype=np.int32),
        gold=np.array(gold, np.int32),
        shared=np.zeros(len(rows), np.int32),
        first_row=first_row,
        lengths=np.full(count, 5, np.int32),
        starts=np.where(np.isnan(losses), 5, 3).astype(np.int32),
        same=np.arange(count),
        tokens=np.zeros(5 * count, np.uint16),
    )
    seconds = np.ones(len(rows))
    scores = Scores(losses=losses, gaps=row_gaps, hits=row_gaps > 0, seconds=seconds)
    return decide(questions, scores)


def test_the_smallest_mean_loss_is_chosen_and_the_first_of_equal_ones() -> None:
    found = outcomes_of([[2.0, 1.0, 3.0], [1.0, 1.0], [1.0, 1.0]], [1, 0, 1])
    assert found.correct.tolist() == [True, True, False]
    assert found.margin.tolist() == [1.0, 0.0, 0.0]


def test_value_is_the_softmax_of_the_mean_losses_at_the_right_one() -> None:
    (value,) = outcomes_of([[2.0, 1.0, 3.0]], [2]).value
    exponentials = np.exp([-2.0, -1.0, -3.0])
    assert value == pytest.approx(exponentials[2] / exponentials.sum())


def test_a_row_without_a_token_of_its_own_is_never_chosen_at_any_index() -> None:
    found = outcomes_of([[NAN, 2.0, 1.0], [2.0, 1.0, NAN], [NAN, 1.0]], [2, 1, 0])
    assert found.correct.tolist() == [True, True, False]
    assert found.value.tolist() == pytest.approx([np.e / (1 + np.e), np.e / (1 + np.e), 0.0])
    assert found.margin.tolist() == [1.0, 1.0, np.inf]
    assert np.isnan(found.losses).sum() == 3


def test_where_no_row_has_a_loss_the_first_is_chosen_by_chance() -> None:
    found = outcomes_of([[NAN, NAN]], [0])
    assert found.correct.tolist() == [True]
    assert found.value.tolist() == found.chance.tolist() == [0.5]
    assert found.margin.tolist() == [0.0]


def test_language_modeling_is_right_when_all_tokens_were_first_choices() -> None:
    found = outcomes_of([[0.5], [2.0]], [NO_GOLD, NO_GOLD], gaps=[0.3, -1.5])
    assert found.correct.tolist() == [True, False]
    assert found.value.tolist() == pytest.approx(np.exp([-0.5, -2.0]))
    assert found.chance.tolist() == [0.0, 0.0]
    assert found.margin.tolist() == [0.3, -1.5]


def test_accuracy_is_centred_by_the_baseline_and_soft_scores_by_chance() -> None:
    rows = [[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [3.0, 1.0]]
    found = outcomes_of(rows, [0, 0, 0, 0])
    task = Task(
        name="t",
        file="t.jsonl",
        kind="multiple_choice",
        shots=0,
        delimiter=" ",
        baselines={"v1": 0.25, "v2": 0.4},
    )
    (result,) = summarise((task,), found, "v2", np.full(4, 0.5)).tasks
    assert result.accuracy == 0.5
    assert result.centred == pytest.approx((0.5 - 0.4) / 0.6)
    assert result.centred_se == pytest.approx(np.sqrt(0.25 / 4) / 0.6)
    soft = (found.value - 0.5) / 0.5
    assert result.soft == pytest.approx(soft.mean())
    assert result.soft_se == pytest.approx(soft.std(ddof=1) / 2)
    assert result.seconds == 2.0


def test_standard_errors_are_those_of_drawing_other_examples() -> None:
    draw = np.random.default_rng(2)
    tasks = [
        Task(name=f"t{i}", file="", kind="schema", shots=0, delimiter=" ", baselines={"v1": 0.5})
        for i in range(3)
    ]
    found: list[Result] = []
    for _ in range(400):
        losses = draw.normal(0, 1, (60, 2)) + np.array([0.0, 0.5])
        outcomes = outcomes_of(losses.tolist(), [0] * 60)
        outcomes.task[:] = np.repeat(np.arange(3), 20)
        found.append(summarise(tuple(tasks), outcomes, "v1", np.zeros(60)))
    spread = np.std([each.core for each in found]), np.std([each.core_soft for each in found])
    assert np.mean([each.core_se for each in found]) == pytest.approx(spread[0], rel=0.1)
    assert np.mean([each.core_soft_se for each in found]) == pytest.approx(spread[1], rel=0.1)


def test_core_is_the_mean_over_tasks_however_many_examples_they_have() -> None:
    task = Task(name="", file="", kind="schema", shots=0, delimiter="", baselines={})
    given = {"task": task, "baseline": 0.0, "accuracy_se": 0.1, "soft_se": 0.1, "seconds": 0.0}
    tasks = tuple(
        TaskResult(examples=count, accuracy=value, soft=value / 2, **given)
        for count, value in ((10, 0.2), (1000, 0.6))
    )
    assert Result(tasks=tasks).core == pytest.approx(0.4)
    assert Result(tasks=tasks).core_soft == pytest.approx(0.2)
    assert Result(tasks=tasks).core_se == pytest.approx(np.sqrt(0.02) / 2)
