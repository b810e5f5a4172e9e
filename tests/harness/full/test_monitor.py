"""A job under way: what is said, when, and how often."""

from typing import Any

import msgspec
import pytest

from harness.full.cost import Cost
from harness.full.forecast import Estimate
from harness.full.monitor import LOOKS, Course, RunMonitor, rank_alarms
from harness.results.run_files import Progress

COURSE = Course(steps=100, ranks=4, price_usd_per_gpu_hour=2.0)
SECONDS = Estimate(estimate=389.0, low=385.5, high=392.5)  # of 400 steps, but for the first eleven
MORE = Estimate(estimate=789.0, low=781.9, high=796.1)
COST = Cost(
    train_s=SECONDS,
    field_s=SECONDS,
    wall_s=SECONDS,
    usd=None,
    parts=[],
    notes=[],
    stages=[(400, 1.0)],
)


def look(**changes: Any) -> dict[str, Any]:
    told = {
        "compute_s": [1.0, 1.001, 0.999, 1.0],
        "loader_wait_s": [0.0] * 4,
        "sm_clock_mhz": [1980.0] * 4,
        "throttled": [[]] * 4,
    }
    return {**told, **changes}


def kinds(looks: list[dict[str, Any]]) -> list[str]:
    return [f"{alarm.kind} {alarm.about}" for alarm in rank_alarms(looks, step=50)]


def test_equal_ranks_raise_no_alarm():
    assert kinds([look()] * LOOKS) == []


def test_a_rank_that_stays_slow_is_named_with_its_share():
    slow = look(compute_s=[1.0, 1.0, 1.08, 1.0])
    (alarm,) = rank_alarms([slow] * LOOKS, step=50)
    assert (alarm.about, alarm.got) == ("rank 2", "rank 2 takes 8% more")


def test_a_rank_that_is_slow_once_is_nothing():
    slow = look(compute_s=[1.0, 1.0, 1.5, 1.0])
    assert kinds([slow, look(), slow]) == []


def test_where_all_ranks_differ_as_much_none_of_them_is_slow():
    rough = look(compute_s=[1.0, 1.05, 0.95, 1.07])
    assert kinds([rough] * LOOKS) == []


def test_of_two_ranks_the_slow_one_is_named():
    slow = look(compute_s=[1.0, 1.2], loader_wait_s=[0, 0], throttled=[[], []])
    assert kinds([slow] * LOOKS) == ["slow rank rank 1"]


def test_one_rank_alone_is_never_slow():
    alone = {"compute_s": [1.0], "loader_wait_s": [None], "sm_clock_mhz": [None]}
    assert kinds([{**alone, "throttled": [None]}] * LOOKS) == []


def test_heat_holds_clocks_down_and_a_power_limit_at_full_work_is_no_fault():
    hot = look(throttled=[["sw_power_cap"], None, [], ["sw_power_cap", "hw_thermal_slowdown"]])
    (alarm,) = rank_alarms([hot] * LOOKS, step=50)
    assert alarm.about == "rank 3"
    assert "hw_thermal_slowdown, at 1,980 MHz" in alarm.got


def test_a_loader_that_lets_steps_wait_is_told_with_its_share():
    stalled = look(loader_wait_s=[0.0, 0.25, 0.0, 0.0])
    (alarm,) = rank_alarms([stalled] * LOOKS, step=50)
    assert (alarm.kind, alarm.got) == ("loader", "20%")


def test_an_alarm_is_said_once_and_not_again_after_a_restart():
    slow = look(compute_s=[1.0, 1.0, 1.08, 1.0])
    watch = RunMonitor(COURSE, began_s=0.0)
    progress = Progress(step=50, ranks=[slow] * LOOKS)
    first = watch.look(progress, 1.0, None)
    progress.ranks.append(slow)
    assert (len(first), watch.look(progress, 2.0, None)) == (1, [])
    assert RunMonitor(COURSE, began_s=0.0, said=first).look(progress, 1.0, None) == []


@pytest.mark.parametrize(("free", "alarms"), [(16 * 10**9, 0), (14 * 10**9, 1), (None, 0)])
def test_a_disk_without_room_for_the_next_checkpoint_is_told_before_it_is_full(free, alarms):
    course = Course(steps=100, ranks=4, checkpoint_bytes=10**10)
    watch = RunMonitor(course, began_s=0.0)
    assert len(watch.look(Progress(step=3), 1.0, free)) == alarms


def test_time_left_and_money_spent_follow_the_clock():
    watch = RunMonitor(COURSE, began_s=0.0)
    watch.look(Progress(step=10), 100.0, None)
    standing = watch.standing(Progress(step=30), 140.0)
    assert standing.left_s == pytest.approx(70 * 2.0)
    assert standing.usd == pytest.approx(2.0 * 4 * 140 / 3600)


def said_of_time(step_s: float, first_s: float, step_sd: float = 0.0) -> list[str]:
    """What a run of 400 steps is told, foretold at one second each, 0.9 % either way."""
    cost = msgspec.structs.replace(COST, step_sd=step_sd)
    watch = RunMonitor(Course(steps=400, ranks=1, cost=cost), began_s=0.0)
    alarms = []
    for step in range(1, 401):
        train_time_s = first_s * min(step, 11) + step_s * max(0, step - 11)
        alarms += watch.look(Progress(step=step, train_time_s=train_time_s), step, None)
    return [f"{alarm.kind} at {alarm.step}: {alarm.got}" for alarm in alarms]


def test_steps_slower_than_foretold_are_told_once_and_slow_first_steps_are_not():
    assert said_of_time(step_s=1.0, first_s=30.0) == []
    assert said_of_time(step_s=1.01, first_s=1.0) == []
    assert said_of_time(step_s=1.04, first_s=1.0) == ["time at 32: 404.6 s at this pace"]


def test_steps_that_vary_much_are_told_later_that_they_are_slow():
    (told,) = said_of_time(step_s=1.04, first_s=1.0, step_sd=0.2)
    assert told.startswith("time at 357")


def test_stages_of_dearer_steps_are_no_delay_and_count_in_the_time_that_is_left():
    cost = msgspec.structs.replace(COST, stages=[(200, 1.0), (200, 3.0)], field_s=MORE)
    watch = RunMonitor(Course(steps=400, ranks=1, cost=cost), began_s=0.0)
    for step in range(1, 401):
        now_s = float(step + 2 * max(0, step - 200))
        progress = Progress(step=step, train_time_s=now_s)
        assert watch.look(progress, now_s, None) == []
        if step > 1:
            left_s = watch.standing(progress, now_s).left_s
            assert left_s == pytest.approx(800 - now_s)


def test_a_run_that_goes_on_is_judged_behind_its_own_first_steps():
    watch = RunMonitor(Course(steps=400, ranks=1, cost=COST), began_s=0.0)
    for step in range(201, 401):
        slow_s = 20.0 * min(step - 200, 8)
        progress = Progress(step=step, train_time_s=step + slow_s)
        assert watch.look(progress, step, None) == []


def test_a_trainer_that_falls_silent_is_told_of_once_a_step():
    watch = RunMonitor(COURSE, began_s=0.0)
    said = [
        alarm.got
        for step, silent_s in ((7, 290.0), (7, 310.0), (7, 320.0), (8, 0.0), (8, 620.0))
        for alarm in watch.look(Progress(step=step, phase="train", silent_s=silent_s), 1.0, None)
    ]
    assert said == ["none for 5, behind step 7", "none for 10, behind step 8"]


def test_the_time_left_after_a_restart_is_by_the_steps_since_the_checkpoint():
    watch = RunMonitor(COURSE, began_s=0.0)
    watch.look(Progress(step=59), 0.0, None)  # as it was copied from the attempt before
    for step in range(41, 61):
        watch.look(Progress(step=step), 100.0 + step, None)
    assert watch.standing(Progress(step=60), 160.0).left_s == pytest.approx(40.0)


def test_before_two_looks_nothing_is_known_of_the_time_left():
    watch = RunMonitor(COURSE, began_s=0.0)
    watch.look(Progress(step=1), 5.0, None)
    assert watch.standing(Progress(step=1), 5.0).left_s is None
