"""Refs that require other packages: rejected, or run in an isolated environment."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.errors import TrainerError
from harness.runner.environment import (
    compare_requirements,
    installed_versions,
    isolated_python,
    requirements_error,
)
from harness.runner.trainer import TRAINERS, FakeTrainer, NativeTrainer

ROOT = Path(__file__).resolve().parents[3]
REPOSITORY = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]


def wheel(folder: Path, version: str) -> str:
    """The requirement of a package `toy`, a local wheel that contains one number."""
    path = folder / f"toy-{version}-py3-none-any.whl"
    info = f"toy-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("toy.py", f"TOKENS_PER_S = {version} * 60_000\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: toy\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: x\n")
        file.writestr(f"{info}/RECORD", f"toy.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    return f"toy @ {path.as_uri()}"


def checkout(folder: Path, *lines: str, extras: str = "") -> Path:
    folder.mkdir(parents=True)
    listed = json.dumps(list(lines))
    text = f'[project]\nname = "Thing"\ndependencies = {listed}\n'
    (folder / "pyproject.toml").write_text(text + "[project.optional-dependencies]\n" + extras)
    return folder


def compared(here: Path, there: Path, kind: type[NativeTrainer] = FakeTrainer):
    return compare_requirements("my-branch", kind(here), there)


@pytest.mark.parametrize(
    ("here", "there", "differing"),
    [
        (["numpy>=1.26"], ["numpy >= 1.26"], []),
        (["numpy>=1.26"], ["numpy>=2"], ["numpy (numpy>=1.26 here, numpy>=2 there)"]),
        (["NumPy", "rich"], ["rich", "numpy"], []),
        (["rich"], [], ["rich (rich here, none there)"]),
        (["rich"], ["rich", "rich <9"], ["rich (rich here, rich and rich<9 there)"]),
        (["a[b]; x<'3'"], ["a [b]; x < '3'"], []),
    ],
)
def test_requirements_differ_by_packages_and_not_by_order(tmp_path, here, there, differing):
    lists = compared(checkout(tmp_path / "here", *here), checkout(tmp_path / "there", *there))
    assert lists.differing == differing


def test_only_installed_extras_of_the_trainer_count(tmp_path):
    extras = 'train = ["numpy{0}"]\ngpu = ["thing[train]", "nobody-has-this"]\ndev = ["ruff{0}"]\n'
    here = checkout(tmp_path / "here", extras=extras.format(""))
    there = checkout(tmp_path / "there", extras=extras.format(">=1"))
    lists = compared(here, there, NativeTrainer)
    assert lists.differing == ["numpy (numpy here, numpy>=1 there)"]
    assert compared(here, there).differing == [], "the simulated trainer has no extras"


def test_a_missing_pyproject_requires_nothing_and_dynamic_ones_are_rejected(
    tmp_path,
):
    here = checkout(tmp_path / "here", "rich")
    (tmp_path / "bare").mkdir()
    assert compared(here, tmp_path / "bare").there == {}
    (here / "pyproject.toml").write_text('[project]\nname = "x"\ndynamic = ["dependencies"]\n')
    with pytest.raises(TrainerError, match="Write them out"):
        compared(here, here)


def test_packages_with_equal_requirements_get_the_version_installed_here(tmp_path):
    here = checkout(tmp_path / "here", "rich", "numpy")
    there = checkout(tmp_path / "there", "rich", "numpy>=1", "toy @ file:///toy.whl")
    lists = compared(here, there)
    assert lists.pinned == [f"rich=={metadata.version('rich')}"]
    assert "--env isolated" in requirements_error(lists).hint


def test_refs_with_equal_requirements_share_an_environment(tmp_path):
    there = checkout(tmp_path / "there", wheel(tmp_path, "2.5"))
    lists, lines = compared(checkout(tmp_path / "here"), there), []
    python = isolated_python(lists, tmp_path / "environments", lines.append)
    assert installed_versions(python) == {"toy": "2.5"}
    assert isolated_python(lists, tmp_path / "environments", lines.append) == python
    assert len(lines) == 1, "the second call reuses it"


def test_a_failed_installation_reports_the_last_lines_of_pip(tmp_path):
    missing = (tmp_path / "toy-1-py3-none-any.whl").as_uri()
    there = checkout(tmp_path / "there", f"toy @ {missing}")
    with pytest.raises(TrainerError, match=re.escape("toy-1-py3-none-any.whl")) as caught:
        isolated_python(compared(checkout(tmp_path / "here"), there), tmp_path / "environments")
    assert caught.value.exit_code == 4
    assert "--env current" in caught.value.hint
    assert not list((tmp_path / "environments").glob("*.ready")), "the next gate tries again"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository whose branch `toy` needs a package that is not installed here."""
    home = tmp_path / "clone"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "harness", home / "harness", ignore=skipped)
    (home / "model").mkdir()
    (home / "model" / "describe.py").write_text("")
    (home / ".gitignore").write_text("__pycache__/\n")
    (home / "pyproject.toml").write_text('[project]\nname = "thing"\ndependencies = []\n')

    def git(*arguments: str) -> None:
        subprocess.run([*REPOSITORY, *arguments], cwd=home, check=True, capture_output=True)

    git("init", "--quiet", "--initial-branch", "main")
    git("add", ".")
    git("commit", "--quiet", "--message", "plain")
    git("switch", "--quiet", "--create", "toy")
    lines = json.dumps([wheel(tmp_path, "0.9")])
    (home / "pyproject.toml").write_text(f'[project]\nname = "thing"\ndependencies = {lines}\n')
    code = home / "harness" / "runner" / "fake_trainer" / "train.py"
    text = code.read_text()
    assert "TOKENS_PER_S = 60_000.0" in text
    code.write_text(text.replace("TOKENS_PER_S = 60_000.0", "from toy import TOKENS_PER_S"))
    git("commit", "--quiet", "--all", "--message", "toy")
    git("switch", "--quiet", "main")
    (tmp_path / "base.json").write_text(
        '{"dial": {"depth": 2, "steps": 20, "batch_tokens": 4096}, "noise": {"speed_cv": 0.0003}}'
    )
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def gate(clone, tmp_path, capfd, monkeypatch):
    """`harness gate --base main --head toy` in this process: the exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        line = ["harness", "gate", str(tmp_path / "base.json"), "--trainer", "fake", "--no-confirm"]
        line += ["--base", "main", "--head", "toy", "--json", "--store", str(tmp_path / "runs")]
        monkeypatch.setitem(TRAINERS, "fake", FakeTrainer)
        monkeypatch.setattr(sys, "argv", [*line, *arguments])
        with pytest.raises(SystemExit) as ending:
            main()
        return int(ending.value.code or 0), *capfd.readouterr()

    return call


def test_a_ref_with_other_packages_is_rejected_unless_it_may_use_the_current_environment(gate):
    code, _, err = gate()
    assert code == 2
    assert "toy" in err
    assert "--env isolated" in err
    assert gate("--env", "sometimes")[0] == 2
    code, out, err = gate("--env", "current")
    assert (code, json.loads(out)["outcome"]) == (4, "could not run")
    assert "runs with the installed ones" in err
    assert "No module named 'toy'" in out


@pytest.mark.slow
def test_a_ref_is_measured_in_its_isolated_environment(gate):
    code, out, _ = gate("--env", "isolated")
    assert code == 10
    result = json.loads(out)
    (speed, *_) = result["metrics"]
    assert speed["result"]["estimate"] == pytest.approx(-0.105, abs=0.01)
    (note,) = (note for note in result["notes"] if "isolated environment" in note)
    assert "toy absent here, 0.9 there" in note


@pytest.mark.parametrize(
    "text",
    [
        "project = 5",
        "[project]\ndependencies = 'rich'",
        "[project]\ndependencies = [1]",
        "[project]\ndynamic = 3",
        "[project.optional-dependencies]\nx = 'y'",
        "[project]\ndependencies = ['--index-url https://example.org']",
        "[project]\nname = 'é'".encode("latin-1"),
        "x = " + "[" * 5000,
    ],
)
def test_a_project_file_of_any_author_is_read_or_refused(tmp_path, text):
    (tmp_path / "pyproject.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TrainerError, match=r"pyproject\.toml: expected"):
        compared(checkout(tmp_path / "here"), tmp_path)


def test_a_project_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "pyproject.toml").symlink_to("/dev/zero")
    with pytest.raises(TrainerError, match="expected a file"):
        compared(checkout(tmp_path / "here"), tmp_path)
