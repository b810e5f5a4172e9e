"""Running and planning a study from Python: no terminal, progress through a listener."""

import threading

import pytest

from harness import errors
from harness.config.study_file import load_study
from harness.errors import StudyFileError
from harness.study.executor import SilentListener, StudyOptions, study_lock
from harness.study.run import plan_study, run_study, with_overrides


class Recorder(SilentListener):
    """Keeps what it receives."""

    def __init__(self):
        self.events, self.messages, self.lock = [], [], threading.Lock()

    def phase_started(self, study, store):
        self.events.append("phase started")

    def phase_ended(self):
        self.events.append("phase ended")

    def run_started(self, planned, gpu):
        with self.lock:
            self.events.append(f"{planned.arm} started")

    def run_ended(self, planned, record):
        self.events.append(f"{planned.arm} {record.status}")

    def message(self, text):
        self.messages.append(text)


def test_a_listener_receives_every_run_and_nothing_is_printed(study_file, store, capfd):
    path, listener = study_file(seeds="[1]"), Recorder()
    result = run_study(load_study(path), path, store, listener=listener, command_line="from python")
    assert (result.exit_code, result.reason) == (errors.PASS, "All runs are recorded.")
    assert listener.events[0] == "phase started"
    assert listener.events[-1] == "phase ended"
    assert sorted(listener.events[1:-1]) == sorted(
        f"{arm.name} {event}" for arm in result.study.arms for event in ("started", "completed")
    )
    assert result.study.command == "from python"
    assert capfd.readouterr() == ("", "")


def test_a_sweep_with_a_space_needs_a_search(study_file, store):
    space = "{optimizer.adamw_lr: {float: [0.001, 0.01], log: true}}"
    retune = f"{{muon: {{space: {space}, trials: 4, seeds: [7, 8]}}}}"
    path = study_file(arms=f"{{leave_one_out: [muon], retune: {retune}}}")
    with pytest.raises(StudyFileError, match="which a search fills"):
        run_study(load_study(path), path, store)


def test_seeds_of_the_stored_study_are_run_too_and_announced(study_file, store):
    path, listener = study_file(seeds="[1]"), Recorder()
    run_study(load_study(path), path, store)
    other = with_overrides(load_study(path), seeds=[2])
    result = run_study(other, path, store, listener=listener)
    assert result.study.seeds == [1, 2]
    assert "The stored study also has the seeds 1: they are run with the others." in (
        listener.messages
    )


def test_a_plan_is_blocked_while_another_process_runs_the_study(study_file, store):
    path = study_file()
    with study_lock(store, "quick"):
        plan = plan_study(load_study(path), path, store, measure=False)
    assert "another harness" in plan.blocked[0]
    assert plan_study(load_study(path), path, store, measure=False).blocked == []


def test_a_plan_is_blocked_where_no_block_fits_into_the_limit(study_file, store):
    path = study_file()
    run_study(load_study(path), path, store)
    more = with_overrides(load_study(path), seeds=[3])
    options = StudyOptions(max_minutes=1e-6)
    plan = plan_study(more, path, store, options, measure=False)
    assert "--allow-partial-blocks" in plan.blocked[0]
    partial = StudyOptions(max_minutes=1e-6, allow_partial_blocks=True)
    assert "the next run takes" in plan_study(more, path, store, partial).blocked[0]
