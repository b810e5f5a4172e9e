"""The loss envelope: silent on a run without a fault, an alert on one with."""

import math

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from benchmarks.statistics import forecast as benchmark
from harness.full.loss_envelope import FRACTIONS, LossEnvelope, curve_of, plan_envelope, window_mean
from harness.full.proxies import ForecastError

DEPTHS = (8, 10, 12, 14)


def curves(depths=DEPTHS, random=None):
    random = random or np.random.default_rng(5)
    noise = benchmark.simulated_noise
    return [benchmark.curve(d, s, noise, "none", random) for d in depths for s in (1, 2)]


@pytest.fixture(scope="module")
def planned():
    return plan_envelope(curves(), benchmark.scale(24))


def run(fault="none", seed=9):
    random = np.random.default_rng(seed)
    return benchmark.curve(24, 1, benchmark.simulated_noise, fault, random).points


def test_runs_without_a_fault_raise_alerts_at_most_at_the_planned_rate(planned):
    random = np.random.default_rng(3)
    alerts = 0
    for _ in range(6):
        found = plan_envelope(curves(random=random), benchmark.scale(24))
        alerts += bool(found.outside(run(seed=int(random.integers(10**6)))))
    assert alerts <= 6 * planned.alpha + 2 * math.sqrt(6 * planned.alpha)


def test_a_run_with_too_high_a_loss_is_outside_by_its_level(planned):
    [first, *_] = planned.outside(run("5 % too high"))
    assert first.what == "level"
    assert first.got > first.expected.high
    assert first.look.fraction < 0.5


def test_a_jump_during_the_run_is_detected_at_the_next_look_by_its_change(planned):
    [found] = [one for one in planned.outside(run("2 % at half")) if one.what == "change"]
    assert found.look.fraction == 0.6


def test_only_past_looks_are_checked(planned):
    points = [(at, 99.0) for at, _ in run() if at < 0.16]
    assert {one.look.fraction for one in planned.outside(points)} == {0.05, 0.1, 0.15}
    assert planned.outside([]) == []
    assert planned.at(0.01) is None
    assert planned.at(0.17).fraction == 0.15


def test_a_loss_that_is_not_finite_is_outside(planned):
    points = [(at, math.nan if at > 0.1 else loss) for at, loss in run()]
    assert {one.look.fraction for one in planned.outside(points)} == set(FRACTIONS[2:])


def test_the_false_alarm_rate_is_split_over_all_looks(planned):
    level = planned.looks[0].loss.level
    assert level == pytest.approx(1 - planned.alpha / (2 * len(FRACTIONS) - 1))
    assert planned.looks[0].change is None
    assert all(look.change is not None for look in planned.looks[1:])


def test_looks_without_a_loss_are_left_out():
    short = [
        msgspec.structs.replace(one, points=[p for p in one.points if p[0] > 0.06])
        for one in curves()
    ]
    assert [look.fraction for look in plan_envelope(short, benchmark.scale(24)).looks] == [
        *FRACTIONS[1:]
    ]


def test_looks_begin_after_the_longest_warm_up():
    slow = [msgspec.structs.replace(one, warmup=0.1) for one in curves()]
    assert [look.fraction for look in plan_envelope(slow, benchmark.scale(24)).looks] == [
        *FRACTIONS[4:]
    ]
    with pytest.raises(ForecastError, match="enough steps"):
        plan_envelope(
            [msgspec.structs.replace(one, warmup=0.5) for one in slow], benchmark.scale(24)
        )


def test_runs_without_a_single_look_have_no_envelope():
    none = [msgspec.structs.replace(one, points=one.points[:1]) for one in curves()]
    with pytest.raises(ForecastError, match="enough steps"):
        plan_envelope(none, benchmark.scale(24))


def test_fewer_than_three_sizes_have_no_envelope():
    with pytest.raises(ForecastError, match="3 or more sizes"):
        plan_envelope(curves((8, 10)), benchmark.scale(24))


def test_a_window_is_the_mean_of_its_steps_and_ends_at_its_look():
    points = [(0.1, 5.0), (0.2, 4.0), (0.23, 2.0), (0.3, 1.0)]
    assert window_mean(points, 0.23, 0.05) == 3.0
    assert window_mean(points, 0.31, 0.05) is None
    assert window_mean([(0.1, 5.0), (0.3, 1.0)], 0.2, 0.05) is None


def test_a_band_survives_json(planned):
    assert msgspec.json.decode(msgspec.json.encode(planned), type=LossEnvelope) == planned


def test_a_curve_comes_from_a_record_and_its_table(full_record):
    table = pa.table({"step": [0, 10, 20], "train_loss": [None, 3.0, 2.5]})
    record = full_record()
    found = curve_of(full_record(derived={**record.derived, "warmup_steps": 2}), table)
    assert found.warmup == 0.1
    assert found.points == [(0.5, 3.0), (1.0, 2.5)]
    assert found.nats_per_bpb == pytest.approx(2.39 / 0.718)
    with pytest.raises(ForecastError, match="training losses, val_loss and val_bpb"):
        curve_of(full_record(), table.slice(0, 1))
