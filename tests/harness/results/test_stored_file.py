"""Stored files: a damaged one, one of an older and one of a newer version get different advice."""

import json

import msgspec
import pytest

from harness.errors import HarnessError, StoreError
from harness.gate import baseline, history
from harness.gate.baseline import BaselineError
from harness.results import stored_file
from harness.results.logs.from_store import record_from_file
from harness.results.logs.run_log import LogError
from harness.results.store import Store
from tests.harness.results.test_store import record


class Stored(msgspec.Struct):
    name: str
    format: int = 2


def decoded(tmp_path, content: str) -> Stored:
    return stored_file.decode(
        content.encode(), Stored, tmp_path / "x.json", "a thing", if_damaged="Move it away."
    )


def test_a_file_is_decoded(tmp_path):
    assert decoded(tmp_path, '{"name": "a"}') == Stored("a")
    assert decoded(tmp_path, '{"name": "a", "format": 1}') == Stored("a", 1)


@pytest.mark.parametrize(
    ("content", "got", "hint"),
    [
        ('{"name": ', "a file that is not JSON", "Move it away."),
        ('{"name": 1, ', "a file that is not JSON", "Move it away."),
        ('{"name": ' + "9" * 5000 + "}", "a file that is not JSON", "Move it away."),
        ('{"name": ' + "[" * 100_000, "a file that is not JSON", "Move it away."),
        ('{"title": "a"}', "the fields of an older version", "Use another --store"),
        ('{"name": "a", "format": 3}', "format 3", "update the harness"),
        ('{"title": "a", "format": 3}', "format 3", "update the harness"),
    ],
)
def test_a_damaged_an_older_and_a_newer_file_get_different_advice(tmp_path, content, got, hint):
    with pytest.raises(StoreError) as caught:
        decoded(tmp_path, content)
    assert got in caught.value.got
    assert hint in caught.value.hint


def test_bytes_that_are_no_text_are_damage(tmp_path):
    with pytest.raises(StoreError, match="not JSON"):
        stored_file.decode(b'{"name": "\xff"}', Stored, tmp_path / "x", "a thing", if_damaged="")


def read_record(tmp_path):
    store = Store(tmp_path)
    store.add(record(), None)
    path = tmp_path / "records" / "p.json"
    return path, lambda: store.records()


def read_record_file(tmp_path):
    path, _ = read_record(tmp_path)
    return path, lambda: record_from_file(path)


def read_study(tmp_path):
    path = tmp_path / "studies" / "s.json"
    return path, lambda: Store(tmp_path).study("s")


def read_gate(tmp_path):
    path = tmp_path / "gates" / "k" / "1.json"
    return path, lambda: history.load(Store(tmp_path))


def read_baseline(tmp_path):
    path = tmp_path / "h100x1" / "1" / "b.json"
    return path, lambda: baseline.read(path)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        (read_record, StoreError),
        (read_record_file, LogError),
        (read_study, StoreError),
        (read_gate, StoreError),
        (read_baseline, BaselineError),
    ],
)
def test_every_stored_file_of_an_older_version_is_named_as_such(tmp_path, place, error):
    path, read = place(tmp_path)
    content = json.loads(path.read_bytes()) if path.exists() else {}
    content.pop("concurrent_runs", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    with pytest.raises(HarnessError) as caught:
        read()
    assert isinstance(caught.value, error)
    assert "older version" in caught.value.got
    assert "damaged" not in str(caught.value)
