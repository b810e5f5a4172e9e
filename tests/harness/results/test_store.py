"""The store loses no record, writes none twice and reads no incomplete file."""

import json
import multiprocessing
import os
from pathlib import Path

import msgspec
import pytest

from harness.errors import StoreError
from harness.results.record import Identity, LaunchInfo, Record
from harness.results.store import Store


def record(plan_id: str = "p", attempt: str = "a", **changes: object) -> Record:
    made = Record(
        plan_id=plan_id,
        attempt=attempt,
        trainer="fake",
        seed=1,
        identity=Identity(config_id="c", code_id="d", data_id="e", protocol=1),
        status="completed",
        metrics={"val_bpb": 1.0},
        steps=1,
        tokens=10,
        derived={},
        tricks={},
        environment={},
        environment_id="m",
        boot_id="b",
        concurrent_runs=0,
        started_at=1.0,
        ended_at=2.0,
        wall_s=1.0,
        trainer_s=0.9,
        gpus=0,
        launch=LaunchInfo(),
    )
    return msgspec.structs.replace(made, **changes)


def test_a_record_is_read_as_it_was_written(store):
    made = record()
    assert store.add(made, None)
    assert store.record("p") == made
    assert store.records() == [made]
    assert store.attempts("p") == [made]


def test_a_failed_attempt_is_not_the_record_of_its_plan(store):
    store.add(record(attempt="a", status="failed"), None)
    assert store.record("p") is None
    store.add(record(attempt="b", started_at=5.0), None)
    assert store.record("p").attempt == "b"
    assert [made.attempt for made in store.attempts("p")] == ["a", "b"]


def test_a_record_is_written_once_and_another_of_its_plan_is_kept_as_an_attempt(store):
    first, second = record(attempt="a"), record(attempt="b", started_at=5.0)
    assert store.add(first, b"first")
    assert not store.add(first, b"first")
    assert store.add(second, b"second")
    assert store.record("p") == first
    assert store.attempts("p") == [first, second]
    assert {path.name for path in (store.root / "curves").iterdir()} == {
        "p.parquet",
        "p.b.parquet",
    }


def test_different_records_of_one_attempt_are_all_kept(store):
    made = [record(steps=steps) for steps in (1, 2, 3)]
    for one in made:
        assert store.add(one, b"curve %d" % one.steps)
    assert sorted(one.steps for one in store.attempts("p")) == [1, 2, 3]
    curves = [store.side_files(one)["curves"].read_bytes() for one in made]
    assert curves == [b"curve 1", b"curve 2", b"curve 3"]


def test_a_stale_index_is_ignored(store):
    store.add(record("p"), None)
    assert len(store.records()) == 1
    store.add(record("q"), None)
    assert len(store.records()) == 2
    (store.root / "records" / "p.json").unlink()
    assert [made.plan_id for made in store.records()] == ["q"]
    (store.root / "records" / "q.json").write_bytes(msgspec.json.encode(record("q", steps=2)))
    assert [made.steps for made in store.records()] == [2]
    (store.root / "index.json").write_text("nonsense")
    assert len(Store(store.root).records()) == 1


def test_one_command_decodes_the_records_once_while_no_file_changes(store):
    store.add(record("p"), None)
    store.records().clear()
    (store.root / "index.json").unlink()
    assert [made.plan_id for made in store.records()] == ["p"]
    assert not (store.root / "index.json").exists()


def test_a_damaged_record_raises_an_error_that_names_it(store):
    store.add(record(), None)
    path = store.root / "records" / "p.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(StoreError) as caught:
        store.records()
    assert caught.value.path == str(path)
    assert "repeated" in caught.value.hint


def test_a_record_of_a_newer_format_is_rejected(store):
    store.add(record(format=99), None)
    with pytest.raises(StoreError, match="format 99"):
        store.record("p")


def test_the_error_for_an_unknown_study_lists_the_known_ones(store):
    with pytest.raises(StoreError, match="these studies: none"):
        store.study("x")


def _write_many(root: Path, writer: int) -> None:
    store = Store(root)
    for number in range(25):
        store.add(record(f"p{number}", f"w{writer}", started_at=float(writer)), b"curve")
        store.records()


def test_two_writers_to_one_store_lose_no_record(store):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(store.root, n)) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(store.records()) == 50
    for number in range(25):
        assert {made.attempt for made in store.attempts(f"p{number}")} == {"w0", "w1"}


def test_a_plan_is_locked_for_one_harness_at_a_time(store):
    with store.lock_plan("p"):
        assert store.lock_plan("p") is None
        with store.lock_plan("q") as other:
            assert other is not None


@pytest.mark.parametrize("name", ["../EVIL", "/tmp/EVIL", "", ".", "..", "a/b", "x" * 200, "a\n"])
def test_a_name_that_would_leave_the_store_is_refused(store, name):
    calls = [
        store.record,
        store.attempts,
        store.curve,
        store.study,
        store.study_path,
        store.study_lock_path,
        store.search_path,
        store.found_settings,
        store.lock_plan,
        lambda one: store.report_dir("study", one),
        lambda one: store.run_dir(one, "a"),
        lambda one: store.run_dir("p", one),
        lambda one: store.new_run_dir(one, 1.0),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="a name of letters"):
            call(name)
    assert not store.root.exists()


def test_other_folders_among_the_plans_are_nobodys_run(store):
    (store.root / "plans/.trash/x").mkdir(parents=True)
    (store.root / "plans/p1/a1").mkdir(parents=True)
    assert [path.name for path in store.run_dirs()] == ["a1"]


def in_place_of(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    makers = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link to itself": lambda: path.symlink_to(path.name),
        "link to nothing": lambda: path.symlink_to("nowhere"),
    }
    makers[kind]()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to itself", "link to nothing"])
def test_what_cannot_be_read_in_place_of_a_file_is_named(store, kind):
    store.add(record(), None)
    in_place_of(store.root / "records/x.json", kind)
    with pytest.raises(StoreError, match=r"x\.json: expected a record; got what cannot be read"):
        store.records()
    in_place_of(store.root / "studies/x.json", kind)
    with pytest.raises(StoreError, match="expected a study"):
        store.study("x")


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to itself", "link to nothing"])
def test_an_index_that_cannot_be_read_is_made_again_or_done_without(store, kind):
    store.add(record(), None)
    in_place_of(store.root / "index.json", kind)
    assert store.records() == [record()]


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "fine"},
        {"metrics": {"val_bpb": 1e308}},
        {"metrics": {"val_bpb": 1e-320}},
        {"metrics": {"tokens_per_s": -5.0}},
        {"metrics": {"val_loss": 0}},
    ],
)
def test_a_record_of_what_no_run_measures_is_named(store, changes):
    store.add(record(), None)
    path = store.root / "records/p.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(StoreError, match=r"p\.json"):
        store.records()


def test_a_file_named_after_another_plan_or_study_is_named(store):
    store.add(record(), None)
    (store.root / "records/q.json").write_bytes((store.root / "records/p.json").read_bytes())
    with pytest.raises(StoreError, match=r"q\.json: expected a record named after its plan"):
        store.records()


def test_records_are_indexed_and_files_that_are_no_records_are_left_alone(store):
    assert store.records() == store.attempts("p") == []
    store.add(record(), None)
    (store.root / "records" / ".q.json").write_text("half")
    (store.root / "records" / "p.txt").write_text("a note")
    assert store.records() == store.attempts("p") == [record()]
    index = msgspec.json.decode((store.root / "index.json").read_bytes())
    assert ([one["plan_id"] for one in index["records"]], list(index["files"])) == (
        ["p"],
        ["p.json"],
    )


def test_a_later_completed_record_is_an_attempt_and_records_are_in_order_of_time(store):
    late, early, failed = (
        record(attempt="late", started_at=9.0),
        record(attempt="early", started_at=1.0),
        record(attempt="failed", started_at=5.0, status="failed"),
    )
    for one in (failed, late, early):
        store.add(one, None)
    assert store.record("p") == late
    assert store.attempts("p") == store.records() == [early, failed, late]
    assert store.attempts_by_plan() == {"p": [early, failed, late]}


def test_a_curve_is_read_back_up_to_the_most_rows(store, tmp_path, monkeypatch):
    lines = [{"event": "step", "step": step, "loss": 3.0} for step in (1, 2, 3)]
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert store.curve("p") is None
    store.commit(record(), tmp_path)
    (path,) = store.side_files(record()).values()
    assert path == store.root / "curves" / "p.parquet"
    for most, rows in ((3, 3), (2, None)):
        monkeypatch.setattr("harness.results.store.MOST_CURVE_ROWS", most)
        if rows is None:
            with pytest.raises(StoreError, match="more than 2 rows"):
                store.curve("p")
        else:
            assert store.curve("p").num_rows == rows


def test_a_damaged_study_is_refused_with_what_to_do(store):
    store.study_path("s").parent.mkdir(parents=True)
    store.study_path("s").write_text("{")
    assert store.study_names() == ["s"]
    with pytest.raises(StoreError) as caught:
        store.study("s")
    assert "its records are kept" in caught.value.hint


def test_the_settings_that_a_search_found_are_read_back(store):
    assert store.found_settings("x") == []
    store.save_settings("x", [{"dial.depth": 3}])
    assert store.found_settings("x") == [{"dial.depth": 3}]
    assert (store.root / "searches" / "x.json").is_file()
