"""What a gate plans within its budget, and whether a decision is likely under the plan."""

import msgspec
import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics import gate_rates
from benchmarks.statistics.gate_rates import MARGIN_BPB, launched
from harness.comparison.noise_model import NoiseModel
from harness.gate import planning
from harness.gate.measurement import launch_row, speed_margin
from harness.gate.metrics import information_shares
from harness.gate.planning import PlanOptions
from harness.gate.request import GateRequest
from harness.gate.result import GatePlan, GateResult, PartPlan, SideIdentity
from harness.gate.sides import GateSide, PreparedGate
from harness.results.record import Identity
from harness.runner.replicates import Recipe
from harness.runner.trainer import FakeTrainer
from harness.stats.sequential import look_tails
from harness.stats.spending import Reading

RNG = np.random.default_rng(3)
STORED, NOISE_MODEL, RUN_S = gate_rates.baseline(RNG), gate_rates.noise_model(RNG), 4.0
RECORDS = [msgspec.structs.replace(one, wall_s=RUN_S) for one in STORED.now.records]
STORED = msgspec.structs.replace(
    STORED, entries=[msgspec.structs.replace(STORED.now, records=RECORDS)]
)
MARGINS, READING = {"val_bpb": MARGIN_BPB}, Reading(alpha=0.05)
SIDE = GateSide(
    trainer=FakeTrainer(),
    recipe=Recipe(
        config={},
        derived={"sizes": {"layers": 8}, "tokens": 1},
        tricks={},
        identity=Identity(config_id="c", code_id="c", data_id="d", protocol=1),
        seed_path="seed",
    ),
    identity=SideIdentity(code_id="c", config_id="c"),
)
LAUNCHED = GateResult(
    key="other", number=1, outcome="pass", reason="", alpha=0.05, claim="ml", a=SIDE.identity,
    b=SIDE.identity, metrics=[], launches=[msgspec.structs.replace(launched(1, [0.0]), seconds=10)],
)  # fmt: skip


def prepared(a: GateSide | None = SIDE, **request: object) -> PreparedGate:
    return PreparedGate(
        request=GateRequest(**{"baseline": STORED, "margins": MARGINS, **request}),
        a=a,
        b=SIDE,
        key="k",
        bench=gate_rates.bench(),
    )


def planned(gate: PreparedGate, records=()) -> GatePlan:
    return planning.plan_gate(gate, NOISE_MODEL, [LAUNCHED], records)


def speed(gate: PreparedGate, **options: object) -> PartPlan:
    margin = speed_margin(gate.request)
    options = PlanOptions(reading=READING, **options)
    return planning.plan_speed(launch_row(gate.bench, NOISE_MODEL), margin, 10.0, options)


def quality(**options: object) -> PartPlan:
    options = PlanOptions(reading=READING, **options)
    return planning.plan_quality(RECORDS, NOISE_MODEL, MARGINS, False, RUN_S, options)


def test_quality_gets_the_time_that_speed_leaves():
    gate = prepared(budget_s=30.0)
    first, second = planned(gate).parts
    half = quality(budget_s=15.0)
    assert planning.decision_is_likely(half)
    assert first == speed(gate, budget_s=30.0 - half.seconds)
    assert second == quality(budget_s=30.0 - first.seconds)
    assert 0 < second.n_b < quality(budget_s=30.0 + first.seconds).n_b
    unlimited = planned(prepared()).parts
    assert [part.n_b for part in unlimited] == [part.n_for_power for part in unlimited]
    (alone,) = planned(prepared(None, budget_s=30.0)).parts
    assert alone == quality(budget_s=30.0)
    (refactored,) = planned(prepared(budget_s=30.0, claim="refactor")).parts
    assert refactored == speed(gate, budget_s=30.0)


def test_always_valid_launches_stop_at_half_of_the_budget():
    gate = prepared(budget_s=60.0, rule="always_valid")
    first, second = planned(gate).parts
    assert (first.stop_after_s, first.n_b, second.n_b) == (30.0, 3, 7)
    (alone,) = planned(prepared(budget_s=60.0, rule="always_valid", claim="refactor")).parts
    assert (alone.stop_after_s, alone.n_b) == (None, 6)


def test_runs_of_both_refs_take_twice_the_mean_time_of_earlier_runs_of_theirs():
    def run(seed: int, wall_s: float, config_id: str = "c", status: str = "completed"):
        made = gate_rates.record(seed, 1.0)
        identity = msgspec.structs.replace(made.identity, config_id=config_id)
        return msgspec.structs.replace(made, wall_s=wall_s, identity=identity, status=status)

    gate = prepared(baseline=None, base="main")
    records = [run(1, 3.0), run(2, 5.0), run(3, 90.0, "other"), run(4, 90.0, status="failed")]
    part = planned(gate, records).parts[1]
    assert (part.both, part.unit_s, part.metric, part.n_a) == (True, 8.0, "val_bpb", part.n_b)
    assert planned(gate).parts[1].unit_s is None


def part(**changes: object) -> PartPlan:
    fields = {
        "evidence": "replicates", "metric": "val_bpb", "n_a": 8, "n_b": 4, "looks": [4],
        "unit_s": 5.0, "margin": 0.1, "sd": 0.1, "df": 9.0, "minimum_detectable": 0.1,
        "p_pass_if_unchanged": 0.5, "p_regression_at_margin": 0.5,
    }  # fmt: skip
    return PartPlan(**{**fields, **changes})


UNKNOWN = {"p_pass_if_unchanged": None, "p_regression_at_margin": None}


@pytest.mark.parametrize(
    ("changes", "likely"),
    [
        ({}, True),
        ({"p_pass_if_unchanged": 0.1, "p_regression_at_margin": 0.0}, True),
        ({"p_pass_if_unchanged": 0.0, "p_regression_at_margin": 0.1}, True),
        ({"p_pass_if_unchanged": 0.09, "p_regression_at_margin": 0.09}, False),
        ({"n_b": 0}, False),
        ({"margin": None}, False),
        ({"p_pass_if_unchanged": None, "n_a": 1, "n_b": 1}, False),
        ({"p_regression_at_margin": None, "n_a": 1, "n_b": 1}, False),
        ({**UNKNOWN, "n_a": 8, "n_b": 1}, True),
        ({**UNKNOWN, "n_a": 1, "n_b": 1}, False),
        ({**UNKNOWN, "n_a": 1, "n_b": 2}, True),
        ({**UNKNOWN, "n_a": 3, "n_b": 1, "evidence": "launches"}, False),
        ({**UNKNOWN, "n_a": 2, "n_b": 2, "evidence": "launches"}, True),
    ],
)
def test_a_decision_is_likely_at_one_in_ten_or_where_the_noise_is_still_unknown(changes, likely):
    assert planning.decision_is_likely(part(**changes)) is likely


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"margin": None, "notes": ["first", "second"]}, "first"),
        ({"n_b": 0}, "one run takes 5 s, more than the budget leaves"),
        ({"n_b": 0, "evidence": "launches"}, "one launch takes 5 s, more than the budget leaves"),
        ({**UNKNOWN, "n_a": 1, "n_b": 1}, "1 run cannot show their own noise"),
        ({"p_pass_if_unchanged": 0.02, "p_regression_at_margin": 0.01}, "4 runs would pass an"),
    ],
)
def test_a_plan_without_a_likely_decision_gives_the_reason_of_each_part(changes, why):
    plan = GatePlan(parts=[part(**changes)], budget_s=None, alpha=0.05)
    found = planning.why_no_decision(plan)
    assert found.startswith(f"no decision is likely, so nothing is started: {why}")
    both = msgspec.structs.replace(plan, parts=[part(**changes), part()])
    assert planning.why_no_decision(both) is None


def test_one_of_two_losses_is_judged_unless_both_have_a_margin():
    rows = dict.fromkeys(("val_bpb", "val_loss", "core"))
    assert list(planning.judged_metrics(rows, {}, False)) == ["val_loss"]
    assert list(planning.judged_metrics(rows, {"val_bpb": 0.1}, False)) == ["val_bpb"]
    given = planning.judged_metrics(rows, {"val_loss": 0.1, "val_bpb": 0.2}, False)
    assert {name: margin.value for name, margin in given.items()} == {
        "val_bpb": 0.2,
        "val_loss": 0.1,
    }


def test_the_metric_that_needs_the_most_runs_sets_their_number():
    records = [
        msgspec.structs.replace(
            one, metrics={**one.metrics, "val_loss": one.metrics["val_bpb"] * 2}
        )
        for one in RECORDS
    ]
    values = [one.metrics["val_loss"] for one in records]
    options = PlanOptions(reading=READING)

    def plan(**margins: float) -> PartPlan:
        return planning.plan_quality(records, NoiseModel([]), margins, False, 1.0, options)

    loss, bpb = plan(val_loss=0.004), plan(val_bpb=0.003)
    assert loss.sd == pytest.approx(np.std(values, ddof=1))
    assert (loss.df, loss.n_b > bpb.n_b) == (7, True)
    both = plan(val_bpb=0.003, val_loss=0.004)
    assert both.metric == "val_loss"
    assert both.notes == [*loss.notes, f"val_bpb needs {bpb.n_b}"]
    hopeless = plan(val_bpb=0.003, val_loss=1e-6)
    assert (hopeless.metric, hopeless.n_b) == ("val_bpb", bpb.n_b)
    df = [8 + n - 2.0 for n in bpb.looks]  # the SD is estimated from both sides, at every look
    tail = look_tails(0.04, information_shares(8, bpb.looks), df)[-1]
    expected = (
        (stats.t.isf(tail, df[-1]) + stats.t.ppf(0.9, df[-1]))
        * bpb.sd
        * (1 / 8 + 1 / bpb.n_b) ** 0.5
    )
    assert bpb.minimum_detectable == pytest.approx(expected)
