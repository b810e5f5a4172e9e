"""Refs that ask for other packages: refused by name, or run in an environment of their own."""

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
from harness.runner.trainer import FakeTrainer, NativeTrainer

ROOT = Path(__file__).resolve().parents[3]
REPOSITORY = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]


def wheel(folder: Path, version: str) -> str:
    """The requirement line of a package `toy`, a wheel on this disk with nothing but a number."""
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


def found(here: Path, there: Path, kind: type[NativeTrainer] = FakeTrainer):
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
def test_lists_differ_in_packages_and_not_in_words_or_order(tmp_path, here, there, differing):
    lists = found(checkout(tmp_path / "here", *here), checkout(tmp_path / "there", *there))
    assert lists.differing == differing


def test_only_extras_count_that_the_trainer_uses_and_this_environment_has(tmp_path):
    extras = 'train = ["numpy{0}"]\ngpu = ["thing[train]", "nobody-has-this"]\ndev = ["ruff{0}"]\n'
    here = checkout(tmp_path / "here", extras=extras.format(""))
    there = checkout(tmp_path / "there", extras=extras.format(">=1"))
    lists = found(here, there, NativeTrainer)
    assert lists.differing == ["numpy (numpy here, numpy>=1 there)"]
    assert found(here, there).differing == [], "the FakeTrainer uses none"


def test_a_checkout_without_a_pyproject_asks_for_nothing_and_a_dynamic_one_is_refused(tmp_path):
    here = checkout(tmp_path / "here", "rich")
    (tmp_path / "bare").mkdir()
    assert found(here, tmp_path / "bare").there == {}
    (here / "pyproject.toml").write_text('[project]\nname = "x"\ndynamic = ["dependencies"]\n')
    with pytest.raises(TrainerError, match="Write them out"):
        found(here, here)


def test_what_did_not_change_keeps_the_version_that_is_installed_here(tmp_path):
    here = checkout(tmp_path / "here", "rich", "numpy")
    there = checkout(tmp_path / "there", "rich", "numpy>=1", "toy @ file:///toy.whl")
    lists = found(here, there)
    assert lists.pinned == [f"rich=={metadata.version('rich')}"]
    assert "--env isolated" in requirements_error(lists).hint


def test_an_environment_is_made_once_for_all_that_ask_for_the_same(tmp_path):
    there = checkout(tmp_path / "there", wheel(tmp_path, "2.5"))
    lists, said = found(checkout(tmp_path / "here"), there), []
    python = isolated_python(lists, tmp_path / "environments", said.append)
    assert installed_versions(python) == {"toy": "2.5"}
    assert isolated_python(lists, tmp_path / "environments", said.append) == python
    assert len(said) == 1, "the second time it is there"


def test_a_failed_installation_ends_with_the_last_words_of_pip(tmp_path):
    missing = (tmp_path / "toy-1-py3-none-any.whl").as_uri()
    there = checkout(tmp_path / "there", f"toy @ {missing}")
    with pytest.raises(TrainerError, match=re.escape("toy-1-py3-none-any.whl")) as caught:
        isolated_python(found(checkout(tmp_path / "here"), there), tmp_path / "environments")
    assert caught.value.exit_code == 4
    assert "--env current" in caught.value.hint
    assert not list((tmp_path / "environments").glob("*.ready")), "the next gate tries again"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository whose branch `toy` takes its speed from a package that nobody has here."""
    home = tmp_path / "clone"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "harness", home / "harness", ignore=skipped)
    (home / "model").mkdir()
    (home / "model" / "describe.py").write_text("")
    (home / ".gitignore").write_text("__pycache__/\n")
    (home / "pyproject.toml").write_text('[project]\nname = "thing"\ndependencies = []\n')

    def git(*words: str) -> None:
        subprocess.run([*REPOSITORY, *words], cwd=home, check=True, capture_output=True)

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

    def call(*words: str) -> tuple[int, str, str]:
        line = ["harness", "gate", str(tmp_path / "base.json"), "--trainer", "fake", "--no-confirm"]
        line += ["--base", "main", "--head", "toy", "--json", "--store", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", [*line, *words])
        with pytest.raises(SystemExit) as ending:
            main()
        return int(ending.value.code or 0), *capfd.readouterr()

    return call


def test_a_ref_with_other_packages_is_refused_by_their_names_or_shares_on_request(gate):
    code, _, said = gate()
    assert code == 2
    assert "toy" in said
    assert "--env isolated" in said
    assert gate("--env", "correction")[0] == 2
    code, out, said = gate("--env", "current")
    assert (code, json.loads(out)["outcome"]) == (4, "could not run")
    assert "runs on those here, as asked" in said
    assert "No module named 'toy'" in out


@pytest.mark.slow
def test_a_ref_with_an_environment_of_its_own_is_measured_in_it(gate):
    code, out, _ = gate("--env", "isolated")
    assert code == 10
    result = json.loads(out)
    (speed, *_) = result["metrics"]
    assert speed["judged"]["estimate"] == pytest.approx(-0.105, abs=0.01)
    (note,) = (note for note in result["notes"] if "environment of its own" in note)
    assert "toy absent here, 0.9 there" in note
