"""The progress of a running study, and the plan of one that has not started."""

import io

import msgspec
import pytest
from rich.console import Console

from harness.report.study import plan
from harness.report.study.progress import StudyProgress
from harness.report.terminal import print_document
from harness.results.run_files import Progress
from harness.study import budget
from harness.study.run import StudyPlan


@pytest.fixture
def study(resolved):
    return resolved(arms="{leave_one_out: [value_embeddings, muon]}", set="{dial.steps: null}")


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, no_color=True)


def test_a_terminal_shows_every_arm_the_current_step_and_the_time_left(study, store, record):
    screen = console(True)
    run = study.runs[0]
    progress = StudyProgress(screen)
    progress.phase_started(study, store)
    progress.run_started(run, "")
    progress.run_progress(run, Progress(step=10, tokens=5, loss=4.25, step_s=0.5))
    progress.time_left(120.0)
    progress.run_ended(study.runs[1], msgspec.structs.replace(record(study.runs[1], study), gpus=1))
    progress.phase_ended()
    text = screen.file.getvalue()
    for text_shown in (
        "base",
        "no_muon",
        "seed 1",
        "step 10",
        "loss 4.250",
        "2.0 min left",
        "tokens/s",
    ):
        assert text_shown in text
    assert "tokens/s" in text
    assert "60 GPU-seconds" in text


def test_a_log_has_one_line_for_each_run_and_the_reason_of_a_failure(study, store, record):
    screen = console(False)
    progress = StudyProgress(screen)
    progress.phase_started(study, store)
    progress.run_ended(study.runs[0], record(study.runs[0], study))
    progress.run_ended(study.runs[1], record(study.runs[1], study, "failed"))
    progress.phase_ended()
    lines = screen.file.getvalue().splitlines()
    assert lines[0] == "quick: 0 of 6 runs are recorded."
    assert lines[1].startswith("[1/6]")
    assert lines[2].endswith("it broke")
    assert len(lines) == 3


def test_a_phase_without_runs_is_not_announced_twice(study, store):
    screen = console(False)
    progress = StudyProgress(screen)
    for _ in range(2):
        progress.phase_started(study, store)
        progress.phase_ended()
    assert screen.file.getvalue() == "quick: 0 of 6 runs are recorded.\n"


def test_runs_that_are_recorded_are_shown_from_the_start(study, store, record):
    store.add(record(study.runs[0], study), None)
    screen = console(False)
    StudyProgress(screen).phase_started(study, store)
    assert "1 of 6 runs are recorded" in screen.file.getvalue()


def printed_plan(study, blocked=()):
    screen = console(False)
    cost = budget.plan(study, [])
    document = plan.build(StudyPlan(study=study, budget=cost, blocked=[*blocked], notes=[]))
    print_document(screen, document)
    return screen.file.getvalue()


def test_a_plan_names_pins_untuned_fields_and_unknowns(study):
    text = printed_plan(study)
    assert "untuned: optimizer.adamw_lr" in text
    assert "pinned: dial.steps = " in text
    assert "time: unknown" in text
    assert "the SD is unknown" in text


def test_a_plan_with_own_pins_states_that_first(resolved):
    study = resolved(pin="own")
    assert printed_plan(study).startswith("pin: own")


def test_a_blocked_plan_begins_with_the_reason(study):
    text = printed_plan(study, blocked=["another process runs the study"])
    assert "The study quick cannot start: another process runs the study" in text.splitlines()[0]
