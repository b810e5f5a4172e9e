"""Folders on a file system without file locks: refused, with what to do."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from model.data.atomic import exclusive
from model.errors import DataError, RunError
from model.runtime.run_dir import RunDirectory


def refuse(file: object, how: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_folder_without_file_locks_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunError, match="a directory with file locks") as of_run:
        RunDirectory(tmp_path / "run")
    lock = exclusive(tmp_path / "cache", print)
    with pytest.raises(DataError, match="a folder with file locks") as of_data, lock:
        pass
    assert all("option `flock`" in one.value.hint for one in (of_run, of_data))
