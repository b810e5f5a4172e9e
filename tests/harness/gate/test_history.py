"""What earlier gates add to the result of a new one."""

import msgspec
import pytest

from harness.comparison.result import MetricResult
from harness.gate.history import conclude
from harness.gate.result import SPEED, GateMetric, GateResult, SideIdentity

SIDE = SideIdentity(code_id="c", config_id="d")


def gate(key: str, number: int = 1, **changes: object) -> GateResult:
    made = GateResult(
        key=key, number=number, outcome="inconclusive", reason="", alpha=0.05, claim="ml",
        a=SIDE, b=SIDE, metrics=[],
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def speed(harm: float, outcome: str = "pass", small: bool = True) -> GateMetric:
    result = MetricResult(
        metric=SPEED, title="speed", unit="", scale="log", better="higher", n=(2, 2),
        means=(1.0, 1.0), estimate=-harm, outcome=outcome, small_harm=small,
    )  # fmt: skip
    return GateMetric(result=result, evidence="launches", look=1, looks=1)


def sum_after(*stored: GateResult, now: GateResult, harm: float = 0.25) -> float | None:
    (found,) = conclude(now, [speed(harm)], stored).metrics
    return found.small_harms


def test_each_comparison_counts_once_in_the_sum_of_small_harms():
    def earlier(key: str, harm: float = 0.125, **changes: object) -> GateResult:
        return gate(key, metrics=[speed(harm)], **changes)

    assert sum_after(now=gate("k")) == 0.25
    assert sum_after(earlier("k"), now=gate("k", 2)) == 0.25
    assert sum_after(earlier("x", 1.0), earlier("x"), earlier("y"), now=gate("k")) == 0.5
    slower = gate("y", metrics=[speed(0.125, "regression")])
    assert sum_after(earlier("x"), slower, now=gate("k")) == 0.375
    assert sum_after(gate("x", metrics=[speed(0.125, small=False)]), now=gate("k")) == 0.25
    other = SideIdentity(code_id="c", config_id="other")
    assert sum_after(earlier("x", a=other), now=gate("k")) == 0.25
    assert sum_after(earlier("x", baseline_hash="h"), now=gate("k")) == 0.25
    based = gate("k", baseline_hash="h")
    assert sum_after(earlier("x"), earlier("y", a=other, baseline_hash="h"), now=based) == 0.375


@pytest.mark.parametrize(("baseline_hash", "expected"), [("h", 0.25), (None, None)])
def test_a_loss_against_a_baseline_is_its_own_sum_of_small_harms(baseline_hash, expected):
    loss = speed(0.25)
    loss = msgspec.structs.replace(
        loss,
        result=msgspec.structs.replace(
            loss.result, metric="val_bpb", better="lower", estimate=0.25
        ),
        evidence="replicates",
    )
    now = gate("k", baseline_hash=baseline_hash)
    assert (
        conclude(now, [loss], [gate("x", metrics=[speed(1.0)])]).metrics[0].small_harms == expected
    )
