"""Two sides compared: effects, margins, environments, incomplete runs."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.comparison.compare import compare
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.comparison.options import CompareOptions
from harness.errors import UsageError
from harness.report.compare import result_notes
from harness.report.metric_text import estimate, interval
from harness.results.logs.run_log import LogError, LoggedRun

HOST = {"GPUs": "1x H100", "driver": "570", "torch": "2.10"}
EMPTY = NoiseModel([])
FIRST_READING = 0.92  # two one-sided limits at 0.8 of alpha
SEED_ROW = NoiseRow(
    scale="toy", metric="val_loss", gpu="H100", source="seed", sd=0.0014, df=600, runs=700,
    groups=70, origin="shipped",
)  # fmt: skip
LAUNCH_ROW = NoiseRow(
    scale="toy", metric="train_time_s", gpu="H100", source="launch", sd=0.0013, df=500, runs=600,
    groups=70, origin="shipped",
)  # fmt: skip


def run(index: int, **changes) -> LoggedRun:
    fields = {
        "source": f"run {index}",
        "family": "toy",
        "metrics": {"val_loss": 3.28},
        "steps": 100,
        "planned_steps": 100,
        "scale": "toy",
        "gpu": "H100",
        "environment": HOST,
        "environment_known": True,
    }
    return LoggedRun(**{**fields, **changes})


def side(values, metric="val_loss", first=0, **changes):
    return [
        run(first + index, metrics={metric: value}, started_at=float(index), **changes)
        for index, value in enumerate(values)
    ]


def compared(a, b, noise_model=EMPTY, **options):
    return compare(a, b, CompareOptions(**options), noise_model)


LOSSES = [3.280, 3.279, 3.281, 3.2795, 3.2805]


def test_the_interval_is_students_and_the_effect_b_minus_a():
    found = compared(side(LOSSES), side([x + 0.01 for x in LOSSES]))
    (loss,) = found.metrics
    reference = stats.ttest_ind([x + 0.01 for x in LOSSES], LOSSES).confidence_interval(
        FIRST_READING
    )
    assert loss.estimate == pytest.approx(0.01)
    assert (loss.low, loss.high) == pytest.approx((reference.low, reference.high))
    assert (loss.outcome, found.outcome, found.exit_code) == ("regression", "regression", 10)


def test_equal_sides_pass_where_the_runs_are_enough():
    found = compared(side(LOSSES), side([x + 0.0001 for x in LOSSES]))
    assert (found.outcome, found.exit_code) == ("pass", 0)


def test_an_inconclusive_comparison_states_how_many_runs_would_decide():
    wide = [3.276, 3.284, 3.280]
    found = compared(side(wide), side(wide[::-1]))
    (loss,) = found.metrics
    assert (found.outcome, found.exit_code) == ("inconclusive", 3)
    assert loss.more_runs is not None
    assert loss.more_runs > 10


def test_one_run_a_side_uses_the_noise_model():
    found = compared(side([3.28]), side([3.29]), NoiseModel([SEED_ROW]))
    (loss,) = found.metrics
    half = stats.t.ppf(0.96, 600) * 0.0014 * math.sqrt(2)
    assert (loss.low, loss.high) == pytest.approx((0.01 - half, 0.01 + half))
    assert loss.outcome == "regression"
    assert "shipped noise model" in loss.noise_from


def test_one_run_a_side_without_a_noise_model_has_no_outcome_and_a_reason():
    (loss,) = compared(side([3.28]), side([3.9])).metrics
    assert loss.outcome == "inconclusive"
    assert loss.low is None
    assert "a second run a side gives an interval" in (loss.reason or "")


def test_a_stated_sd_stands_in_for_the_noise_model():
    found = compared(side([3.28]), side([3.29]), sds={"val_loss": 0.001})
    assert found.metrics[0].method == "stated"
    assert found.outcome == "regression"


def test_a_side_noisier_than_the_noise_model_is_named_and_gets_welchs_limits():
    wild = [3.20, 3.28, 3.36, 3.30]
    (loss,) = compared(side(LOSSES), side(wild), NoiseModel([SEED_ROW])).metrics
    assert loss.method == "welch"
    assert any("side B varies more" in note for note in loss.notes)
    reference = stats.ttest_ind(wild, LOSSES, equal_var=False).confidence_interval(FIRST_READING)
    assert (loss.low, loss.high) == pytest.approx((reference.low, reference.high))


def test_a_margin_from_the_command_line_replaces_the_default():
    shifted = [x + 0.005 for x in LOSSES]
    assert compared(side(LOSSES), side(shifted)).outcome == "regression"
    found = compared(side(LOSSES), side(shifted), margins={"val_loss": 0.01})
    assert found.outcome == "pass"
    assert found.metrics[0].small_harm


@pytest.mark.parametrize(
    ("metric", "values", "change", "outcome"),
    [
        ("train_time_s", [100.0, 100.1, 99.9], 1.02, "regression"),
        ("train_time_s", [100.0, 100.1, 99.9], 0.98, "pass"),
        ("tokens_per_s", [5e5, 5.003e5, 4.998e5], 0.98, "regression"),
        ("tokens_per_s", [5e5, 5.003e5, 4.998e5], 1.02, "pass"),
    ],
)
def test_worse_is_slower(metric, values, change, outcome):
    changed = [value * change for value in values]
    found = compared(side(values, metric), side(changed, metric))
    (speed,) = found.metrics
    assert speed.outcome == outcome
    assert math.exp(speed.estimate) == pytest.approx(change)


def test_a_slowdown_of_one_session_is_called_unconfirmed():
    found = compared(side([100.0, 100.1], "train_time_s"), side([103.0, 103.1], "train_time_s"))
    assert any("unconfirmed" in note for note in found.metrics[0].notes)


def test_speed_across_environments_is_refused_with_the_field():
    other = {**HOST, "driver": "535"}
    found = compared(
        side([100.0, 100.1], "train_time_s"),
        side([90.0, 90.1], "train_time_s", environment=other),
    )
    (speed,) = found.metrics
    assert speed.outcome == "inconclusive"
    assert speed.low is None
    assert speed.reason == "refused: driver 570 against 535"


def test_loss_is_compared_across_environments():
    found = compared(side(LOSSES), side(LOSSES, environment={**HOST, "driver": "535"}))
    assert found.metrics[0].low is not None


def test_speed_of_an_unknown_environment_is_shown_and_decides_nothing():
    sides = [
        side([v, v + 0.1], "train_time_s", environment={}, environment_known=False)
        for v in (100.0, 90.0)
    ]
    (speed,) = compared(*sides).metrics
    assert speed.estimate == pytest.approx(math.log(90 / 100), abs=1e-3)
    assert speed.outcome == "inconclusive"
    assert (speed.reason or "").startswith("unknown environment")


def test_speeds_of_two_hosts_are_compared_inside_each():
    """The hosts differ by 5 %, the sides by 1 %: levels of hosts drop out."""
    rng = np.random.default_rng(0)
    hosts = [HOST, {**HOST, "GPUs": "1x H100 b"}]

    def on_both(factor):
        return [
            run(
                0,
                metrics={"train_time_s": factor * level * float(np.exp(rng.normal(0, 0.001)))},
                environment=host,
                gpu=None,
            )
            for host, level in zip(hosts, (100.0, 105.0), strict=True)
            for _ in range(4)
        ]

    (speed,) = compared(on_both(1.0), on_both(1.01)).metrics
    assert speed.estimate == pytest.approx(math.log(1.01), abs=0.0015)
    assert speed.sd < 0.002
    assert speed.outcome == "regression"


def test_runs_of_other_hosts_are_left_out_of_speed_only():
    other = run(9, metrics={"train_time_s": 150.0}, environment={**HOST, "torch": "2.4"})
    a = [*side([100.0, 100.1, 99.9], "train_time_s"), other]
    (speed,) = compared(a, side([100.0, 100.1, 99.9], "train_time_s")).metrics
    assert speed.n == (3, 3)
    assert any("only runs of environments" in note for note in speed.notes)


def test_a_quality_that_has_two_names_is_judged_once():
    def both(shift):
        return [run(0, metrics={"val_loss": x + shift, "val_bpb": (x + shift) / 3}) for x in LOSSES]

    found = compared(both(0), both(0.0001), margins={"val_bpb": 0.001})
    outcomes = {item.metric: item.outcome for item in found.metrics}
    assert outcomes == {"val_loss": None, "val_bpb": "pass"}
    alone = compared(both(0), both(0.0001))
    assert {item.metric: item.outcome for item in alone.metrics}["val_loss"] == "pass"


def test_bpb_at_proxy_scale_takes_its_margin_from_the_noise_model():
    row = NoiseRow(
        scale="toy", metric="val_bpb", gpu="H100", source="seed", sd=0.0007, df=9, runs=10,
        groups=1, origin="measured",
    )  # fmt: skip
    (bpb,) = compared(side([1.3], "val_bpb"), side([1.3], "val_bpb"), NoiseModel([row])).metrics
    assert bpb.margin == pytest.approx(0.001)
    (full,) = compared(
        side([1.3], "val_bpb", full_scale=True), side([1.3], "val_bpb"), NoiseModel([row])
    ).metrics
    assert full.margin == pytest.approx(0.0003)


def test_runs_of_b_that_diverged_are_a_regression():
    b = [*side(LOSSES), run(9, metrics={}, ending="its loss is nan", diverged=True)]
    found = compared(side(LOSSES), b)
    assert (found.outcome, found.reason) == (
        "regression",
        "1 of 6 runs of B diverged or ran out of memory",
    )
    every = [run(9, metrics={}, ending="its loss is nan", diverged=True)]
    assert compared(side(LOSSES), every).outcome == "regression"


def test_a_baseline_that_diverges_as_often_makes_it_inconclusive():
    def half(shift):
        return [
            *side([x + shift for x in LOSSES]),
            run(9, metrics={}, ending="its loss is nan", diverged=True),
        ]

    assert compared(half(0.0), half(0.0)).outcome == "inconclusive"
    assert compared(half(0.0), half(0.1)).outcome == "regression"


def test_a_side_with_an_incomplete_run_never_passes():
    b = [*side(LOSSES), run(9, steps=60, evaluated_at=50, ending="it ends")]
    found = compared(side(LOSSES), b)
    assert (found.outcome, found.reason) == (
        "inconclusive",
        "1 of 6 runs of B did not reach their end",
    )


def test_a_baseline_without_a_complete_run_is_an_error():
    broken = [run(0, steps=60, evaluated_at=50, ending="it ends at step 60 of 100")]
    with pytest.raises(LogError, match="step 60"):
        compared(broken, side(LOSSES))
    assert compared(side(LOSSES), broken).outcome == "inconclusive"


def test_runs_that_all_stop_at_one_evaluation_count_as_complete():
    def stopped():
        return side(LOSSES, steps=80, evaluated_at=80, ending="it ends at step 80 of 100")

    found = compared(stopped(), stopped())
    assert found.outcome == "pass"
    assert "A at step 80 of 100" in found.findings[0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"family": "other"}, "format"),
        ({"identity": {"data_id": "x", "protocol": "1"}}, "data_id"),
        ({"identity": {"data_id": "d", "protocol": "2"}}, "protocol"),
    ],
)
def test_sides_that_measure_different_things_are_refused_with_the_field(changes, field):
    a = side(LOSSES, identity={"data_id": "d", "protocol": "1"})
    b = side(LOSSES, **{"identity": {"data_id": "d", "protocol": "1"}, **changes})
    with pytest.raises(LogError) as error:
        compared(a, b)
    assert error.value.path == field


def test_a_side_of_two_configurations_is_refused():
    with pytest.raises(LogError, match="replicates of one configuration"):
        compared([*side(LOSSES), run(9, planned_steps=200)], side(LOSSES))


def test_different_lengths_and_copies_are_pointed_out():
    timed = {"val_loss": 3.28, "train_time_s": 100.0}
    a = [run(0, metrics=timed), run(1, metrics=timed)]
    found = compared(a, [run(2, planned_steps=90, metrics={"val_loss": 3.28})])
    assert any("different lengths: 100 steps against 90" in note for note in found.notes)
    assert any("a copy, left out" in finding for finding in found.findings)


def test_without_a_common_metric_there_is_an_error_and_without_a_margin_no_outcome():
    with pytest.raises(LogError, match="at least one metric"):
        compared(side(LOSSES), side(LOSSES, "val_bpb"))
    found = compared(side([0.25, 0.26], "core"), side([0.25, 0.26], "core"))
    assert (found.outcome, found.metrics[0].outcome) == ("inconclusive", None)
    assert "--margin" in found.reason


def test_an_unknown_metric_is_named_in_the_refusal():
    with pytest.raises(UsageError, match="val_loss"):
        compared(side(LOSSES), side(LOSSES), margins={"val_los": 0.1})


ACCURACIES = side([0.90, 0.91, 0.90], "acc"), side([0.80, 0.81, 0.80], "acc")


@pytest.mark.parametrize(
    ("direction", "outcome"), [("higher_better", "regression"), ("lower_better", "pass")]
)
def test_the_stated_direction_of_an_unregistered_metric_decides_its_outcome(direction, outcome):
    found = compared(*ACCURACIES, margins={"acc": 0.01}, **{direction: ["acc"]})
    assert found.outcome == outcome


def test_a_metric_of_unknown_direction_is_shown_and_never_judged():
    found = compared(*ACCURACIES, also=["acc"])
    (acc,) = found.metrics
    assert (found.outcome, acc.outcome, acc.better) == ("inconclusive", None, None)
    assert acc.low < acc.estimate < acc.high < 0
    assert not acc.improved
    assert any("direction is unknown" in note for note in acc.notes)


def test_a_margin_for_a_metric_of_unknown_direction_is_refused_with_the_option():
    with pytest.raises(UsageError, match="--higher-better acc or --lower-better acc"):
        compared(*ACCURACIES, margins={"acc": 0.01})


def test_a_direction_against_the_registry_is_refused():
    with pytest.raises(UsageError, match="lower, the registered direction of val_loss"):
        compared(side(LOSSES), side(LOSSES), higher_better=["val_loss"])


def test_false_alarms_of_compare_stay_below_alpha():
    rng, fired, rounds = np.random.default_rng(3), 0, 1500
    noise_model = NoiseModel([SEED_ROW, LAUNCH_ROW])
    for _ in range(rounds):
        a, b = rng.normal(3.28, 0.0014, (2, 3))
        fired += (
            compared(side(map(float, a)), side(map(float, b)), noise_model).outcome == "regression"
        )
    assert fired / rounds <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / rounds)


def test_less_than_a_mebibyte_of_memory_is_neither_a_gain_nor_a_small_harm():
    name, held = "peak_memory_bytes", [2**30, 2**30, 2**30 + 8]

    def memory(more):
        sides = side(held, name), side([value + more for value in held], name)
        return compared(*sides, margins={name: 2**24}).metrics[0]

    assert memory(-2048).low < memory(-2048).high < 0
    assert not memory(-2048).improved
    assert not memory(2048).small_harm
    assert memory(-(2**21)).improved
    assert memory(2**21).small_harm
    assert (estimate(memory(-2048)), interval(memory(-(2**22)))) == ("0 MiB", "[−4, −4]")


def test_the_noise_of_launches_is_called_that_of_a_launch():
    sides = side([1.0, 1.1], "compile_s"), side([1.2, 1.4], "compile_s")
    for replicate in ("run", "launch"):
        (time,) = compared(*sides, margins={"compile_s": 0.5}, replicate=replicate).metrics
        assert any(f"SD of one {replicate} " in line for line in result_notes(time))


def test_runs_without_a_value_or_with_zero_are_left_out_of_a_ratio():
    times = side([100.0, 100.1, 99.9], "train_time_s")
    without = [run(8, metrics={"val_loss": 3.28}), run(9, metrics={"train_time_s": 0.0})]
    (speed,) = compared([*times, *without], times, metrics=["train_time_s"]).metrics
    assert (speed.n, speed.estimate) == ((3, 3), 0.0)
    assert "3 of 5 runs of A" in speed.notes
    with pytest.raises(LogError, match="above zero"):
        compared(times, without[1:], metrics=["train_time_s"])


def test_a_slowdown_of_one_session_is_unconfirmed_and_no_other_result_is():
    def both(more):
        metrics = ("val_loss", "train_time_s")
        return [run(0, metrics=dict.fromkeys(metrics, more * x)) for x in LOSSES]

    for more, outcome in ((1.1, "regression"), (1.0, "pass")):
        found = compared(both(1.0), both(more), metrics=["val_loss", "train_time_s"])
        assert [one.outcome for one in found.metrics] == [outcome, outcome]
        marked = [any("unconfirmed" in note for note in one.notes) for one in found.metrics]
        assert marked == [False, outcome == "regression"]


def test_core_that_is_compared_by_name_needs_equal_settings():
    a, b = (
        [run(0, metrics={"core": x, "val_loss": x}, evaluation={"bundle": name}) for x in LOSSES]
        for name in "ab"
    )
    for metrics in ([], ["core"]):
        with pytest.raises(LogError) as error:
            compared(a, b, metrics=metrics)
        assert error.value.path == "core.bundle"
    assert compared(a, b, metrics=["val_loss"]).outcome == "pass"


def test_a_side_lists_what_it_has_in_order():
    gpus = ["B200", "A100", "H200", "H100"]
    a = [run(index, gpu=gpu, environment={}) for index, gpu in enumerate(gpus)]
    found = compared(a, [run(9, gpu=None)])
    assert [one.gpus for one in found.sides] == [sorted(gpus), ["1x H100"]]
    with pytest.raises(LogError) as error:
        compared([run(0, metrics=dict.fromkeys("edcba", 1.0))], [run(1, metrics={})])
    assert error.value.got == "a, b, c, d, e against none"


def test_the_noise_of_one_scale_is_not_that_of_another():
    (same,) = compared(side([3.28]), side([3.29], scale=None), NoiseModel([SEED_ROW])).metrics
    assert same.method == "noise_model"
    (other,) = compared(side([3.28]), side([3.29], scale="other"), NoiseModel([SEED_ROW])).metrics
    assert (other.method, other.low) == ("pooled", None)


def test_a_question_is_read_at_most_thirty_one_times():
    assert compared(side(LOSSES), side(LOSSES), seen=30).outcome == "inconclusive"
    with pytest.raises(UsageError, match="from 0 to 30"):
        compared(side(LOSSES), side(LOSSES), seen=31)
