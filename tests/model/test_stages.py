"""Stages and horizons: which rows, shapes and rates each step has, against slow counts."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import BatchStages, MultiToken, Schedule, Warmdown
from model.config.derive import derive, flops_per_token, pins
from model.config.horizon import position_of
from model.config.reader import load_config
from model.config.resolve import resolve
from model.config.schedules import lr_scale, multi_token_weights
from model.config.shapes import windows_of
from model.config.stages import stage_at
from model.describe import describe
from model.errors import ConfigErrors
from model.runtime.throughput import SETTLING_STEPS, StageThroughput

SMALL = {
    "dial.depth": 2,
    "dial.batch_tokens": 512,
    "model.width": 64,
    "model.context_tokens": 64,
    "model.vocab_size": 512,
}
ALL = {
    "schedule.batch_stages": {},
    "schedule.context_stages": {"pieces": [4, 1]},
    "schedule.multi_token": {},
}
SPEEDRUN = str(Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml")


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 60))
def test_stages_equal_a_slow_count_step_by_step(steps: int) -> None:
    derived = derive(load_config(None, {**SMALL, **ALL, "dial.steps": steps}))
    row = 0
    for step in range(steps):
        third, half = 3 * step // steps, 2 * step // steps  # whole numbers: no rounding
        stage = stage_at(derived.stages, step)
        assert stage.batch_rows == (4, 8, 12)[third]
        assert stage.pieces == (4, 1)[half]
        assert stage.predicted == (3, 2, 1)[third]
        assert derived.rows(step) == range(row, row + stage.batch_rows)
        assert derived.tokens_until(step) == 64 * row
        row += stage.batch_rows
    assert derived.tokens == 64 * row == derived.tokens_until(steps)
    assert sum(stage.steps for stage in derived.stages) == steps


def test_without_schedules_there_is_one_stage_of_the_dials_batch() -> None:
    derived = derive(load_config(None, {**SMALL, "dial.steps": 7}))
    assert [(s.first_step, s.steps, s.batch_rows, s.pieces) for s in derived.stages] == [
        (0, 7, 8, 1)
    ]


def test_default_batch_stages_keep_the_tokens_of_the_run() -> None:
    flat = derive(load_config(None, {**SMALL, "dial.steps": 30}))
    staged = derive(load_config(None, {**SMALL, "dial.steps": 30, "schedule.batch_stages": {}}))
    assert staged.tokens == flat.tokens


@pytest.mark.parametrize("stages", [{}, ALL])
def test_a_horizon_in_tokens_or_flops_takes_the_most_steps_within_it(stages: object) -> None:
    for name, budget in (("tokens", 100_000), ("flops", 1e12)):
        config = load_config(None, {**SMALL, **stages, f"dial.{name}": budget})  # type: ignore[dict-item]
        derived = derive(config)
        assert derived.horizon == name
        one_more = {**SMALL, **stages, "dial.steps": derived.steps + 1}  # type: ignore[dict-item]
        assert getattr(derived, name) <= budget < getattr(derive(load_config(None, one_more)), name)


def test_flops_of_a_run_count_short_rows_with_their_own_attention() -> None:
    config = load_config(None, {**SMALL, **ALL, "dial.steps": 30})
    derived = derive(config)
    slow = 0
    for step in range(30):
        stage = stage_at(derived.stages, step)
        visible = 2 * min(64, 64 // stage.pieces)  # two layers
        per_token = 6 * derived.scaling_parameters + 12 * 64 * visible
        slow += per_token * stage.batch_rows * 64
    assert derived.flops == slow
    assert derived.flops_per_token == flops_per_token(derived.scaling_parameters, derived.sizes)


def test_steps_win_over_a_budget_so_that_pinned_arms_keep_the_bases_steps() -> None:
    base = resolve(SPEEDRUN, {"dial.tokens": 10**9})
    arm = {"dial.tokens": 10**9, "model.value_embeddings": None, **pins(*base)}
    assert resolve(SPEEDRUN, arm)[1].steps == base[1].steps


def test_a_timed_horizon_pins_no_steps_and_keeps_the_plan_as_its_bound() -> None:
    described = describe("x", SPEEDRUN, {"dial.train_time_s": 60})
    assert described["derived"]["horizon"] == "train_time_s"
    assert described["derived"]["steps"] == describe("x", SPEEDRUN, {})["derived"]["steps"]
    assert "dial.steps" not in described["pins"]


def test_schedules_of_a_timed_horizon_follow_whichever_bound_is_nearer() -> None:
    assert position_of(7, 100, 9.0, None) == 7
    assert position_of(7, 100, 3.0, 10.0) == 30.0
    assert position_of(50, 100, 3.0, 10.0) == 50
    assert position_of(7, 100, 11.0, 10.0) > 100


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dial.steps": 3, "dial.train_time_s": 9}, "one horizon; got also dial.steps"),
        ({"dial.tokens": 9000, "dial.flops": 1e9}, "one horizon; got also dial.flops"),
        ({"dial.train_time_s": 0}, "more than 0"),
        ({"dial.train_time_s": 9, "schedule.multi_token": {}}, "a horizon in steps, tokens"),
        ({"schedule.batch_stages": {"factors": [0.3, 1, 1.7]}}, "whole rows, from 8 rows per step"),
        ({"schedule.batch_stages": {"factors": [1, 2]}}, "one per factor; got 3 for 2"),
        ({"schedule.batch_stages": {}, "system.device_batch_rows": 8}, "a divisor of the 4 rows"),
        ({"schedule.context_stages": {"pieces": [3, 1]}}, "divisors of context_tokens (64)"),
        ({"schedule.window_warmup": {"shares": [0.5, 0.25]}}, "increasing shares above 0"),
        ({"schedule.multi_token": {"weights": [1, 0]}}, "numbers above 0"),
        ({"schedule.multi_token": {"weights": "1, 2"}}, "a list, each a number"),
        ({"schedule.untie": {"fraction": 2}, "model.tied_head": False}, "0 to 1"),
    ],
)
def test_impossible_horizons_and_stages_are_refused(
    overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigErrors) as caught:
        derive(load_config(None, {**SMALL, **overrides}))
    assert message in str(caught.value)


def test_ranks_share_the_rows_of_every_stage() -> None:
    config = load_config(None, {**SMALL, **ALL, "dial.steps": 9})
    alone, shared = derive(config), derive(config, ranks=2)
    assert shared.stages == alone.stages
    assert all(s.batch_rows % (2 * shared.device_batch_rows) == 0 for s in shared.stages)


def test_windows_grow_in_whole_tiles_with_short_ones_at_most_half_of_the_long() -> None:
    config = resolve(SPEEDRUN, {"schedule.window_warmup": {}, "dial.steps": 9})[0]
    derived = derive(config)
    assert [stage.long_window_tokens for stage in derived.stages] == [384, 896, 1408]
    windows = [windows_of(config, 4, stage.long_window_tokens) for stage in derived.stages]
    assert windows == [(128, 128, 128, 384), (384, 384, 384, 896), (512, 512, 512, 1408)]
    assert windows_of(config, 4, 2048) == windows_of(config, 4) == (512, 512, 512, 2048)
    whole = derived.flops_per_token * derived.tokens
    saved = 0
    for stage in derived.stages:
        now, full = windows_of(config, 12, stage.long_window_tokens), derived.sizes.windows
        saved += 12 * 768 * (sum(full) - sum(now)) * stage.steps * stage.batch_rows * 2048
    assert derived.flops == whole - saved


def test_learning_rate_of_a_growing_batch_has_the_parts_peak_and_the_common_end() -> None:
    stages = BatchStages(factors=(1.0, 2.0, 3.0), lr_factors=(1.0, 1.52, 1.73))
    schedule = Schedule(warmup_steps=10, warmdown=Warmdown(), batch_stages=stages)
    for step in range(300):
        x = step / 300
        peak = 1.0 if 3 * step < 300 else 1.52 if 3 * step < 600 else 1.73
        w = min(1.0, (1 - x) / 0.65)
        expected = peak * w + (1 - w) * 0.05
        expected = peak * (step + 1) / 10 if step < 10 else expected
        assert lr_scale(step, 300, 10, schedule) == pytest.approx(expected), step


def test_weights_of_several_tokens_fall_one_by_one() -> None:
    assert multi_token_weights(5, 9, None) == (1.0,)
    for step in range(99):
        x = step / 99
        if 3 * step < 99:
            expected = (1.0, 0.5, 0.25 * (1 - 3 * x))
        elif 3 * step < 198:
            expected = (1.0, 0.5 * (1 - (3 * x - 1)))
        else:
            expected = (1.0,)
        assert multi_token_weights(step, 99, MultiToken()) == pytest.approx(expected)


def test_each_stage_has_its_own_speed_without_its_first_steps() -> None:
    several = StageThroughput(
        derive(load_config(None, {**SMALL, "dial.steps": 45, "schedule.batch_stages": {}})).stages
    )
    for step in range(45):
        several.add(step, 100.0 if step % 15 < SETTLING_STEPS else 0.5)
    assert several.metrics(64) == {
        "stage_1_tokens_per_s": 4 * 64 / 0.5,
        "stage_2_tokens_per_s": 8 * 64 / 0.5,
        "stage_3_tokens_per_s": 12 * 64 / 0.5,
    }
    one = StageThroughput(derive(load_config(None, {**SMALL, "dial.steps": 12})).stages)
    assert one.metrics(64) == {}
    one.add(11, 0.5)
    assert one.metrics(64) == {"tokens_per_s": 8 * 64 / 0.5}
