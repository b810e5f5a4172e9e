"""Full jobs of the simulated trainer: one process for four ranks, about a second per command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.results.store import Store

BASE = """\
dial: {depth: 4, ratio: 0.05, batch_tokens: 8192}
eval: {every_steps: 20}
windows: SSSL
optimizer: {matrices: muon}
checkpoint: {every_steps: 10}
"""
JOB = """\
full: quick
question: Does a full job work?
trainer: fake
base: base.yaml
set: {dial.depth: 6, core.examples: 20}
ranks: 4
proxies: {field: dial.depth, values: [3, 4, 5], seeds: [1]}
step_test_seconds: 0.1
price_usd_per_gpu_hour: 2.0
limits: {hours: 1, restarts: 2}
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a base and a job file, with lines replaced or added; returns its path."""

    def write(**lines: str) -> Path:
        (tmp_path / "base.yaml").write_text(BASE)
        kept = [line for line in JOB.splitlines() if line.partition(":")[0] not in lines]
        text = "\n".join([*kept, *(f"{key}: {value}" for key, value in lines.items())]) + "\n"
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def kept(store: Store) -> Callable[[str], Any]:
    """Reads a JSON file of the job in the store, by its name."""
    return lambda part: json.loads((store.root / "full" / "quick" / f"{part}.json").read_text())


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal wide enough for every table."""
    monkeypatch.setenv("COLUMNS", "300")
