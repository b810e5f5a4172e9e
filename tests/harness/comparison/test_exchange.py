"""Loss and time in one figure, and targets."""

import math

import msgspec
import numpy as np
import pytest

from harness.comparison.compare import compare
from harness.comparison.exchange import NAME, ExchangeRate, equal_loss_time, per_percent
from harness.comparison.noise_model import NoiseModel
from harness.comparison.options import CompareOptions
from harness.errors import UsageError
from harness.results.logs.run_log import LoggedRun

HOST = {"GPUs": "1x H100", "driver": "570", "torch": "2.10"}


def side(losses, times, **changes):
    return [
        LoggedRun(
            source=f"{loss} {time}", family="toy", metrics={"val_loss": loss, "train_time_s": time},
            steps=9, environment=HOST, environment_known=True, **changes,
        )
        for loss, time in zip(losses, times, strict=True)
    ]  # fmt: skip


LOSSES, TIMES = [3.280, 3.279, 3.281, 3.2795], [100.0, 100.1, 99.9, 100.05]


def compared(loss=0.0, time=1.0, scale=None, **options):
    b = side([x + loss for x in LOSSES], [x * time for x in TIMES], scale=scale)
    return compare(side(LOSSES, TIMES, scale=scale), b, CompareOptions(**options), NoiseModel([]))


def combined(found):
    return next((one for one in found.metrics if one.metric == NAME), None)


def test_a_slower_change_with_a_lower_loss_is_one_figure():
    found = compared(-0.008, 1.02, exchange=per_percent(0.0019, "stated"))
    total = combined(found)
    worth = -0.008 / 0.0019 * math.log(1.01)
    assert total.estimate == pytest.approx(math.log(1.02) + worth)
    assert total.high < 0
    assert total.outcome is None
    assert "stated" in total.notes[0]


@pytest.mark.parametrize("nats", [0.0019, -0.0019])
def test_the_rate_may_have_either_sign(nats):
    assert per_percent(nats, "").rate < 0


def test_the_rate_of_the_speedrun_is_shipped_and_other_recipes_have_none():
    assert "shipped" in combined(compared(scale="gpt2-small")).notes[0]
    assert combined(compared(scale="toy")) is None


def test_without_a_comparable_time_there_is_no_figure():
    a, b = side(LOSSES, TIMES), side(LOSSES, TIMES)
    b = [msgspec.structs.replace(run, environment={}) for run in b]
    options = CompareOptions(exchange=per_percent(0.0019, ""))
    assert combined(compare(a, b, options, NoiseModel([]))) is None


def test_a_time_of_an_unknown_environment_is_a_caveat_of_the_figure():
    sides = [side(LOSSES, TIMES), side(LOSSES, [99.0, 99.1, 98.9, 99.05])]
    unknown = [[msgspec.structs.replace(r, environment_known=False) for r in one] for one in sides]
    options = CompareOptions(exchange=per_percent(0.0019, ""))
    total = combined(compare(*unknown, options, NoiseModel([])))
    assert any("unknown environment" in note for note in total.notes)


def test_a_difference_outside_the_measured_range_has_a_limit_only():
    rate = ExchangeRate(metric="val_loss", rate=-0.4, source="measured", reach=math.log(1.41))
    total = combined(compared(0.3, exchange=rate))
    assert (total.beyond, total.estimate) == (pytest.approx(math.log(1.41)), None)


def test_the_interval_has_the_errors_of_loss_time_and_rate():
    """Coverage of a nominal 95 % interval where all three are estimated from a few runs."""
    rng, n, true_rate, hits = np.random.default_rng(5), 4, -0.19, 0
    draws = 1500
    for _ in range(draws):
        losses = rng.normal([[3.28], [3.28 - 0.03]], 0.0014, (2, n))
        times = np.exp(rng.normal([[0.0], [0.02]], 0.0013, (2, n)))
        rate = ExchangeRate(
            metric="val_loss", rate=rng.normal(true_rate, 0.01), source="", se=0.01, df=50
        )
        sides = [side(losses[i], times[i]) for i in (0, 1)]
        results = compare(*sides, CompareOptions(), NoiseModel([])).metrics
        total = equal_loss_time(results, rate, 0.025)
        hits += total.low <= 0.02 - 0.03 / 0.19 <= total.high
    assert hits / draws == pytest.approx(0.95, abs=0.017)


# --- targets --------------------------------------------------------------------------------------


def test_both_sides_are_tested_against_a_target():
    found = compared(0.003, targets={"val_loss": 3.282}, target_p=0.05)
    assert [(one.side, one.n, one.passes) for one in found.targets] == [
        ("A", 4, True), ("B", 4, False),
    ]  # fmt: skip
    assert found.targets[1].runs_needed is None


def test_a_target_needs_a_metric_of_known_direction():
    a = [LoggedRun(source=str(x), family="t", metrics={"x": x}, steps=1) for x in (1.0, 2.0)]
    b = [LoggedRun(source=str(x), family="t", metrics={"x": x}, steps=1) for x in (1.5, 2.5)]
    with pytest.raises(UsageError, match="direction"):
        compare(a, b, CompareOptions(also=["x"], targets={"x": 1.0}), NoiseModel([]))


@pytest.mark.parametrize("sds", [{"val_loss": 0.001}, {"val_loss": 0.001, "train_time_s": 0.001}])
def test_stated_sds_and_a_stated_rate_are_known_exactly(sds):
    total = combined(compared(-0.008, 1.02, exchange=per_percent(0.0019, "stated"), sds=sds))
    assert total.low < total.estimate < total.high
