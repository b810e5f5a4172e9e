"""The readings that a store keeps."""

import pytest

from harness.errors import StoreError
from harness.results import readings
from harness.results.store import READINGS, Store

LOSS = ["val_loss"]


def test_more_runs_are_the_next_reading_and_the_same_runs_the_same_one(tmp_path):
    store = Store(tmp_path)
    assert readings.add(store, "q", ["a", "b"], LOSS) == 0
    assert readings.add(store, "q", ["a", "b", "c"], LOSS) == 1
    assert readings.add(store, "q", ["b", "a"], LOSS) == 0
    assert readings.add(store, "q", ["c", "b", "a"], LOSS) == 1
    assert readings.add(store, "another", ["a", "b"], LOSS) == 0


def test_only_readings_of_the_same_metrics_count(tmp_path):
    store = Store(tmp_path)
    readings.add(store, "q", ["a"], ["val_loss", "train_time_s"])
    assert readings.add(store, "q", ["a", "b"], ["core_soft"]) == 0
    assert readings.add(store, "q", ["a", "b"], ["val_loss"]) == 1


def test_readings_that_the_user_states_count_where_the_store_knows_fewer(tmp_path):
    store = Store(tmp_path)
    assert readings.add(store, "q", ["a"], LOSS, stated=2) == 2
    assert readings.add(store, "q", ["a"], LOSS) == 2
    assert readings.add(store, "q", ["a", "b"], LOSS, stated=1) == 1


def test_a_file_that_a_killed_process_left_half_written_does_not_count(tmp_path):
    store = Store(tmp_path)
    readings.add(store, "q", ["a"], LOSS)
    (tmp_path / READINGS / "q" / ".x.json.1.partial").write_bytes(b'{"met')
    assert readings.add(store, "q", ["a", "b"], LOSS) == 1


def test_a_damaged_reading_is_named(tmp_path):
    store = Store(tmp_path)
    readings.add(store, "q", ["a"], LOSS)
    (path,) = (tmp_path / READINGS / "q").glob("*.json")
    path.write_bytes(b"{")
    with pytest.raises(StoreError, match=path.name):
        readings.add(store, "q", ["a", "b"], LOSS)
