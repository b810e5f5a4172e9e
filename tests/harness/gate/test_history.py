"""What earlier gates add to the result of a new one."""

import msgspec
import pytest

from benchmarks.statistics.gate_rates import launched
from harness.comparison.result import MetricResult
from harness.gate import history
from harness.gate.history import conclude
from harness.gate.result import SPEED, GateMetric, GateResult, SideIdentity
from harness.results.record import SESSION_GAP_S

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


@pytest.mark.parametrize(
    ("baseline_hash", "small", "expected"),
    [("h", True, 0.25), ("h", False, None), (None, True, None)],
)
def test_a_loss_against_a_baseline_is_its_own_sum_of_small_harms(baseline_hash, small, expected):
    loss = speed(0.25, small=small)
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


def test_a_gate_gets_the_first_number_that_is_free(store):
    folder = store.root / "gates" / "k"
    assert history.create(store, "k") == (1, folder / "1")
    assert history.create(store, "k") == (2, folder / "2")
    history.save(store, gate("k", 3))  # of a store from another machine: no run directories
    assert history.create(store, "k")[0] == 4
    assert (folder / "4").is_dir()


def test_stored_gates_are_read_back_oldest_first(store):
    times = {"b": [5.0, 3.0], "a": [4.0], "c": [3.0]}
    for key, starts in times.items():
        for number, start in enumerate(starts, start=1):
            history.save(store, gate(key, number, started_at=start))
    found = [(one.started_at, one.number) for one in history.load(store)]
    assert found == [(3.0, 1), (3.0, 2), (4.0, 1), (5.0, 1)]


def test_reserved_memory_is_the_most_of_the_latest_gate_that_launched_a_configuration():
    def launch(a: float | None, b: float | None, device: float = 80.0):
        return msgspec.structs.replace(
            launched(1, [0.0]), reserved_memory_bytes=(a, b), device_memory_bytes=device
        )

    other = SideIdentity(code_id="c", config_id="other")
    stored = [
        gate("k", launches=[launch(50.0, 60.0)]),
        gate("k", 2, b=other, launches=[launch(10.0, 30.0, 40.0), launch(20.0, 5.0, 41.0)]),
        gate("k", 3, launches=[launch(None, None)]),
    ]
    assert history.reserved_memory(stored, "d") == (20.0, 40.0)
    assert history.reserved_memory(stored, "other") == (30.0, 40.0)
    assert history.reserved_memory(stored[:1], "d") == (60.0, 80.0)
    assert history.reserved_memory(stored, "unknown") is None


def test_the_time_of_a_launch_is_the_mean_of_its_configuration_and_mode():
    def launch(seconds: float, mode: str = "interleaved"):
        return msgspec.structs.replace(launched(1, [0.0]), seconds=seconds, mode=mode)

    other = SideIdentity(code_id="c", config_id="other")
    stored = [
        gate("k", launches=[launch(1.0), launch(2.0), launch(50.0, "sequential")]),
        gate("k", 2, a=other, launches=[launch(6.0)]),
        gate("k", 3, a=other, b=other, launches=[launch(90.0)]),
    ]
    assert history.launch_seconds(stored, "d") == 3.0
    assert history.launch_seconds(stored, "d", "sequential") == 50.0
    assert history.launch_seconds(stored, "unknown") is None


def test_readings_are_the_undecided_gates_of_a_question_and_its_evidence():
    undecided = gate("k", metrics=[speed(0.0, "inconclusive"), speed(0.0, "inconclusive")])
    waits = gate(
        "k", metrics=[msgspec.structs.replace(speed(0.0, "inconclusive"), unconfirmed=True)]
    )
    decided = gate("k", metrics=[speed(0.0), speed(0.0, "regression")])
    other = msgspec.structs.replace(undecided, key="other")
    stored = [undecided, waits, decided, other, undecided]
    assert history.readings(stored, "k", "launches") == 2
    assert history.readings(stored, "k", "replicates") == 0


def ended(key: str, number: int, start: float, end: float, *metrics: GateMetric, boot: str = "b"):
    return gate(key, number, started_at=start, ended_at=end, boot_id=boot, metrics=list(metrics))


def test_a_slowdown_counts_once_another_session_has_shown_it():
    slow, gap = speed(0.25, "regression"), SESSION_GAP_S
    first = msgspec.structs.replace(slow, unconfirmed=True)
    now = ended("k", 9, 5 * gap, 6 * gap)
    alone = conclude(now, [slow], [])
    assert (alone.outcome, alone.metrics[0].unconfirmed) == ("inconclusive", True)
    assert alone.reason == "unconfirmed slowdown: a second session has to show it too"
    at_once = conclude(now, [slow], [], confirm=False)
    assert (at_once.outcome, at_once.reason) == ("regression", "worse in speed (unconfirmed)")

    def after(*stored: GateResult) -> str | None:
        return conclude(now, [slow], stored).metrics[0].confirmed_by

    assert after(ended("k", 3, 0, 4 * gap - 1, first)) == "gate k number 3"
    assert after(ended("k", 3, 0, 4 * gap, first)) is None  # one session, without a longer gap
    assert after(ended("k", 3, 0, 4 * gap, first, boot="other")) == "gate k number 3"
    assert after(ended("other", 3, 0, gap, first)) is None
    assert after(ended("k", 3, 0, gap, speed(0.0))) is None
    between = ended("k", 4, 3 * gap, 5 * gap, first)
    assert after(ended("k", 3, 0, 2 * gap, first), between) is None
    assert after(ended("k", 3, 0, 2 * gap - 1, first), between) == "gate k number 3"


def test_a_pass_is_undecided_only_after_a_slowdown_in_the_gate_before():
    slow = gate(
        "k", metrics=[msgspec.structs.replace(speed(0.25, "inconclusive"), unconfirmed=True)]
    )
    passed = gate("k", 2, metrics=[speed(0.0)])
    for stored, outcome in ([slow], "inconclusive"), ([slow, passed], "pass"), ([passed], "pass"):
        assert conclude(gate("k", 3), [speed(0.0)], stored).outcome == outcome
    assert "gate number 1" in conclude(gate("k", 3), [speed(0.0)], [slow]).metrics[0].result.reason
