"""The monitor of a run: which alerts it raises, when, and how often."""

from typing import Any

import msgspec
import pytest

from harness.full.cost import Cost
from harness.full.forecast import Estimate
from harness.full.monitor import REPORTS, MonitorSettings, RunMonitor, rank_alerts
from harness.results.run_files import Progress

SETTINGS = MonitorSettings(steps=100, ranks=4, price_usd_per_gpu_hour=2.0)
SECONDS = Estimate(estimate=389.0, low=385.5, high=392.5)  # of 400 steps, but for the first eleven
MORE = Estimate(estimate=789.0, low=781.9, high=796.1)
COST = Cost(
    train_s=SECONDS,
    leaderboard_s=SECONDS,
    wall_s=SECONDS,
    usd=None,
    parts=[],
    notes=[],
    stages=[(400, 1.0)],
)


def report(**changes: Any) -> dict[str, Any]:
    equal = {
        "compute_s": [1.0, 1.001, 0.999, 1.0],
        "loader_wait_s": [0.0] * 4,
        "sm_clock_mhz": [1980.0] * 4,
        "throttled": [[]] * 4,
    }
    return {**equal, **changes}


def kinds(reports: list[dict[str, Any]]) -> list[str]:
    return [f"{alert.kind} {alert.subject}" for alert in rank_alerts(reports, step=50)]


def test_equal_ranks_raise_no_alert():
    assert kinds([report()] * REPORTS) == []


def test_a_slow_rank_is_named_with_its_share():
    slow = report(compute_s=[1.0, 1.0, 1.08, 1.0])
    (alert,) = rank_alerts([slow] * REPORTS, step=50)
    assert (alert.subject, alert.got) == ("rank 2", "rank 2 takes 8 % more")


def test_a_rank_that_is_slow_once_raises_no_alert():
    slow = report(compute_s=[1.0, 1.0, 1.5, 1.0])
    assert kinds([slow, report(), slow]) == []


def test_a_rank_within_the_spread_of_the_others_is_not_slow():
    rough = report(compute_s=[1.0, 1.05, 0.95, 1.07])
    assert kinds([rough] * REPORTS) == []


def test_the_slow_one_of_two_ranks_is_named():
    slow = report(compute_s=[1.0, 1.2], loader_wait_s=[0, 0], throttled=[[], []])
    assert kinds([slow] * REPORTS) == ["slow rank rank 1"]


def test_one_rank_alone_is_never_slow():
    alone = {"compute_s": [1.0], "loader_wait_s": [None], "sm_clock_mhz": [None]}
    assert kinds([{**alone, "throttled": [None]}] * REPORTS) == []


def test_thermal_throttling_raises_an_alert_and_a_power_limit_does_not():
    hot = report(throttled=[["sw_power_cap"], None, [], ["sw_power_cap", "hw_thermal_slowdown"]])
    (alert,) = rank_alerts([hot] * REPORTS, step=50)
    assert alert.subject == "rank 3"
    assert "hw_thermal_slowdown, at 1,980 MHz" in alert.got


def test_a_slow_loader_is_reported_with_its_share():
    stalled = report(loader_wait_s=[0.0, 0.25, 0.0, 0.0])
    (alert,) = rank_alerts([stalled] * REPORTS, step=50)
    assert (alert.kind, alert.got) == ("loader", "20 %")


def test_an_alert_is_raised_once_and_not_again_after_a_restart():
    slow = report(compute_s=[1.0, 1.0, 1.08, 1.0])
    monitor = RunMonitor(SETTINGS, began_s=0.0)
    progress = Progress(step=50, ranks=[slow] * REPORTS)
    first = monitor.check(progress, 1.0, None)
    progress.ranks.append(slow)
    assert (len(first), monitor.check(progress, 2.0, None)) == (1, [])
    assert RunMonitor(SETTINGS, began_s=0.0, raised=first).check(progress, 1.0, None) == []


@pytest.mark.parametrize(("free", "alerts"), [(16 * 10**9, 0), (14 * 10**9, 1), (None, 0)])
def test_a_disk_without_space_for_the_next_checkpoint_raises_an_alert(free, alerts):
    settings = MonitorSettings(steps=100, ranks=4, checkpoint_bytes=10**10)
    monitor = RunMonitor(settings, began_s=0.0)
    assert len(monitor.check(Progress(step=3), 1.0, free)) == alerts


def test_remaining_time_and_cost_follow_the_clock():
    monitor = RunMonitor(SETTINGS, began_s=0.0)
    monitor.check(Progress(step=10), 100.0, None)
    status = monitor.status(Progress(step=30), 140.0)
    assert status.left_s == pytest.approx(70 * 2.0)
    assert status.usd == pytest.approx(2.0 * 4 * 140 / 3600)


def time_alerts_of(step_s: float, first_s: float, step_sd: float = 0.0) -> list[str]:
    """The alerts of a run of 400 steps, forecast at one second each within 0.9 %."""
    cost = msgspec.structs.replace(COST, step_sd=step_sd)
    monitor = RunMonitor(MonitorSettings(steps=400, ranks=1, cost=cost), began_s=0.0)
    alerts = []
    for step in range(1, 401):
        train_time_s = first_s * min(step, 11) + step_s * max(0, step - 11)
        alerts += monitor.check(Progress(step=step, train_time_s=train_time_s), step, None)
    return [f"{alert.kind} at {alert.step}: {alert.got}" for alert in alerts]


def test_steps_slower_than_forecast_raise_one_alert_and_slow_first_steps_none():
    assert time_alerts_of(step_s=1.0, first_s=30.0) == []
    assert time_alerts_of(step_s=1.01, first_s=1.0) == []
    assert time_alerts_of(step_s=1.04, first_s=1.0) == ["time at 32: 404.6 s at this speed"]


def test_variable_steps_raise_the_alert_later():
    (alert,) = time_alerts_of(step_s=1.04, first_s=1.0, step_sd=0.2)
    assert alert.startswith("time at 357")


def test_slower_stages_are_expected_and_part_of_the_remaining_time():
    cost = msgspec.structs.replace(COST, stages=[(200, 1.0), (200, 3.0)], leaderboard_s=MORE)
    monitor = RunMonitor(MonitorSettings(steps=400, ranks=1, cost=cost), began_s=0.0)
    for step in range(1, 401):
        now_s = float(step + 2 * max(0, step - 200))
        progress = Progress(step=step, train_time_s=now_s)
        assert monitor.check(progress, now_s, None) == []
        if step > 1:
            left_s = monitor.status(progress, now_s).left_s
            assert left_s == pytest.approx(800 - now_s)


def test_a_resumed_run_is_checked_after_its_own_first_steps():
    monitor = RunMonitor(MonitorSettings(steps=400, ranks=1, cost=COST), began_s=0.0)
    for step in range(201, 401):
        slow_s = 20.0 * min(step - 200, 8)
        progress = Progress(step=step, train_time_s=step + slow_s)
        assert monitor.check(progress, step, None) == []


def test_a_silent_trainer_raises_one_alert_per_step():
    monitor = RunMonitor(SETTINGS, began_s=0.0)
    alerts = [
        alert.got
        for step, silent_s in ((7, 290.0), (7, 310.0), (7, 320.0), (8, 0.0), (8, 620.0))
        for alert in monitor.check(Progress(step=step, phase="train", silent_s=silent_s), 1.0, None)
    ]
    assert alerts == ["none for 5 minutes, after step 7", "none for 10 minutes, after step 8"]


def test_the_remaining_time_after_a_restart_counts_from_the_checkpoint():
    monitor = RunMonitor(SETTINGS, began_s=0.0)
    monitor.check(Progress(step=59), 0.0, None)  # as it was copied from the attempt before
    for step in range(41, 61):
        monitor.check(Progress(step=step), 100.0 + step, None)
    assert monitor.status(Progress(step=60), 160.0).left_s == pytest.approx(40.0)


def test_the_remaining_time_is_unknown_before_the_second_check():
    monitor = RunMonitor(SETTINGS, began_s=0.0)
    monitor.check(Progress(step=1), 5.0, None)
    assert monitor.status(Progress(step=1), 5.0).left_s is None
