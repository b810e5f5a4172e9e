"""What is shown while a study runs, and of a plan before it does."""

import io

import msgspec
import pytest
from rich.console import Console

from harness.report.study.plan_table import print_plan
from harness.report.study.progress import StudyProgress, cost
from harness.results.run_files import Progress
from harness.study import budget


@pytest.fixture
def study(resolved):
    return resolved(arms="{leave_one_out: [value_embeddings, muon]}", set="{dial.steps: null}")


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, no_color=True)


def test_a_terminal_shows_every_arm_the_running_step_and_the_time_left(study, store, record):
    screen = console(True)
    run = study.runs[0]
    with StudyProgress(screen, study, store) as live:
        live.started(run, "")
        live.progress(run, Progress(step=10, tokens=5, loss=4.25, step_s=0.5))
        live.refresh(120.0)
        live.ended(study.runs[1], msgspec.structs.replace(record(study.runs[1], study), gpus=1))
    text = screen.file.getvalue()
    for words in ("base", "no_muon", "seed 1", "step 10", "loss 4.250", "2 min left", "tokens/s"):
        assert words in text
    assert "60 GPU-s" in text


def test_a_log_has_one_line_for_each_run_and_its_reason(study, store, record):
    screen = console(False)
    with StudyProgress(screen, study, store) as live:
        live.ended(study.runs[0], record(study.runs[0], study))
        live.ended(study.runs[1], record(study.runs[1], study, "failed"))
    lines = screen.file.getvalue().splitlines()
    assert lines[0] == "quick: 0 of 6 runs are recorded"
    assert lines[1].startswith("[1/6]")
    assert lines[2].endswith("it broke")
    assert len(lines) == 3


def test_what_is_recorded_already_is_shown_from_the_start(study, store, record):
    store.add(record(study.runs[0], study), None)
    screen = console(False)
    with StudyProgress(screen, study, store):
        pass
    assert "1 of 6 runs are recorded" in screen.file.getvalue()


def test_a_price_turns_seconds_into_dollars():
    assert cost(3600, None) == "3,600 GPU-s"
    assert cost(3600, 2.5) == "3,600 GPU-s = 2.50 USD"


def test_a_plan_names_pins_untuned_fields_and_unknowns(study):
    screen = console(False)
    print_plan(screen, study, budget.plan(study, []))
    text = screen.file.getvalue()
    assert "untuned: optimizer.adamw_lr" in text
    assert "dial.steps=" in text
    assert "time: unknown" in text
    assert "the SD is unknown" in text


def test_a_plan_with_own_pins_says_so_first(resolved):
    study = resolved(pin="own")
    screen = console(False)
    print_plan(screen, study, budget.plan(study, []))
    assert screen.file.getvalue().startswith("pin: own")
