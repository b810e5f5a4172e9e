"""When a gate stops measuring: evidence of known size, and a budget of a number of runs."""

import math

import msgspec
import numpy as np
import pytest

from benchmarks.statistics import gate_rates
from benchmarks.statistics.gate_rates import ALPHA, MARGIN_BPB, Drawn, gate
from harness.comparison.noise_model import NoiseModel
from harness.gate import planning
from harness.gate.measurement import MeasurementLoop, launch_row, speed_margin
from harness.gate.metrics import compare_quality
from harness.gate.request import GateRequest
from harness.gate.result import SPEED, GatePlan, LookSchedule
from harness.stats.spending import Reading

STORED = gate_rates.load()


def bound(rate: float, gates: int) -> float:
    """A rate and two Monte-Carlo standard errors of it."""
    return rate + 2 * math.sqrt(rate * (1 - rate) / gates)


class ConstantSource(Drawn):
    """Evidence almost without noise; equal losses would be copies."""

    def __init__(self, bpb: float = 1.0, slower: float = 0.0, waits: float = 0.0, most: int = 64):
        self.launches, self.runs = [], []
        self.bpb, self.slower, self.waits, self.most = bpb, slower, waits, most

    def launch(self) -> None:
        self.launches.append(
            gate_rates.launched(len(self.launches) + 1, [self.slower] * 5, self.waits)
        )

    def run(self) -> None:
        seed = gate_rates.STORED_RUNS + len(self.runs) + 1
        self.runs.append(gate_rates.record(seed, self.bpb + 1e-9 * seed))

    def has_time(self, part) -> bool:
        return len(self.launches) + len(self.runs) < self.most


def outcomes(
    evidence: str, rule: str, source: ConstantSource, claim: str = "ml"
) -> dict[str, str | None]:
    """The outcome of each metric after one part; losses are relative to the baseline's mean."""
    rng = np.random.default_rng(3)
    stored, noise_model = gate_rates.baseline(rng), gate_rates.noise_model(rng)
    request = GateRequest(baseline=stored, rule=rule, claim=claim, margins={"val_bpb": MARGIN_BPB})
    options = planning.PlanOptions(reading=Reading(alpha=ALPHA), rule=rule, budget_s=64.0)
    if evidence == "launches":
        part = planning.plan_speed(
            launch_row(gate_rates.bench(), noise_model), speed_margin(request), 1.0, options
        )
    else:
        records = stored.now.records
        source.bpb += np.mean([one.metrics["val_bpb"] for one in records]) - 1.0
        part = planning.plan_quality(records, noise_model, request.margins, False, 1.0, options)
    loop = MeasurementLoop(request, gate_rates.bench(), noise_model, source)
    loop.run(GatePlan(parts=[part], budget_s=64.0, alpha=ALPHA))
    return {one.result.metric: one.result.outcome for one in loop.metrics}


def test_an_always_valid_part_stops_at_the_run_that_decides():
    near, far = ConstantSource(bpb=1.0 + 1.5 * MARGIN_BPB), ConstantSource(bpb=1.0 + 4 * MARGIN_BPB)
    for source in (near, far):
        assert outcomes("replicates", "always_valid", source)["val_bpb"] == "regression"
    assert 1 <= len(far.runs) < len(near.runs) < 64


def test_a_gate_names_copies_and_counts_them_as_one_run():
    stored = gate_rates.baseline(np.random.default_rng(3)).now.records
    copies = [gate_rates.record(seed, 1.0) for seed in (101, 102, 103)]
    schedule = LookSchedule(looks=[3])
    (found,) = compare_quality(stored, copies, schedule, NoiseModel([]), Reading(alpha=ALPHA), {})
    assert found.result.n == (len(stored), 1)
    assert any("3 runs of B have equal losses" in note for note in found.result.notes)


def test_an_undecided_always_valid_part_stops_with_the_budget_and_is_inconclusive():
    source = ConstantSource(bpb=1.0 + MARGIN_BPB / 2, most=11)
    assert outcomes("replicates", "always_valid", source)["val_bpb"] == "inconclusive"
    assert len(source.runs) == 11


def test_no_runs_are_added_after_the_last_planned_look():
    source = ConstantSource(bpb=1.0 + MARGIN_BPB / 2)
    assert outcomes("replicates", "group_sequential", source)["val_bpb"] == "inconclusive"
    assert len(source.runs) < 64


@pytest.mark.parametrize("rule", ["group_sequential", "always_valid"])
def test_no_launch_follows_one_that_waited_for_its_data_loader(rule):
    source = ConstantSource(waits=0.01)
    assert outcomes("launches", rule, source)[SPEED] == "inconclusive"
    assert len(source.launches) == 1


def test_an_always_valid_gate_continues_until_a_claimed_speed_up_is_shown():
    equal, faster = ConstantSource(most=9), ConstantSource(slower=-0.003, most=9)
    assert outcomes("launches", "always_valid", equal, "systems")[SPEED] == "inconclusive"
    assert outcomes("launches", "always_valid", faster, "systems")[SPEED] == "pass"
    assert len(faster.launches) < len(equal.launches) == 9


def test_launches_of_each_mode_use_the_noise_models_row_of_that_mode():
    rng = np.random.default_rng(3)
    stored, shipped = gate_rates.baseline(rng), gate_rates.noise_model(rng)
    request = GateRequest(baseline=stored)
    interleaved = launch_row(gate_rates.bench(), shipped)
    noise_model = NoiseModel(
        [interleaved, msgspec.structs.replace(interleaved, source="sequential", sd=0.07)]
    )
    options = planning.PlanOptions(reading=Reading(alpha=ALPHA))
    planned = planning.plan_speed(interleaved, speed_margin(request), 1.0, options)
    sds = {}
    for mode in ("interleaved", "sequential"):
        part = msgspec.structs.replace(planned, ab_mode=mode)
        loop = MeasurementLoop(request, gate_rates.bench(), noise_model, ConstantSource())
        loop.run(GatePlan(parts=[part], budget_s=None, alpha=ALPHA))
        sds[mode] = loop.metrics[0].result.sd
    assert sds == {"interleaved": interleaved.sd, "sequential": 0.07}


# --- error rates of whole gates -------------------------------------------------------------------


def _is_slow(cell):
    return cell.evidence == "replicates" and cell.noise != gate_rates.OWN


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, marks=[pytest.mark.slow] * _is_slow(cell), id=cell.name)
        for cell in gate_rates.cells()
        if (cell.evidence, cell.harm) in (("launches", 0.0), ("replicates", 2.0))
    ],
)
def test_the_stored_counts_are_those_of_this_code(cell):
    found = next(one for one in STORED if one.cell == cell)
    ends = [gate(cell, number).outcome for number in range(gate_rates.FIRST)]
    assert {name: ends.count(name) for name in gate_rates.OUTCOMES} == found.first


def test_every_cell_has_ten_thousand_gates():
    assert [one.cell for one in STORED] == list(gate_rates.cells())
    assert all(sum(one.outcomes.values()) == one.gates >= 10_000 for one in STORED)


def test_gates_are_wrong_at_most_as_often_as_alpha_allows():
    for one in STORED:
        wrong = {0.0: "regression", 1.0: "pass"}.get(one.cell.harm)
        assert wrong is None or one.share(wrong) <= bound(ALPHA, one.gates), one


def test_a_second_session_reduces_false_slowdowns_to_alpha_squared():
    for one in STORED:
        if one.cell.evidence == "launches" and one.cell.harm == 0.0:
            assert one.share("regression") <= bound(ALPHA**2, one.gates)
