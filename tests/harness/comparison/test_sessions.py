"""Speeds of one session: what overlaps, what alternates, and what the SD between hosts widens."""

import math

import msgspec
import pytest

from harness.comparison.compare import compare
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.comparison.options import CompareOptions
from harness.comparison.sessions import widened
from harness.report.compare import build_comparison
from harness.results.logs.run_log import LoggedRun
from harness.stats.decision import Difference
from harness.stats.inference import Contrast

HOST = {"GPUs": "8x H100", "driver": "570", "torch": "2.10", "bus ids": "05 06"}
DAY_S = 86_400.0


def row(source, sd, df):
    return NoiseRow(
        scale="toy", metric="train_time_s", gpu="H100", source=source, sd=sd, df=df, runs=100,
        groups=9, origin="shipped",
    )  # fmt: skip


LAUNCH, BETWEEN_HOSTS = row("launch", 0.0013, 500), row("host", 0.0244, 10)
MODEL = NoiseModel([LAUNCH, BETWEEN_HOSTS])


def run(time_s, started_at, **changes):
    fields = {"environment": HOST, "environment_known": True, **changes}
    return LoggedRun(
        source=f"at {started_at:g}",
        family="toy",
        metrics={"train_time_s": time_s},
        steps=100,
        scale="toy",
        gpu="H100",
        started_at=started_at,
        **fields,
    )


def side(level, starts, **changes):
    return [run(level + n / 50, start, **changes) for n, start in enumerate(starts)]


def speed(a, b, noise_model=MODEL):
    found = compare(a, b, CompareOptions(), noise_model)
    return found, found.metrics[0]


BY_TURNS = [0.0, 400.0, 800.0], [200.0, 600.0, 1000.0]


@pytest.mark.parametrize(("level", "outcome"), [(99.0, "pass"), (101.0, "regression")])
def test_sides_that_ran_by_turns_are_of_one_session(level, outcome):
    found, time = speed(side(100.0, BY_TURNS[0]), side(level, BY_TURNS[1]))
    assert (time.outcome, found.findings) == (outcome, [])


@pytest.mark.parametrize("level", [96.13, 104.0])
@pytest.mark.parametrize("later_s", [23 * DAY_S, 1200.0])
def test_sides_that_ran_one_after_the_other_have_the_sd_between_hosts(level, later_s):
    """23 days apart, on servers of one model, or minutes apart: logs do not show the difference."""
    b = side(level, [later_s + start for start in BY_TURNS[0]])
    found, time = speed(side(100.0, BY_TURNS[0]), b)
    assert (time.outcome, found.outcome) == ("inconclusive", "inconclusive")
    assert time.low < 0 < time.high
    own = 0.0013**2 * 2 / 3
    assert time.se == pytest.approx(math.sqrt(own + 2 * 0.0244**2))
    assert 10 < time.df < 10.1
    assert (time.more_runs, time.reason) == (None, "one session needed: run A and B by turns")
    assert "between hosts 2.47 % (10 df)" in time.noise_from
    document = build_comparison(found)
    assert document.blocks[0].items == found.findings
    assert found.findings[0].startswith("speed: all of A ran before all of B")
    assert ("23 days later" in found.findings[0]) == (later_s > DAY_S)


def test_without_a_row_between_hosts_the_speed_is_refused():
    b = side(96.0, [DAY_S, DAY_S + 200])
    found, time = speed(side(100.0, [0.0, 200.0]), b, NoiseModel([LAUNCH]))
    assert (time.outcome, time.low, time.reason) == (
        "inconclusive",
        None,
        "refused: not one session",
    )
    assert "no SD between hosts" in found.findings[0]


def test_a_gap_of_more_than_an_hour_ends_a_session():
    """Both sides ran by turns on two days: they are compared inside each."""
    first = side(100.0, BY_TURNS[0]), side(99.0, BY_TURNS[1])
    later = [[DAY_S + start for start in starts] for starts in BY_TURNS]
    second = side(105.0, later[0]), side(104.0, later[1])
    found, time = speed([*first[0], *second[0]], [*first[1], *second[1]])
    assert (time.method, time.n, found.findings) == ("blocks", (6, 6), [])
    assert time.estimate == pytest.approx(math.log(0.99), abs=1e-3)


def test_runs_outside_the_sessions_of_both_sides_are_left_out():
    a = [*side(100.0, BY_TURNS[0]), run(150.0, 5 * DAY_S)]
    time = speed(a, side(99.0, BY_TURNS[1]))[1]
    assert time.n == (3, 3)
    assert any("only runs of sessions" in note for note in time.notes)


def test_long_runs_without_a_pause_are_one_session():
    a, b = side(7200.0, [0.0, 16_000.0]), side(7200.0, [8000.0, 24_000.0])
    assert speed(a, b)[0].findings == []


def test_records_know_their_session_and_only_note_the_order():
    in_session = {**HOST, "session": "1"}
    a = side(100.0, BY_TURNS[0], environment=in_session)
    b = side(99.0, [3000.0, 3200.0], environment=in_session)
    found, time = speed(a, b)
    assert (time.outcome, found.findings) == ("pass", [])
    assert any("not interleaved: all of A ran first" in note for note in time.notes)


def test_the_session_of_logs_without_start_times_is_assumed_with_a_note():
    a, b = ([run(level + n / 50, 0.0) for n in range(3)] for level in (100.0, 99.0))
    a = [msgspec.structs.replace(one, started_at=None) for one in a]
    assert any("no start times" in note for note in speed(a, b)[1].notes)


def test_the_widened_error_needs_no_spread_of_the_runs_own():
    unknown = Difference(contrast=Contrast(estimate=0.1, se=math.nan, df=0), method="pooled")
    found = widened(unknown, 0.02, 10).contrast
    assert (found.se, found.df) == (pytest.approx(0.02 * math.sqrt(2)), pytest.approx(10))
