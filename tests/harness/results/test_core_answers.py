"""The answers to CORE, from the trainer to the store; damaged files are errors."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from harness.errors import StoreError
from harness.results import core_answers
from harness.results.archive import pack, unpack
from harness.results.store import Store
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer import core

CORE = "core: {examples: 30}\n"


@pytest.fixture
def left(tmp_path):
    """Writes core.parquet of a simulated run, shuffled on request; returns its path."""

    def write(name="core.parquet", shuffled=False, loss=5.0, **overrides):
        config = fake.load(None, {"core.examples": 50, **overrides})
        answers = core.answers(config, loss)
        path = tmp_path / name
        core.write(path, config, answers)
        if shuffled:
            table = pyarrow.parquet.read_table(path)
            order = np.random.default_rng(0).permutation(len(table))
            pyarrow.parquet.write_table(table.take(pa.array(order)), path)
        return path

    return write


@pytest.fixture
def recorded(leave_run, store):
    """A store with two runs that evaluated CORE."""
    leave_run(1)
    leave_run(2)
    return store


def test_the_answers_to_a_task_are_ordered_by_example(left):
    straight, shuffled = core_answers.read(left()), core_answers.read(left("b", shuffled=True))
    assert list(straight.tasks) == list(core.TASKS)
    for name, task in straight.tasks.items():
        assert np.array_equal(task.examples, np.arange(50))
        assert np.array_equal(task.correct, shuffled.tasks[name].correct)
        assert np.array_equal(task.soft, shuffled.tasks[name].soft)


def test_soft_values_are_relative_to_chance_and_at_most_one(left):
    tasks = core_answers.read(left(loss=-10.0)).tasks
    assert all(0.9 < task.soft.mean() <= 1 for task in tasks.values())
    guess = core.TASKS["colours"].choices
    lost = core_answers.read(left(loss=60.0)).tasks["colours"]
    assert lost.soft.min() == pytest.approx(-1 / (guess - 1), abs=1e-3)


def _cut(path):
    os.truncate(path, path.stat().st_size // 2)


def _without_a_row(path):
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.slice(1), path)


def _without_metadata(path):
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.replace_schema_metadata(None), path)


def _without_a_column(path):
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.drop_columns(["value"]), path)


def _with_a_task_more(path):
    table = pyarrow.parquet.read_table(path)
    names = ["rumours", *table.column("task").to_pylist()[1:]]
    pyarrow.parquet.write_table(table.set_column(0, "task", pa.array(names)), path)


def _not_a_number(path):
    table = pyarrow.parquet.read_table(path)
    values = table.column("value").to_numpy().copy()
    values[3] = np.nan
    pyarrow.parquet.write_table(
        table.set_column(3, "value", pa.array(values, type=pa.float32())), path
    )


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (_cut, "arquet"),
        (_without_a_row, "sums with 49 of 50"),
        (_without_metadata, "no metadata"),
        (_without_a_column, "no column value"),
        (_with_a_task_more, "rumours"),
        (_not_a_number, "not a number"),
    ],
)
def test_a_damaged_file_raises_an_error_that_names_it(left, damage, word):
    path = left()
    damage(path)
    with pytest.raises(StoreError) as caught:
        core_answers.read(path)
    assert caught.value.path == str(path)
    assert word in caught.value.got


def test_stored_answers_reproduce_the_scores_of_the_record(recorded):
    for record in recorded.records():
        answers = core_answers.read(recorded.side_files(record)["core"])
        assert answers.settings == record.core
        hard = [
            (task.correct.mean() - task.facts.baseline) / (1 - task.facts.baseline)
            for task in answers.tasks.values()
        ]
        assert np.mean(hard) == pytest.approx(record.metrics["core"], abs=1e-9)
        soft = [task.soft.mean() for task in answers.tasks.values()]
        assert np.mean(soft) == pytest.approx(record.metrics["core_soft"], abs=1e-6)


def test_a_rebuilt_index_keeps_the_core_settings(recorded):
    first = recorded.records()
    assert recorded.records() == first
    (recorded.root / "index.json").unlink()
    assert recorded.records() == first
    assert all(record.core.baselines == "v1" for record in first)


@pytest.mark.parametrize("compact", [False, True])
def test_a_packed_store_contains_the_answers(recorded, tmp_path, compact):
    pack(recorded, tmp_path / "a.tar", compact=compact)
    other = Store(tmp_path / "other")
    unpack(tmp_path / "a.tar", other)
    for record in recorded.records():
        ours, theirs = (store.side_files(record)["core"] for store in (recorded, other))
        assert ours.read_bytes() == theirs.read_bytes()


def test_each_attempt_at_a_plan_has_its_own_answers(store, recorded):
    record = recorded.records()[0]
    again = type(record)(
        **{name: getattr(record, name) for name in record.__struct_fields__} | {"attempt": "again"}
    )
    store.add(again, None, b"its own")
    assert store.side_files(again)["core"].read_bytes() == b"its own"
    assert store.side_files(record)["core"].read_bytes() != b"its own"


def test_a_run_with_an_incomplete_core_file_is_recorded_with_the_reason(harness, tmp_path, store):
    (tmp_path / "base.yaml").write_text(f"dial: {{depth: 2, steps: 5}}\n{CORE}")
    arguments = ("run", tmp_path / "base.yaml", "--trainer", "fake", "--set", "fail.half_core=true")
    assert harness(*arguments).returncode == 0
    (record,) = store.records()
    assert "core.parquet is damaged" in record.reason
    assert record.metrics["core"] is not None
    assert "core" not in store.side_files(record)


def test_a_record_without_core_has_no_core_field(harness, tmp_path, store):
    (tmp_path / "base.yaml").write_text("dial: {depth: 2, steps: 5}\n")
    harness("run", tmp_path / "base.yaml", "--trainer", "fake")
    (path,) = (store.root / "records").glob("*.json")
    assert '"core": {' not in path.read_text()
    assert set(store.side_files(store.records()[0])) == {"curves"}
