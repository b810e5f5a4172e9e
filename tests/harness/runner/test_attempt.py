"""Attempts at a run whose previous attempt was interrupted."""

import json
import os
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

import msgspec
import pytest

from harness import files
from harness.results.record import Identity, LaunchInfo, Record, RunPlan
from harness.results.run_files import Progress
from harness.results.store import Store
from harness.runner.attempt import RunSpec, _take_over, newest_checkpoint, recover, run_attempt
from harness.runner.process import Stop
from harness.runner.trainer import NativeTrainer

# leaves a checkpoint and is interrupted; resumed, it takes one more step to its end
TRAINER = """
import json, sys
from pathlib import Path

out, ending, resume = Path(sys.argv[1]), sys.argv[2], "--resume" in sys.argv
checkpoint = out / "checkpoints" / "step-00000001"
assert checkpoint.is_dir() == resume
checkpoint.mkdir(parents=True, exist_ok=True)
step = 2 if resume else 1
with open(out / "events.jsonl", "a") as events:
    print(json.dumps({"event": "step", "step": step, "tokens": step, "loss": 1.0}), file=events)
metrics = {"val_bpb": 1.0, "tokens_per_s": 5.0, "train_time_s": 2.0, "resumes": int(resume)}
status = "completed" if resume else ending
result = {"status": status, "steps": step, "tokens": step, "metrics": metrics}
(out / "result.json").write_text(json.dumps(result))
"""


class Interrupted(NativeTrainer):
    """A trainer whose first process ends with a given status."""

    def __init__(self, ending: str = "interrupted") -> None:
        super().__init__()
        self.ending = ending

    def train_command(self, config_file: Path, run_dir: Path, ranks: int = 1) -> list[str]:
        return [sys.executable, "-c", TRAINER, str(run_dir), self.ending]


JOB = RunSpec(
    plan_id="p",
    seed=1,
    config={},
    identity=Identity(config_id="c", code_id="d", data_id="e", protocol=1),
    derived={"steps": 2},
    tricks={},
    launch=LaunchInfo(),
)


def made_by(store: Store, trainer: Interrupted) -> Record:
    return run_attempt(store, trainer, JOB, timeout_s=20, stop=Stop())


def test_an_interrupted_run_resumes_from_its_checkpoint_with_a_complete_curve(store):
    first, second = (made_by(store, Interrupted()) for _ in range(2))
    assert (first.status, second.status) == ("interrupted", "completed")
    assert store.curve("p").column("step").to_pylist() == [1, 2]
    assert not (store.run_dir("p", first.attempt) / "checkpoints").exists()
    assert (store.run_dir("p", second.attempt) / "checkpoints" / "step-00000001").is_dir()


def test_the_speed_of_a_resumed_run_is_marked_and_not_recorded(store):
    first, second = (made_by(store, Interrupted()) for _ in range(2))
    assert first.metrics["tokens_per_s"] == 5.0
    assert second.metrics["tokens_per_s"] is second.metrics["train_time_s"] is None
    assert second.metrics["val_bpb"] == 1.0
    assert second.metrics["resumes"] == 1
    assert "resumed from a checkpoint" in second.reason


def test_no_checkpoint_is_lost_if_the_harness_is_killed_before_it_moves_them(store):
    first = made_by(store, Interrupted())
    lost = store.new_run_dir("p", time.time())  # its trainer was never started
    launch = json.loads((store.run_dir("p", first.attempt) / "launch.json").read_text())
    launch |= {"attempt": lost.name, "started_at": time.time()}
    (lost / "launch.json").write_text(json.dumps(launch))
    assert [made.status for made in recover(store)] == ["interrupted"]
    assert made_by(store, Interrupted()).status == "completed"


def test_a_run_that_failed_starts_from_its_first_step(store):
    made_by(store, Interrupted("failed"))
    again = made_by(store, Interrupted("failed"))
    assert (again.status, again.steps, again.metrics["resumes"]) == ("failed", 1, 0)


def test_no_run_resumes_past_a_failed_attempt(store):
    first = made_by(store, Interrupted())
    later = first.started_at + 1
    failed = msgspec.structs.replace(first, attempt="b", status="failed", started_at=later)
    store.add(failed, None)
    again = made_by(store, Interrupted("failed"))
    assert (again.status, again.steps, again.metrics["resumes"]) == ("failed", 1, 0)


@pytest.mark.slow
def test_the_native_trainer_resumes_where_the_harness_stopped_it(store, tmp_path):
    (tmp_path / "text").mkdir()
    for name, text in sorted(topics.items())[:30]:
        (tmp_path / "text" / f"{name}.txt").write_text(text, encoding="utf-8")
    config = {
        "dial": {"depth": 2, "steps": 300, "batch_tokens": 256},
        "model": {"width": 64, "context_tokens": 64, "vocab_size": 512},
        "data": {"source": str(tmp_path / "text"), "cache_dir": str(tmp_path / "cache")},
        "eval": {"tokens": 256},
        "system": {"device": "cpu", "compile": False, "calibration_s": 0, "threads": 1},
    }
    job = msgspec.structs.replace(JOB, config=config)
    stop = Stop()

    def stop_at_step_10(latest: Progress) -> None:
        if latest.step >= 10:
            stop.request()

    made = run_attempt(
        store, NativeTrainer(), job, timeout_s=60, stop=stop, on_progress=stop_at_step_10
    )
    assert made.status == "interrupted", made.log_tail
    again = run_attempt(store, NativeTrainer(), job, timeout_s=60, stop=Stop())
    assert (again.status, again.steps, again.metrics["resumes"]) == ("completed", 300, 1)
    assert store.curve("p").column("step").to_pylist() == list(range(1, 301))
    events = (store.run_dir("p", again.attempt) / "events.jsonl").read_text().splitlines()
    resumed = [event for event in map(json.loads, events) if event["event"] == "resumed"]
    assert [event["step"] for event in resumed] == [made.steps]


def leave(store: Store, **changes: object) -> Path:
    """The run directory of a trainer whose harness was killed; `changes`: of its launch.json."""
    run_dir = store.run_dir("p", "a")
    run_dir.mkdir(parents=True)
    plan = RunPlan(
        **{name: getattr(JOB, name) for name in JOB.__struct_fields__ if name != "config"},
        attempt="a",
        trainer="fake",
        started_at=1.0,
        boot_id="b",
    )
    files.write_json(run_dir / "launch.json", {**msgspec.to_builtins(plan), **changes})
    return run_dir


def test_recovery_records_a_run_whose_events_break_the_contract_and_goes_on(store):
    (leave(store) / "events.jsonl").write_text('{"event":"step","step":"one"}\n')
    (record,) = recover(store)
    assert record.status == "failed"
    assert "line 1 of events.jsonl" in record.reason
    assert recover(store) == []
    assert store.records() == [record]


@pytest.mark.parametrize(
    "changes",
    [
        {"plan_id": "../../EVIL"},
        {"plan_id": "other"},
        {"attempt": "../b"},
        {"started_at": float("inf")},
        {"seed": 2**63},
        {"launch": 5},
    ],
)
def test_a_plan_that_a_trainer_has_changed_moves_no_record(store, changes):
    leave(store, **changes)
    assert recover(store) == []
    assert not list(store.root.parent.rglob("*EVIL*"))
    assert store.records() == []


@pytest.mark.parametrize(
    "note", [[], {"pid": "1"}, {"pid": 0, "start_ticks": 5}, {"pid": -1, "start_ticks": 5}, {}]
)
def test_an_invalid_note_of_a_process_ends_no_process(store, note):
    run_dir = leave(store)
    files.write_json(run_dir / "process.json", note)
    assert [record.status for record in recover(store)] == ["interrupted"]


def test_checkpoints_of_other_names_and_missing_events_are_no_fault(store):
    run_dir = leave(store)
    for name in ("step-7", "step-\u00b2", "step-" + "9" * 40, "step-x"):
        (run_dir / "checkpoints" / name).mkdir(parents=True)
    assert newest_checkpoint(run_dir) == 7
    _take_over(run_dir, taken := store.new_run_dir("p", 2.0))
    assert newest_checkpoint(taken) == 7


def test_a_run_that_was_last_written_in_the_future_ends_now(store):
    run_dir = leave(store)
    os.utime(run_dir / "launch.json")
    (run_dir / "log.txt").write_text("x")
    os.utime(run_dir / "log.txt", (1e11, 1e11))
    assert recover(store)[0].ended_at <= time.time()
