"""Cluster files, submissions as users make them, and a real Slurm where it is installed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.cluster import journal
from harness.cluster.journal import Entry, Journal

sys.path.insert(0, str(Path(__file__).parent))
import slurm as real  # noqa: E402  (beside this file, which is no package)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def cluster_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a cluster file and says where."""

    def write(**values: object) -> Path:
        lines = {"kind": "local", "minutes": 5, "signal_seconds_before_end": 30, **values}
        path = tmp_path / "cluster.yaml"
        path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
        return path

    return write


@pytest.fixture
def submit(store) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`harness submit` on the store, as a process of its own."""

    def call(*words: object, **more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "harness", "submit", "--store", str(store.root)]
        return subprocess.run(
            [*command, *map(str, words)],
            cwd=ROOT,
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call


@pytest.fixture
def entries(store) -> Callable[[], list[Entry]]:
    """What the only job of the store wrote into its journal."""

    def read() -> list[Entry]:
        ((folder, made),) = journal.submissions(store.root)
        (number,) = made.jobs
        return Journal(folder, number).entries()

    return read


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that lead to a Slurm of two nodes."""
    if why := real.missing():
        pytest.skip(f"no real Slurm: {why}")
    with real.slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment
