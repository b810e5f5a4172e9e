"""The results of launches and replicates, against values worked out by hand."""

import math

import msgspec
import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics.gate_rates import launched, noise_model, record
from harness.comparison.margins import stated_margin
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.gate.metrics import (
    compare_launch_costs,
    compare_quality,
    compare_speed,
    compare_trajectories,
    decides_costs,
    information_shares,
    informational_speed,
)
from harness.gate.result import SPEED, LookSchedule
from harness.stats.power import more_runs
from harness.stats.sequential import look_tails
from harness.stats.spending import Reading

GIB = 2.0**30


def on_gpu(number: int, a_bytes: float, b_bytes: float):
    return msgspec.structs.replace(
        launched(number, [0.0]), peak_memory_bytes=(a_bytes, b_bytes), on_gpu=True
    )


@pytest.mark.parametrize(("b_bytes", "outcome"), [(60.5 * GIB, "pass"), (60.7 * GIB, "regression")])
def test_on_a_gpu_memory_may_grow_by_one_percent_of_the_bases(b_bytes, outcome):
    launches = [on_gpu(number, 60 * GIB, b_bytes) for number in (1, 2)]
    (found,) = compare_launch_costs(launches, Reading(alpha=0.05), {})
    assert found.result.margin == pytest.approx(0.6 * GIB)
    assert found.result.margin_from == "1% of the base's, the default on a GPU"
    assert found.result.outcome == outcome
    (found,) = compare_launch_costs(launches, Reading(alpha=0.05), {"peak_memory_bytes": GIB})
    assert (found.result.margin, found.result.outcome) == (GIB, "pass")


def test_the_margin_of_memory_is_that_of_the_bases_first_launch():
    launches = [on_gpu(1, 50 * GIB, 70 * GIB), on_gpu(2, 60 * GIB, 80 * GIB)]
    (found,) = compare_launch_costs(launches, Reading(alpha=0.05), {})
    assert found.result.margin == pytest.approx(0.5 * GIB)
    on_cpu = [msgspec.structs.replace(one, on_gpu=False) for one in launches]
    (found,) = compare_launch_costs(on_cpu, Reading(alpha=0.05), {})
    assert (found.result.margin, found.result.outcome) == (None, None)
    assert (found.evidence, found.look, found.looks) == ("launches", 1, 1)
    assert compare_launch_costs([launched(1, [0.0])], Reading(alpha=0.05), {}) == []


def test_costs_are_decided_on_a_gpu_or_with_a_margin_of_their_own():
    gpu, cpu = on_gpu(1, GIB, GIB), launched(2, [0.0])
    assert decides_costs([gpu], {})
    assert not decides_costs([gpu, cpu], {"val_bpb": 1.0})
    assert decides_costs([cpu], {"compile_s": 1.0})
    assert decides_costs([cpu], {"peak_memory_bytes": 1.0})
    assert not decides_costs([], {"compile_s": 1.0})


def test_noise_that_exceeds_the_row_is_named_until_the_launches_have_their_own():
    wild = [[-0.5], [0.5], [0.0], [0.2], [0.1]]
    few, enough = speed(wild[:4], [4], LAUNCH_ROW), speed(wild, [5], LAUNCH_ROW)
    own = "the spread of these launches"
    assert few.result.noise_from == f"{own}, which exceeds {LAUNCH_ROW.describe()}"
    assert enough.result.noise_from == own
    moderated = speed([[-0.007], [0.0], [0.007]], [3], LAUNCH_ROW).result
    assert moderated.noise_from == f"{own}, moderated by {LAUNCH_ROW.describe()}"


def test_the_information_of_a_look_counts_a_baseline_from_the_start():
    assert information_shares(None, [2, 4, 8]) == (0.25, 0.5, 1.0)
    assert information_shares(4, [2, 4, 8]) == pytest.approx((0.5, 0.75, 1.0))  # 3/8 over 1/4 + 1/n


ROW = NoiseRow(
    scale="s", metric="loss_trajectory", gpu="H100", source="nondeterminism", sd=0.1, df=9,
    runs=10, groups=1, origin="measured",
)  # fmt: skip


def trajectories(b: list[float], row: NoiseRow | None = None, gpu: bool = True):
    one = msgspec.structs.replace(launched(1, [0.0]), losses=([5.0, 4.0, 3.0], b), on_gpu=gpu)
    found = compare_trajectories(one, row)
    assert (found.evidence, found.look, found.looks) == ("trajectory", 1, 1)
    return found.result


def test_losses_that_differ_are_compared_at_the_last_step_with_noise_and_at_any_without():
    apart = [5.0, 4.5, 2.75]
    for result in (trajectories(apart, gpu=False), trajectories(apart), trajectories(apart, ROW)):
        assert (result.n, result.means) == ((3, 3), (3.0, 2.75))
        assert result.reason.startswith("the losses differ from step 2 of 3 on")
    on_cpu, unknown = trajectories(apart, ROW, gpu=False), trajectories(apart)
    for result, outcome in (on_cpu, "regression"), (unknown, "inconclusive"):
        assert (result.outcome, result.estimate, result.sd) == (outcome, 0.5, None)
        assert (result.df, result.method, result.noise_from) == (None, None, "")
    known = trajectories(apart, ROW)
    assert (known.outcome, known.estimate, known.sd, known.df) == ("pass", -0.25, 0.1, 9)
    assert (known.method, known.noise_from) == ("noise_model", ROW.describe())
    without_noise = msgspec.structs.replace(ROW, sd=0.0)
    assert trajectories([5.0, 4.5, 3.0], without_noise).outcome == "pass"
    equal = trajectories([5.0, 4.0, 3.0], ROW)
    assert (equal.outcome, equal.estimate, equal.reason) == ("pass", 0.0, None)


def test_a_stored_speed_is_shown_as_a_ratio_of_geometric_means():
    def runs(*speeds: float | None):
        return [
            msgspec.structs.replace(record(seed, 1.0), metrics={"tokens_per_s": speed})
            for seed, speed in enumerate(speeds)
        ]

    (found,) = informational_speed(runs(100.0, 400.0), runs(100.0, 100.0, 800.0))
    assert found.result.means == pytest.approx((200.0, 200.0))
    assert (found.result.estimate, found.result.outcome) == (pytest.approx(0.0), None)
    assert (found.evidence, found.look, found.looks) == ("replicates", 1, 1)
    (found,) = informational_speed(runs(100.0), runs(200.0))
    assert found.result.estimate == pytest.approx(math.log(2))
    assert informational_speed(runs(100.0), runs(None)) == []


LAUNCH_ROW = msgspec.structs.replace(ROW, metric=SPEED, source="launch", sd=0.004, df=50)
READING = Reading(alpha=0.05)


def speed(ratios: list[list[float]], looks: list[int], row: NoiseRow | None, **options: object):
    launches = [launched(number, own) for number, own in enumerate(ratios, start=1)]
    schedule = LookSchedule(looks=looks)
    return compare_speed(launches, schedule, row, stated_margin(SPEED, 0.01), READING, **options)


def test_speed_at_a_look_has_the_limits_of_that_look():
    found = speed([[0.002, 0.006], [0.004, 0.008]], [1, 2, 4], LAUNCH_ROW)
    result, inside = found.result, 2 * 2 * 0.002**2 / 2
    assert (found.look, found.looks, result.n) == (2, 3, (2, 2))
    assert result.noise_from == LAUNCH_ROW.describe()
    se = math.sqrt(2 * 0.004**2 / 2 + inside / 4)
    tail = look_tails(0.04, (0.25, 0.5, 1.0))[1]
    assert (result.estimate, result.se) == pytest.approx((-0.005, se))
    assert result.low == pytest.approx(-0.005 - stats.t.isf(tail, 50) * se)
    margin = math.log1p(0.01)
    assert result.margin == pytest.approx(margin)
    advice = more_runs(0.005, se, margin, (2, 2), READING.next.rate, df=50)
    assert (result.outcome, result.more_runs) == ("inconclusive", advice)
    half = speed([[0.002, 0.006], [0.004, 0.008]], [1, 2, 4], LAUNCH_ROW, share=0.5).result
    halved = look_tails(0.02, (0.25, 0.5, 1.0))[1]
    assert half.low == result.low
    assert half.high == pytest.approx(-0.005 + stats.t.isf(halved, 50) * se)
    borrowed = speed([[0.0]], [1], LAUNCH_ROW, borrowed=True).result
    assert borrowed.noise_from == LAUNCH_ROW.describe(other_recipe=True)
    assert f"SD of one A B B A window inside a launch {math.sqrt(inside):.2%}" in result.notes
    assert not any("SD of one" in note for note in borrowed.notes)


def test_speed_between_two_looks_has_no_limits():
    found = speed([[0.0]] * 3, [1, 2, 4], LAUNCH_ROW)
    assert (found.look, found.result.low) == (2, None)
    assert found.result.reason == "between two of 3 planned looks"


def test_the_looks_at_launches_with_their_own_sd_add_up_to_alpha():
    ratios = [[0.001 * k, 0.001 * k] for k in range(6)]
    for row, early_df in ((LAUNCH_ROW, 50.0), (None, 0.0)):
        result = speed(ratios, [1, 6], row).result
        tail = look_tails(0.04, (1 / 6, 1.0), (early_df, 5.0))[1]
        assert (result.df, result.method) == (5, "pooled")
        assert result.high == pytest.approx(-0.0025 + stats.t.isf(tail, 5) * result.se)


@pytest.mark.parametrize(
    ("n_a", "looks", "both", "own_df"),
    [
        (6, [3, 6], False, (7.0, 10.0)),
        (3, [3, 6], True, (4.0, 10.0)),
        (1, [1, 3], False, (0.0, 2.0)),
        (3, [1, 3], True, (0.0, 4.0)),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_quality_at_a_look_has_the_limits_of_that_look(n_a, looks, both, own_df, known):
    values = [1.0, 1.0006, 0.9995, 1.0003, 0.9991, 1.0001]
    a = [record(seed, bpb) for seed, bpb in enumerate(values[:n_a], start=1)]
    b = [record(seed, 1.0002 + bpb * 1e-4) for seed, bpb in enumerate((1.0, 3.0, 8.0), start=7)]
    model = noise_model(np.random.default_rng(1)) if known else NoiseModel([])
    margins = {"val_bpb": 0.001}
    (found,) = compare_quality(a, b, LookSchedule(looks=looks), model, READING, margins, both=both)
    look = looks.index(3)
    shares = information_shares(None if both else n_a, looks)
    tail = look_tails(0.04, shares, None if known else own_df)[look]
    result = found.result
    assert (found.look, found.looks, found.evidence) == (look + 1, 2, "replicates")
    assert result.method == ("noise_model" if known else "pooled" if n_a in (1, 3) else "welch")
    half = stats.t.isf(tail, result.df) * result.se
    assert (result.low, result.high) == pytest.approx(
        (result.estimate - half, result.estimate + half)
    )


def test_the_costs_of_launches_share_no_error_rate_by_default():
    times = [(10.0, 11.0), (10.5, 11.2), (9.8, 11.5)]
    launches = [
        msgspec.structs.replace(launched(number, [0.0]), compile_s=pair)
        for number, pair in enumerate(times, start=1)
    ]
    margins = {"compile_s": 5.0}
    (whole,) = compare_launch_costs(launches, READING, margins)
    (half,) = compare_launch_costs(launches, READING, margins, share=0.5)
    a, b = zip(*times, strict=True)
    limits = stats.ttest_ind(b, a).confidence_interval(0.92)
    assert (whole.result.low, whole.result.high) == pytest.approx((limits.low, limits.high))
    lower = stats.ttest_ind(b, a).confidence_interval(0.96).low
    assert (half.result.low, half.result.high) == pytest.approx((lower, limits.high))
