"""Records of run directories, whatever a trainer left in them."""

import json
import math
import os
from pathlib import Path

import msgspec
import pytest

from harness.results.record import (
    RECORD_BYTES,
    Identity,
    LaunchInfo,
    ProcessEnd,
    Record,
    RunPlan,
    collect_record,
    curve_table,
    sessions,
)

PLAN = RunPlan(
    plan_id="p",
    attempt="a",
    trainer="fake",
    seed=1,
    identity=Identity(config_id="c", code_id="d", data_id="e", protocol=1),
    derived={"steps": 3},
    tricks={"muon": True},
    launch=LaunchInfo(study="s", arm="base", block=1),
    started_at=100.0,
    boot_id="boot",
)
GOOD = {"status": "completed", "steps": 3, "tokens": 30, "metrics": {"val_bpb": 1.5, "core": None}}


def ended(returncode: int = 0, cause: str | None = None) -> ProcessEnd:
    return ProcessEnd(returncode=returncode, cause=cause, ended_at=110.0, trainer_s=9.0, limit_s=60)


def result(folder: Path, value: object = GOOD) -> None:
    (folder / "result.json").write_text(json.dumps(value))


def test_a_completed_run_keeps_its_metrics_and_the_overhead_of_the_harness(tmp_path):
    result(tmp_path)
    made = collect_record(tmp_path, PLAN, ended(), concurrent_runs=3)
    assert made.status == "completed"
    assert made.metrics == {"val_bpb": 1.5, "core": None}
    assert made.wall_s - made.trainer_s == pytest.approx(1.0)
    assert made.concurrent_runs == 3
    assert made.log_tail is None


def test_an_incomplete_result_is_a_failed_run_with_the_tail_of_its_log(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(GOOD)[:20])
    (tmp_path / "log.txt").write_text("x" * 9000 + "the end")
    made = collect_record(tmp_path, PLAN, ended(1))
    assert made.status == "failed"
    assert "half a result.json" in made.reason
    assert made.log_tail.endswith("the end")
    assert len(made.log_tail) <= 2000


def test_a_missing_result_is_a_failed_run_with_the_way_it_ended(tmp_path):
    made = collect_record(tmp_path, PLAN, ended(-9))
    assert made.status == "failed"
    assert "SIGKILL" in made.reason
    assert "memory" in made.hint


@pytest.mark.parametrize(
    "value", [[], {"status": "completed"}, {**GOOD, "status": "fine"}, {**GOOD, "steps": "three"}]
)
def test_a_result_that_breaks_the_contract_is_a_failed_run(tmp_path, value):
    result(tmp_path, value)
    made = collect_record(tmp_path, PLAN, ended())
    assert made.status == "failed"
    assert "result.json" in made.reason


@pytest.mark.parametrize("text", ["NaN", "Infinity", "0", "-1.5"])
def test_a_loss_that_is_no_measurement_becomes_null_with_a_reason(tmp_path, text):
    (tmp_path / "result.json").write_text(json.dumps(GOOD).replace("1.5", text))
    made = collect_record(tmp_path, PLAN, ended())
    assert made.metrics["val_bpb"] is None
    assert "val_bpb" in made.reason
    assert math.isfinite(json.loads(msgspec.json.encode(made))["wall_s"])


def test_a_run_that_timed_out_failed_even_if_its_result_is_interrupted(tmp_path):
    result(tmp_path, {**GOOD, "status": "interrupted"})
    made = collect_record(tmp_path, PLAN, ended(3, "time-out"))
    assert made.status == "failed"
    assert "limit of 1 minutes" in made.reason


def test_a_complete_result_counts_even_if_the_process_failed_afterwards(tmp_path):
    result(tmp_path)
    made = collect_record(tmp_path, PLAN, ended(-11))
    assert made.status == "completed"
    assert "SIGSEGV" in made.reason


def test_an_incomplete_line_of_events_is_skipped(tmp_path):
    lines = [
        {"event": "step", "step": 1, "tokens": 10, "loss": 5.0, "train_time_s": 0.1},
        {"event": "step", "step": 2, "tokens": 20, "loss": 4.0, "train_time_s": 0.2},
        {"event": "evaluation", "step": 2, "tokens": 20, "train_time_s": 0.2, "val_bpb": 1.5},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"event":"step","st'
    (tmp_path / "events.jsonl").write_text(text)
    made = collect_record(tmp_path, PLAN, ended(1))
    assert (made.steps, made.tokens) == (2, 20)
    table = curve_table(tmp_path)
    assert table.column("step").to_pylist() == [1, 2]
    assert table.column("train_loss").to_pylist() == [5.0, 4.0]
    assert table.column("val_bpb").to_pylist() == [None, 1.5]
    assert table.column("val_loss").null_count == 2


def test_a_run_without_events_has_no_curve(tmp_path):
    assert curve_table(tmp_path) is None


def test_a_record_stays_small_and_lists_what_it_leaves_out(tmp_path):
    result(tmp_path)
    plan = {str(number): "x" * 20 for number in range(800)}
    (tmp_path / "environment.json").write_text(
        json.dumps({"environment_id": "e", "kernel_plan": plan, "gpus": [{"name": "g"}]})
    )
    made = collect_record(tmp_path, PLAN, ended())
    assert len(msgspec.json.encode(made)) <= RECORD_BYTES
    assert made.environment["left_in_run_directory"] == ["kernel_plan"]
    assert made.environment_id == "e"
    assert made.gpus == 1


def record_at(start: float, end: float, machine: str = "m", boot: str = "b") -> Record:
    made = collect_record(Path("/nonexistent"), PLAN, ended(1))
    return msgspec.structs.replace(
        made, started_at=start, ended_at=end, environment_id=machine, boot_id=boot
    )


def test_a_session_ends_after_a_gap_of_ten_minutes_or_with_another_machine_or_boot():
    runs = [
        record_at(0, 100),
        record_at(690, 800),  # 590 s later: the same
        record_at(1401, 1500),  # 601 s later: another
        record_at(1500, 1600, machine="n"),
        record_at(1510, 1600, boot="c"),
        record_at(1550, 1700),
    ]
    grouped = sessions(reversed(runs))
    assert [[r.started_at for r in one] for one in grouped] == [
        [0, 690],
        [1401, 1550],
        [1500],
        [1510],
    ]


def test_a_long_run_keeps_its_session_open():
    grouped = sessions([record_at(0, 5000), record_at(10, 20), record_at(5100, 5200)])
    assert len(grouped) == 1


def test_a_run_without_an_environment_keeps_the_session_open():
    grouped = sessions([record_at(0, 10), record_at(20, 900, machine=""), record_at(950, 990)])
    assert [[r.started_at for r in one] for one in grouped] == [[0, 20, 950]]
    runs = [("m", 0, 100), ("n", 200, 300), ("", 310, 900), ("n", 950, 990)]  # one boot
    grouped = sessions(record_at(start, end, machine) for machine, start, end in runs)
    assert [[r.started_at for r in one] for one in grouped] == [[0], [200, 310, 950]]


STEP = {"event": "step", "step": 3, "tokens": 30, "loss": 1.0}
ODD_EVENTS = [
    b'{"event":"step","step":"one"}',
    b'{"event":"step","step":1,"tokens":1e999}',
    b'{"event":"step","step":1,"tokens":-5}',
    b'{"event":"step","step":1' + b"0" * 40 + b"}",
    b'{"event":"evaluation","step":1,"val_bpb":"low"}',
    b'{"event":"ranks","compute_s":[[1.0]]}',
    b'{"event":{"a":1}}',
    b"[" * 5000 + b"]" * 5000,
    b'{"event":"note","deep":' + b"[" * 100 + b"]" * 100 + b"}",
    b"5",
]


@pytest.mark.parametrize("line", ODD_EVENTS)
@pytest.mark.parametrize("completed", [True, False])
def test_an_event_that_breaks_the_contract_makes_a_failed_run_that_names_the_line(
    tmp_path, line, completed
):
    if completed:
        result(tmp_path)
    (tmp_path / "events.jsonl").write_bytes(json.dumps(STEP).encode() + b"\n" + line + b"\n")
    made = collect_record(tmp_path, PLAN, ended())
    assert made.status == "failed"
    assert "line 2 of events.jsonl" in made.reason
    assert (made.steps, made.tokens) == (3, 30)
    assert curve_table(tmp_path).column("step").to_pylist() == [3]
    assert msgspec.json.decode(msgspec.json.encode(made), type=Record) == made


def test_half_a_line_and_a_loss_that_is_not_a_number_are_no_fault(tmp_path):
    result(tmp_path)
    text = '{"event": "step", "step": 1, "loss": NaN}\n{"event": "step", "st'
    (tmp_path / "events.jsonl").write_text(text)
    assert collect_record(tmp_path, PLAN, ended()).status == "completed"


@pytest.mark.parametrize("name", ["result.json", "environment.json", "events.jsonl", "log.txt"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link to itself", "bytes"])
def test_whatever_stands_in_place_of_a_file_a_record_is_made(tmp_path, name, kind):
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "bytes":
        path.write_bytes(b"\xff\xfe\x00" * 9)
    else:
        path.symlink_to(path)
    made = collect_record(tmp_path, PLAN, ended(1))
    assert made.status == "failed"
    assert msgspec.json.decode(msgspec.json.encode(made), type=Record) == made


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('{"status": "completed", "steps": -3, "tokens": 30, "metrics": {}}', "failed"),
        ('{"status": "completed", "steps": 3, "tokens": 1e999, "metrics": {}}', "failed"),
        (json.dumps({**GOOD, "metrics": {f"m{n}": 1.0 for n in range(5000)}}), "failed"),
        (json.dumps({**GOOD, "metrics": {"m" * 5000: 1.0}}), "failed"),
        (json.dumps({**GOOD, "reason": "long " * 9000, "hint": "long " * 9000}), "completed"),
        (json.dumps({**GOOD, "reason": "half \ud800"}), "completed"),
        ('{"status": "completed", "metrics": ' + "[" * 5000, "failed"),
    ],
)
def test_an_odd_result_gives_a_record_that_can_be_stored_and_read(tmp_path, text, status):
    (tmp_path / "result.json").write_text(text)
    made = collect_record(tmp_path, PLAN, ended())
    assert made.status == status
    stored = msgspec.json.encode(made)
    assert len(stored) <= RECORD_BYTES
    assert msgspec.json.decode(stored, type=Record) == made


@pytest.mark.parametrize(
    "environment",
    [
        {"environment_id": "x" * 9000, "gpus": "eight"},
        {"environment_id": {"a": 1}, "cpu": [1], "deep": None},
        {"gpus": [1, None], "big": 2**80},
    ],
)
def test_an_odd_environment_costs_no_record(tmp_path, environment):
    result(tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    made = collect_record(tmp_path, PLAN, ended())
    assert made.status == "completed"
    assert msgspec.json.decode(msgspec.json.encode(made), type=Record) == made


@pytest.mark.parametrize(
    ("returncode", "cause", "text"),
    [
        (3, None, "ended with exit code 3"),
        (-9, None, "was killed by SIGKILL"),
        (-9, "time-out", "was ended at its limit of 1 minutes"),
        (-15, "stopped", "was stopped together with the harness"),
        (-15, "pruned", "was pruned by its search"),
        (-15, "harness gone", "was ended because its harness was gone"),
    ],
)
def test_a_run_without_a_result_has_the_end_of_its_process_as_its_reason(
    tmp_path, returncode, cause, text
):
    end = ended(returncode, cause)
    made = collect_record(tmp_path, PLAN, end)
    assert end.describe() == text
    assert made.reason == f"the trainer {text} and left no result.json"
    stopped = cause in ("stopped", "pruned", "harness gone")
    assert made.status == ("interrupted" if stopped else "failed")
    assert ("see dmesg" in made.hint) == (cause is None and returncode == -9)
    assert made.signal == (9 if cause is None and returncode == -9 else None)


@pytest.mark.parametrize(
    ("cause", "status", "expected", "reason"),
    [
        ("time-out", "interrupted", "failed", "was ended at its limit of 1 minutes"),
        ("time-out", "completed", "completed", "why"),
        ("pruned", "interrupted", "interrupted", "was pruned by its search"),
        ("pruned", "diverged", "diverged", "why"),
        ("stopped", "interrupted", "interrupted", "why"),
    ],
)
def test_the_end_of_a_process_is_the_reason_only_where_it_interrupted_the_run(
    tmp_path, cause, status, expected, reason
):
    result(tmp_path, {**GOOD, "status": status, "reason": "why"})
    made = collect_record(tmp_path, PLAN, ended(0, cause))
    assert (made.status, made.reason) == (expected, reason)


def test_a_result_that_the_trainer_did_not_survive_is_kept_with_its_exit_code(tmp_path):
    result(tmp_path)
    made = collect_record(tmp_path, PLAN, ended(1))
    assert (made.status, made.metrics["val_bpb"]) == ("completed", 1.5)
    assert made.reason == "the trainer wrote its result and then ended with exit code 1"
    helpers = msgspec.structs.replace(ended(), outlived_by=["1 a", "2 b", "3 c", "4 d"])
    left = "4 of its processes outlived it and were ended: 1 a, 2 b, 3 c"
    assert collect_record(tmp_path, PLAN, helpers).reason == left


def test_a_number_that_is_no_measurement_is_left_out_and_named(tmp_path):
    result(tmp_path, {**GOOD, "metrics": {"val_bpb": -1.0, "tokens_per_s": 5.0, "core": None}})
    made = collect_record(tmp_path, PLAN, ended())
    assert made.metrics == {"val_bpb": None, "tokens_per_s": 5.0, "core": None}
    assert made.reason == "val_bpb was -1.0 and is recorded as not measured"


@pytest.mark.parametrize(
    ("count", "length", "status"),
    [(100, 100, "completed"), (101, 100, "failed"), (1, 101, "failed")],
)
def test_a_result_has_at_most_a_hundred_metrics_with_names_of_a_hundred_letters(
    tmp_path, count, length, status
):
    result(tmp_path, {**GOOD, "metrics": {f"{n:0{length}}": None for n in range(count)}})
    assert collect_record(tmp_path, PLAN, ended()).status == status


@pytest.mark.parametrize(("length", "kept"), [(1000, "x" * 1000), (1001, "x" * 996 + " ...")])
def test_a_reason_of_more_than_a_thousand_letters_is_shortened(tmp_path, length, kept):
    result(tmp_path, {**GOOD, "reason": "x" * length})
    assert collect_record(tmp_path, PLAN, ended()).reason == kept


def test_sessions_do_not_depend_on_the_order_of_the_records():
    records = [record_at(0, 900), record_at(10, 20), record_at(1500, 1600), record_at(2201, 2300)]
    for ordered in (records, records[::-1]):
        grouped = [[one.started_at for one in session] for session in sessions(ordered)]
        assert grouped == [[0, 10, 1500], [2201]]
