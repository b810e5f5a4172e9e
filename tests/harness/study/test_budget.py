"""Estimates of time, cost and minimum detectable effects."""

import math

import msgspec
import pytest

from harness.errors import TrainerError
from harness.runner.process import Stop
from harness.runner.trainer import FakeTrainer
from harness.study import budget


def base_runs(study):
    return [run for run in study.runs if run.arm == "base"]


def test_without_records_time_and_cost_are_unknown_and_effects_in_units_of_sd(resolved):
    result = budget.plan(resolved(), [], price=2.0)
    assert (result.wall_s, result.gpu_s, result.usd) == (None, None, None)
    assert result.time_from == "unknown"
    assert {one.unit for one in result.sensitivities} == {"SD"}
    assert all(one.sd is None and 1 < one.mde < 50 for one in result.sensitivities)


def test_time_and_cost_come_from_records(resolved, record):
    study = resolved()
    made = msgspec.structs.replace(record(base_runs(study)[0], study), gpus=1, wall_s=36.0)
    result = budget.plan(study, [made], price=10.0)
    assert result.remaining == 5
    assert result.wall_s == pytest.approx(180)
    assert result.usd == pytest.approx(0.5)
    assert budget.plan(study, [made]).usd is None
    assert budget.plan(study, [made], parallel=2).wall_s == pytest.approx(90)


def test_the_sd_comes_from_replicates_of_the_same_base(resolved, record):
    study = resolved(seeds="[1, 2, 3]")
    made = [
        msgspec.structs.replace(record(run, study), metrics={"val_bpb": value})
        for run, value in zip(base_runs(study), [1.0, 1.01, 1.02], strict=True)
    ]
    by_metric = {one.metric: one for one in budget.sensitivities(study, made)}
    assert by_metric["val_bpb"].sd == pytest.approx(0.01)
    assert by_metric["val_bpb"].unit == "bpb"
    assert by_metric["val_loss"].sd is None
    unknown = budget.sensitivities(study, [])[0].mde
    assert by_metric["val_bpb"].mde == pytest.approx(0.01 * unknown)


def test_one_seed_detects_nothing(resolved):
    result = budget.sensitivities(resolved(seeds="[1]"), [])
    assert all(math.isinf(one.mde) for one in result)


def test_more_seeds_detect_smaller_effects(resolved):
    few = budget.sensitivities(resolved(seeds="[1, 2]"), [])[0].mde
    many = budget.sensitivities(resolved(seeds="[1, 2, 3, 4, 5, 6]"), [])[0].mde
    assert many < few / 2


def test_the_base_is_measured_in_three_steps(resolved):
    study = resolved(base="pace: {sleep_ms: 30}\n")
    measured = budget.measure(study, FakeTrainer(), Stop())
    assert measured.step_s >= 0.03
    assert budget.plan(study, [], measured=measured).wall_s > 6 * 20 * 0.03


def test_a_base_that_crashes_cannot_be_measured(resolved):
    study = resolved(base="fail: {crash_at_step: 2}\n")
    with pytest.raises(TrainerError, match="crashed at step 2"):
        budget.measure(study, FakeTrainer(), Stop())


def test_two_seeds_give_wide_intervals_and_the_plan_names_the_seeds_that_suffice(resolved):
    two = budget.interval_width(resolved(seeds="[1, 2]"))
    assert two.times > budget.TWICE
    assert two.enough == 3
    assert two.times_then < budget.TWICE
    assert budget.interval_width(resolved(seeds="[1, 2, 3]")).enough is None
    assert budget.interval_width(resolved(seeds="[1]")) is None
