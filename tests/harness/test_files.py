"""Atomic writes and canonical JSON."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import files
from harness.errors import DiskError, StoreError

ROOT = Path(__file__).resolve().parents[2]


def test_canonical_json_does_not_depend_on_order():
    assert files.digest({"b": 1, "a": [None, 0.1]}) == files.digest({"a": [None, 0.1], "b": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 1.5})


def test_canonical_json_rejects_nan():
    with pytest.raises(ValueError, match="JSON compliant"):
        files.canonical_json({"a": float("nan")})


def test_an_incomplete_json_file_reads_as_none(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1')
    assert files.read_json(path) is None
    assert files.read_json(tmp_path / "absent.json") is None


def test_a_full_disk_is_an_error_with_a_hint_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_text(path, "old")
    code = (
        "import resource, sys; from pathlib import Path; from harness import errors, files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    files.write_text(Path(sys.argv[1]), 'x' * 5000)\n"
        "except errors.DiskError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "free space on the disk" in done.stdout
    assert "Free some space" in done.stdout
    assert path.read_text() == "old"
    assert [left.name for left in tmp_path.iterdir()] == ["a.json"]


def test_a_file_where_a_folder_is_needed_is_an_error_with_a_hint(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError) as caught:
        files.write_text(tmp_path / "file" / "a.json", "x")
    assert "move it away" in caught.value.hint


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_refused_with_its_name_and_what_to_do(
    tmp_path, monkeypatch, name
):
    def refuse(handle, how):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(files, "mounts_here", lambda: "22 1 0:1 / / rw - lustre mds:/data rw")
    for wait in (False, True):
        with pytest.raises(StoreError, match="a file system with file locks") as error:
            files.lock_file(tmp_path / "lock", wait=wait)
        assert error.value.exit_code == 4
        assert error.value.got.startswith("lustre, which refuses a lock (")
        assert "option `flock`" in error.value.hint


def test_every_lock_of_the_harness_is_taken_by_the_function_that_refuses():
    texts = [path.read_text() for path in (ROOT / "harness").rglob("*.py")]
    assert sum(text.count("fcntl.flock(") + text.count("lockf(") for text in texts) == 1


def test_json_that_cannot_be_stored_again_is_as_good_as_none(tmp_path):
    path = tmp_path / "a.json"
    for text in ("[" * 100_000, "[" * 99 + "]" * 99, str(2**63), '{"a": 1', "\udcff"):
        path.write_text(text, errors="surrogateescape")
        assert files.read_json(path) is None
    path.write_text('"\\ud800 x"')
    assert files.read_json(path) == "? x"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert files.read_json(path) == [1]


def test_a_link_is_no_file_of_a_trainer(tmp_path):
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "result.json").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic"):
        files.open_regular(tmp_path / "result.json")
    assert files.read_json(tmp_path / "result.json") is None


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(DiskError, match="got a device or pipe"):
            files.write_text(tmp_path / name, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["null", "pipe"]


def test_a_place_that_takes_no_file_is_an_error_with_a_hint():
    with pytest.raises(DiskError, match="name another path"):
        files.write_text(Path("/proc/x/y"), "x")
