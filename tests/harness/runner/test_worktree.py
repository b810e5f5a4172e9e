"""A disk that is full while git checks out other code is the machine's fault, not the study's."""

import os
import shutil
import subprocess
import sys

import pytest

from harness import errors
from harness.errors import DiskError, StudyFileError
from harness.runner.worktree import checkout_patch, checkout_ref

FULL = "error: unable to write file a.py: No space left on device"
SHIM = """\
#!/bin/bash
for word in "$@"; do
  if [[ $word == "{verb}" ]]; then echo "{message}" >&2; exit 128; fi
done
exec {git} "$@"
"""


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "a.py").write_text("a = 1\n")
    for argv in (
        ("init", "-q"),
        ("add", "a.py"),
        ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"),
    ):
        subprocess.run(["git", *argv], cwd=folder, check=True)
    return folder


def fail_at(tmp_path, monkeypatch, verb: str, message: str) -> None:
    """A git that fails at one verb as a full disk makes it fail."""
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    shim.write_text(SHIM.format(verb=verb, message=message, git=shutil.which("git")))
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")


def test_a_full_disk_at_a_checkout_is_a_disk_error(tmp_path, repository, monkeypatch):
    fail_at(tmp_path, monkeypatch, "add", FULL)
    with pytest.raises(DiskError, match="free space on the disk") as caught:
        checkout_ref("HEAD", repository, tmp_path / "store")
    assert caught.value.exit_code == errors.COULD_NOT_RUN
    assert errors.BISECT[caught.value.exit_code] == 125


def test_a_full_disk_at_a_patch_is_a_disk_error(tmp_path, repository, monkeypatch):
    (tmp_path / "x.diff").write_text("--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-a = 1\n+a = 2\n")
    fail_at(tmp_path, monkeypatch, "apply", FULL)
    with pytest.raises(DiskError):
        checkout_patch(tmp_path / "x.diff", repository, tmp_path / "store")


def test_another_failure_of_git_is_still_the_files(tmp_path, repository, monkeypatch):
    fail_at(tmp_path, monkeypatch, "add", "fatal: invalid reference")
    with pytest.raises(StudyFileError, match="invalid reference"):
        checkout_ref("HEAD", repository, tmp_path / "store")


@pytest.mark.parametrize(("option", "code"), [([], 4), (["--bisect"], 125)])
def test_a_gate_on_a_full_disk_could_not_run_and_a_bisection_skips(
    tmp_path, monkeypatch, capfd, option, code
):
    from harness.__main__ import main

    (tmp_path / "base.yaml").write_text("dial: {depth: 2, steps: 8}\n")
    fail_at(tmp_path, monkeypatch, "add", FULL)
    argv = ["harness", "gate", str(tmp_path / "base.yaml"), "--trainer", "fake", "--base", "HEAD"]
    argv += ["--store", str(tmp_path / "runs"), *option]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == code
    assert "free space on the disk" in capfd.readouterr().out


def test_only_the_hash_of_a_commit_names_the_folder_that_is_made_anew(tmp_path, monkeypatch):
    kept = tmp_path / "store/worktrees/branch"
    kept.mkdir(parents=True)
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    shim.write_text(f"#!/bin/bash\n[[ $2 == --show-toplevel ]] && echo {tmp_path} || echo branch\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(shim.parent), prepend=os.pathsep)
    with pytest.raises(StudyFileError, match="the hash of a commit; got 'branch"):
        checkout_ref("x", tmp_path, tmp_path / "store")
    assert kept.is_dir()


def test_a_patch_that_is_no_file_is_refused_and_not_waited_for(tmp_path, repository):
    os.mkfifo(tmp_path / "idea.diff")
    with pytest.raises(StudyFileError, match="expected a patch file"):
        checkout_patch(tmp_path / "idea.diff", repository, tmp_path / "store")


def test_a_checkout_downloads_no_large_files(repository, tmp_path, monkeypatch):
    """git-lfs would fetch them from the address that the checked-out code names."""
    seen = tmp_path / "seen"
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    shim.write_text(
        f'#!/bin/bash\necho "$GIT_LFS_SKIP_SMUDGE" >> {seen}\nexec {shutil.which("git")} "$@"\n'
    )
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(repository)
    checkout_ref("HEAD", repository, tmp_path / "runs")
    assert set(seen.read_text().split("\n")) <= {"1", ""}
    assert "1" in seen.read_text()
