"""When a study stops, and the reason that it gives."""

import time

import msgspec
import pytest

from harness import errors
from harness.study.budget_limits import BudgetLimits, StopStudy


def limits(study, records=(), *, max_minutes=None, partial=False, ago_s=0.0):
    return BudgetLimits(
        study,
        records,
        began=time.monotonic() - ago_s,
        max_minutes=max_minutes,
        allow_partial_blocks=partial,
    )


def block(study):
    return [run for run in study.runs if run.block == 1]


def stopped(check, *arguments) -> StopStudy:
    with pytest.raises(StopStudy) as caught:
        check(*arguments)
    return caught.value


def test_without_limits_or_known_times_nothing_stops(resolved):
    study = resolved()
    limits(study).check_block(block(study), 1)
    limits(study, max_minutes=1).check_block(block(study), 1)
    limits(study, max_minutes=1).check_run(block(study)[0])


def test_a_run_that_would_end_too_late_is_not_started(resolved, record):
    study = resolved()
    run = study.runs[0]
    checked = limits(study, [record(run, study)], max_minutes=5, ago_s=4.5 * 60)
    stop = stopped(checked.check_run, run)
    assert stop.exit_code == errors.STOPPED_AT_LIMIT
    assert "Re-run the same command to resume" in stop.reason


def test_a_block_that_cannot_finish_is_started_only_with_partial_blocks_allowed(resolved, record):
    study = resolved()
    known = [record(study.runs[0], study)]  # 3 runs of 60 s a block
    late = {"max_minutes": 5, "ago_s": 3 * 60}
    stop = stopped(limits(study, known, **late).check_block, block(study), 1)
    assert stop.exit_code == errors.STOPPED_AT_LIMIT
    limits(study, known, **late, partial=True).check_block(block(study), 1)
    limits(study, known, **late).check_block(block(study), 3)


def test_a_time_too_short_for_any_block_cannot_be_resumed_from(resolved, record):
    study = resolved()
    known = [record(study.runs[0], study)]
    stop = stopped(limits(study, known, max_minutes=2).check_block, block(study), 1)
    assert stop.exit_code == errors.COULD_NOT_RUN
    assert "--allow-partial-blocks" in stop.reason


def test_all_runs_of_a_study_together_have_a_limit(resolved, record):
    study = resolved(limits="{total_minutes: 2.5}")
    known = [record(run, study) for run in study.runs[:2]]
    stop = stopped(limits(study, known).check_run, study.runs[2])
    assert stop.exit_code == errors.STOPPED_AT_LIMIT
    assert "limits.total_minutes" in stop.reason


def test_only_failures_without_a_completed_run_between_them_stop_a_study(resolved, record):
    study = resolved(limits="{failures: 2}")
    checked = limits(study)
    run = study.runs[0]
    for status in ("failed", "completed", "failed"):
        checked.add(run, record(run, study, status))
    checked.check_failures()
    assert checked.keeps_failing(run.arm)
    checked.add(run, record(run, study, "failed"))
    stop = stopped(checked.check_failures)
    assert stop.exit_code == errors.COULD_NOT_RUN
    assert "it broke" in stop.reason


def test_estimates_of_an_arm_come_from_its_own_records_first(resolved, record):
    study = resolved(horizons="[0.5, 1]")
    base = next(run for run in study.runs if run.arm == "base")
    estimates = limits(study, [record(base, study)]).estimates
    assert estimates.wall_s("base") == 60
    assert estimates.wall_s("base@0.5") == pytest.approx(30)
    other = msgspec.structs.replace(record(base, study), status="failed", wall_s=1.0)
    estimates.add(other)
    assert estimates.wall_s("base") == 60
