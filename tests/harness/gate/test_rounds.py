"""How much a gate buys: evidence of one's choice, and a budget of so many pieces."""

import math

import msgspec
import numpy as np
import pytest

from benchmarks.statistics import gate_rates
from benchmarks.statistics.gate_rates import ALPHA, MARGIN_BPB, Drawn, gate
from harness.compare.noise_model import NoiseModel
from harness.gate import planning
from harness.gate.result import SPEED, GatePlan
from harness.gate.rounds import Rounds, launch_row, speed_margin
from harness.gate.sides import GateRequest

KEPT = gate_rates.load()


def bound(rate: float, gates: int) -> float:
    """A rate and two Monte-Carlo standard errors of it."""
    return rate + 2 * math.sqrt(rate * (1 - rate) / gates)


class Told(Drawn):
    """Evidence that always says the same."""

    def __init__(self, bpb: float = 1.0, slower: float = 0.0, waits: float = 0.0, pieces: int = 64):
        self.launches, self.runs = [], []
        self.bpb, self.slower, self.waits, self.pieces = bpb, slower, waits, pieces

    def launch(self) -> None:
        self.launches.append(
            gate_rates.launched(len(self.launches) + 1, [self.slower] * 5, self.waits)
        )

    def run(self) -> None:
        seed = gate_rates.STORED_RUNS + len(self.runs) + 1
        self.runs.append(gate_rates.record(seed, self.bpb))

    def has_time(self, part) -> bool:
        return len(self.launches) + len(self.runs) < self.pieces


def bought(evidence: str, rule: str, source: Told, claim: str = "ml") -> dict[str, str | None]:
    """The outcomes by metric, after the rounds of one part; losses are told of the baseline's."""
    rng = np.random.default_rng(3)
    stored, noise_model = gate_rates.baseline(rng), gate_rates.noise_model(rng)
    asked = GateRequest(baseline=stored, rule=rule, claim=claim, margins={"val_bpb": MARGIN_BPB})
    terms = planning.Terms(alpha=ALPHA, rule=rule, budget_s=64.0)
    if evidence == "launches":
        part = planning.speed_plan(
            launch_row(gate_rates.bench(), noise_model), speed_margin(asked), 1.0, terms
        )
    else:
        records = stored.now.records
        source.bpb += np.mean([one.metrics["val_bpb"] for one in records]) - 1.0
        part = planning.quality_plan(records, noise_model, asked.margins, False, 1.0, terms)
    rounds = Rounds(asked, gate_rates.bench(), noise_model, source)
    rounds.take(GatePlan(parts=[part], budget_s=64.0, alpha=ALPHA))
    return {one.judged.metric: one.judged.outcome for one in rounds.metrics}


def test_an_open_part_ends_at_the_piece_that_decides():
    near, far = Told(bpb=1.0 + 1.5 * MARGIN_BPB), Told(bpb=1.0 + 4 * MARGIN_BPB)
    for source in (near, far):
        assert bought("replicates", "open", source)["val_bpb"] == "regression"
    assert 1 <= len(far.runs) < len(near.runs) < 64


def test_an_open_part_without_a_verdict_ends_with_the_budget_and_is_inconclusive():
    source = Told(bpb=1.0 + MARGIN_BPB / 2, pieces=11)
    assert bought("replicates", "open", source)["val_bpb"] == "inconclusive"
    assert len(source.runs) == 11


def test_planned_looks_are_not_gone_beyond_where_they_leave_it_open():
    source = Told(bpb=1.0 + MARGIN_BPB / 2)
    assert bought("replicates", "looks", source)["val_bpb"] == "inconclusive"
    assert len(source.runs) < 64


@pytest.mark.parametrize("rule", ["looks", "open"])
def test_no_launch_is_bought_after_one_whose_loader_was_waited_for(rule):
    source = Told(waits=0.01)
    assert bought("launches", rule, source)[SPEED] == "inconclusive"
    assert len(source.launches) == 1


def test_an_open_gate_goes_on_until_a_claim_of_more_speed_is_shown():
    equal, faster = Told(pieces=9), Told(slower=-0.003, pieces=9)
    assert bought("launches", "open", equal, "systems")[SPEED] == "inconclusive"
    assert bought("launches", "open", faster, "systems")[SPEED] == "pass"
    assert len(faster.launches) < len(equal.launches) == 9


def test_launches_of_each_form_are_judged_by_the_ledgers_row_of_that_form():
    rng = np.random.default_rng(3)
    stored, shipped = gate_rates.baseline(rng), gate_rates.noise_model(rng)
    asked = GateRequest(baseline=stored)
    resident = launch_row(gate_rates.bench(), shipped)
    noise_model = NoiseModel(
        [resident, msgspec.structs.replace(resident, source="sequential", sd=0.07)]
    )
    terms = planning.Terms(alpha=ALPHA)
    planned = planning.speed_plan(resident, speed_margin(asked), 1.0, terms)
    sds = {}
    for form in ("interleaved", "sequential"):
        part = msgspec.structs.replace(planned, turns=form)
        rounds = Rounds(asked, gate_rates.bench(), noise_model, Told())
        rounds.take(GatePlan(parts=[part], budget_s=None, alpha=ALPHA))
        sds[form] = rounds.metrics[0].judged.sd
    assert sds == {"interleaved": resident.sd, "sequential": 0.07}


# --- error rates of whole gates -------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        cell
        for cell in gate_rates.cells()
        if (cell.evidence, cell.harm) in (("launches", 0.0), ("replicates", 2.0))
    ],
    ids=lambda cell: cell.name,
)
def test_the_gates_that_were_counted_are_those_of_this_code(cell):
    found = next(one for one in KEPT if one.cell == cell)
    ends = [gate(cell, number).outcome for number in range(gate_rates.FIRST)]
    assert {name: ends.count(name) for name in gate_rates.OUTCOMES} == found.first


def test_every_cell_has_ten_thousand_gates():
    assert [one.cell for one in KEPT] == list(gate_rates.cells())
    assert all(sum(one.outcomes.values()) == one.gates >= 10_000 for one in KEPT)


def test_whole_gates_err_at_most_as_often_as_alpha_allows():
    for one in KEPT:
        wrong = {0.0: "regression", 1.0: "pass"}.get(one.cell.harm)
        assert wrong is None or one.share(wrong) <= bound(ALPHA, one.gates), one


def test_a_second_session_takes_false_slowdowns_to_the_square_of_alpha():
    for one in KEPT:
        if one.cell.evidence == "launches" and one.cell.harm == 0.0:
            assert one.share("regression") <= bound(ALPHA**2, one.gates)
