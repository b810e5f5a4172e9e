"""Checkouts of other code: what may name a folder, and whose fault a failure is.

Only pure functions are called: a checkout deletes a folder that it finds incomplete.
"""

from pathlib import Path

import pytest

from harness.errors import DiskError, StudyFileError
from harness.runner.worktree import _commit_of, _refuse_full_disk

HERE = Path("a-checkout")


@pytest.mark.parametrize("output", ["", "/", "/tmp", "..", "a" * 39, "g" * 40, "a" * 40 + "\n/x"])
def test_what_is_no_hash_names_no_folder(output):
    with pytest.raises(StudyFileError, match="the hash of a commit"):
        _commit_of(output, HERE)


def test_a_hash_names_a_folder():
    assert _commit_of("a1" * 20 + "\n", HERE) == "a1" * 20


@pytest.mark.parametrize("text", ["No space left on device", "Disk quota exceeded"])
def test_a_full_disk_is_no_fault_of_the_study_file(text):
    with pytest.raises(DiskError) as error:
        _refuse_full_disk(HERE, f"fatal: could not create file: {text}")
    assert error.value.exit_code == 4
    _refuse_full_disk(HERE, "fatal: invalid reference")  # is left to the caller
