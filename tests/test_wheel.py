"""The wheel, installed outside the repository, has all that a user without a clone needs."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the tracked files."""
    pytest.importorskip("hatchling")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(
        ["tar", "--create", "--null", "--files-from=-", "--file", str(source / "files.tar")],
        input=names, cwd=ROOT, check=True,
    )  # fmt: skip
    subprocess.run(["tar", "--extract", "--file", "files.tar"], cwd=source, check=True)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), "."]
    subprocess.run([sys.executable, "-m", "pip", *build], cwd=source, check=True)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a program of a fresh environment with the wheel, in a folder of its own."""
    environment, folder = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("user")
    venv.create(environment)
    packages = environment / f"lib/python{sysconfig.get_python_version()}/site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # the dependencies are those of this environment
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*argv: str, module: str = "harness") -> str:
        command = [str(environment / "bin/python"), "-m", module, *argv]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
        assert done.returncode in (0, 10), done.stdout + done.stderr
        return done.stdout + done.stderr

    run.folder = folder
    return run


def test_the_wheel_has_every_example_template_and_data_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    examples = {
        f"harness/examples/{path.relative_to(ROOT / 'ablations')}"
        for path in (ROOT / "ablations").glob("**/*")
        if path.is_file()
    }
    templates = {
        f"harness/cli/github/templates/{path.name}" for path in ROOT.glob("ci/templates/*")
    }
    assert examples | templates | {"harness/comparison/noise_shipped.csv"} <= names
    assert "model/train.py" in names or "model/train/__init__.py" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_a_user_without_a_clone_goes_from_init_to_a_comparison(installed):
    assert "files copied" in installed("init")
    assert "0 files copied" in installed("init")
    printed = installed("doctor", "--trainer", "fake")
    printed += installed("study", "ablations/studies/fake.yaml", "--seeds", "1-3")
    printed += installed("compare", "runs:fake/base", "--", "runs:fake/no_muon")
    printed += installed("ci", "init")
    assert "harness-gate.yml" in printed
    assert "No module named" not in printed
    for only_in_a_clone in ("pip install -e", "'.[", "git clone"):
        assert only_in_a_clone not in printed
    assert (installed.folder / "runs/reports/study/fake/report.html").is_file()


def test_the_native_trainer_and_its_configurations_come_with_the_wheel(installed):
    installed("init")
    described = installed("ablations/configs/speedrun_tiny_cpu.yaml", module="model.describe")
    assert "parameters" in described


def test_no_message_names_an_installation_from_a_clone():
    sources = [path for top in ("harness", "model") for path in (ROOT / top).rglob("*.py")]
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert "pip install -e" not in text, path
        assert "pip install '.[" not in text, path
