"""When a study stops, and what it says then."""

import time

import msgspec
import pytest

from harness import errors
from harness.study.budget_limits import BudgetLimits, StopStudy


def allowance(study, records=(), *, max_minutes=None, split=False, ago_s=0.0):
    return BudgetLimits(
        study,
        records,
        began=time.monotonic() - ago_s,
        max_minutes=max_minutes,
        split_blocks=split,
    )


def block(study):
    return [run for run in study.runs if run.block == 1]


def halted(check, *arguments) -> StopStudy:
    with pytest.raises(StopStudy) as caught:
        check(*arguments)
    return caught.value


def test_without_limits_and_with_unknown_times_everything_goes_on(resolved):
    study = resolved()
    allowance(study).check_block(block(study), 1)
    allowance(study, max_minutes=1).check_block(block(study), 1)
    allowance(study, max_minutes=1).check_run(block(study)[0])


def test_a_run_that_would_end_too_late_is_not_begun(resolved, record):
    study = resolved()
    run = study.runs[0]
    found = allowance(study, [record(run, study)], max_minutes=5, ago_s=4.5 * 60)
    halt = halted(found.check_run, run)
    assert halt.exit_code == errors.STOPPED_AT_LIMIT
    assert "The same command goes on" in halt.reason


def test_a_block_that_cannot_finish_is_begun_only_when_split(resolved, record):
    study = resolved()
    known = [record(study.runs[0], study)]  # 3 runs of 60 s a block
    late = {"max_minutes": 5, "ago_s": 3 * 60}
    halt = halted(allowance(study, known, **late).check_block, block(study), 1)
    assert halt.exit_code == errors.STOPPED_AT_LIMIT
    allowance(study, known, **late, split=True).check_block(block(study), 1)
    allowance(study, known, **late).check_block(block(study), 3)


def test_a_time_in_which_no_block_fits_is_no_limit_to_go_on_at(resolved, record):
    study = resolved()
    known = [record(study.runs[0], study)]
    halt = halted(allowance(study, known, max_minutes=2).check_block, block(study), 1)
    assert halt.exit_code == errors.COULD_NOT_RUN
    assert "--allow-partial-blocks" in halt.reason


def test_the_whole_of_a_study_has_a_limit_of_its_own(resolved, record):
    study = resolved(limits="{total_minutes: 2.5}")
    known = [record(run, study) for run in study.runs[:2]]
    halt = halted(allowance(study, known).check_run, study.runs[2])
    assert halt.exit_code == errors.STOPPED_AT_LIMIT
    assert "limits.total_minutes" in halt.reason


def test_failures_in_a_row_stop_a_study_and_a_good_run_between_them_does_not(resolved, record):
    study = resolved(limits="{failures: 2}")
    found = allowance(study)
    run = study.runs[0]
    for status in ("failed", "completed", "failed"):
        found.add(run, record(run, study, status))
    found.check_failures()
    assert found.keeps_failing(run.arm)
    found.add(run, record(run, study, "failed"))
    halt = halted(found.check_failures)
    assert halt.exit_code == errors.COULD_NOT_RUN
    assert "it broke" in halt.reason


def test_estimates_of_an_arm_come_from_its_own_records_first(resolved, record):
    study = resolved(horizons="[0.5, 1]")
    base = next(run for run in study.runs if run.arm == "base")
    found = allowance(study, [record(base, study)]).estimates
    assert found.wall_s("base") == 60
    assert found.wall_s("base@0.5") == pytest.approx(30)
    other = msgspec.structs.replace(record(base, study), status="failed", wall_s=1.0)
    found.add(other)
    assert found.wall_s("base") == 60
