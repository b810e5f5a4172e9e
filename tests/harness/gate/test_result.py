"""What a plan and a result of a gate derive from their parts."""

import pytest

from harness.gate.result import GatePlan, GateResult, LookSchedule, PartPlan, SideIdentity, worst


def part(n_b: int, unit_s: float | None = 5.0, rule: str = "group_sequential") -> PartPlan:
    return PartPlan(
        evidence="launches", metric="tokens_per_s", n_a=n_b, n_b=n_b, looks=[], unit_s=unit_s,
        margin=None, sd=None, df=None, minimum_detectable=None, p_pass_if_unchanged=None,
        p_regression_at_margin=None, rule=rule,
    )  # fmt: skip


def test_a_plan_takes_as_long_as_all_of_its_parts_and_an_unknown_part_makes_it_unknown():
    assert [part(3).seconds, part(0, None).seconds, part(3, None).seconds] == [15.0, 0.0, None]

    def seconds(*parts: PartPlan) -> float | None:
        return GatePlan(parts=list(parts), budget_s=None, alpha=0.05).seconds

    assert seconds(part(3), part(0, None), part(2)) == 25.0
    assert seconds(part(3), part(3, None)) is None


def test_looks_are_at_the_planned_numbers_or_at_every_number():
    planned, always = LookSchedule(looks=[2, 4]), LookSchedule(looks=[], rule="always_valid")
    assert (planned.max_looks, always.max_looks) == (2, 64)
    assert [planned.look_after(n) for n in range(1, 6)] == [None, 1, None, 2, None]
    assert always.look_after(3) == 3
    assert (part(3).max_n, part(3, rule="always_valid").max_n) == (3, 64)


def test_the_exit_code_of_a_plan_is_whether_it_would_start():
    plan = GatePlan(parts=[], budget_s=None, alpha=0.05)
    assert plan.exit_code == 0
    assert GatePlan(parts=[], budget_s=None, alpha=0.05, blocked="no time").exit_code == 4


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], "inconclusive"),
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["regression", "inconclusive", "pass"], "regression"),
        (["regression", "could not run"], "could not run"),
    ],
)
def test_the_worst_outcome_decides(outcomes, expected):
    assert worst(outcomes) == expected


def test_a_gate_that_started_nothing_has_no_times_and_its_exit_code():
    side = SideIdentity(code_id="c", config_id="d")
    result = GateResult(
        key="k", number=0, outcome="could not run", reason="", alpha=0.05, claim="ml", a=side,
        b=side, metrics=[],
    )  # fmt: skip
    assert (result.started_at, result.ended_at, result.exit_code) == (0.0, 0.0, 4)
