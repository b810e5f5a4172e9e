"""One real full job: four gloo ranks, one of them killed, CORE, the entry, the artifact bundle."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.results.store import Store

from .model.core.conftest import write_bundle

ROOT = Path(__file__).parents[1]
RANKS = 4
JOB = """\
full: tiny
question: Does the whole path of a full job work?
base: tiny.yaml
set: {dial.depth: 4}
ranks: 4
proxies:
  field: dial.depth
  values: [1, 2, 3]
  set: {checkpoint.every_steps: null, system.threads: null}
step_test_seconds: 0.5
limits: {hours: 0.5, restarts: 2}
"""
BASE = """\
dial: {ratio: 0.3, batch_tokens: 1024}
model: {width: 64, head_width: 32, context_tokens: 128, vocab_size: 512, rotary: {}}
optimizer: {muon: {}}
data: {source: text, cache_dir: cache}
eval: {tokens: 1024, every_steps: 100}
core: {bundle: bundle}
checkpoint: {every_steps: 5}
system: {device: cpu, precision: fp32, compile: false, calibration_s: 0, threads: 1}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job on a text of its own, and where it stands."""
    from pydoc_data.topics import topics

    write_bundle(tmp_path / "bundle")
    (tmp_path / "text").mkdir()
    for name, text in sorted(topics.items())[:30]:
        (tmp_path / "text" / f"{name}.txt").write_text(text, encoding="utf-8")
    base = BASE
    for folder in ("text", "cache", "bundle"):
        base = base.replace(f": {folder}", f": {tmp_path / folder}")
    (tmp_path / "tiny.yaml").write_text(base)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path / "job.yaml"


@pytest.fixture
def start(job: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts `harness full` on the job; leftover processes end with the test."""
    started = []

    def begin(*options: str) -> "subprocess.Popen[str]":
        argv = ["full", str(job), "--store", str(job.parent / "runs"), "--json", *options]
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", *argv],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()  # ends its trainers too
        process.communicate(timeout=60)


def result_of(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, text = process.communicate(timeout=300)
    assert process.returncode == 0, text
    data: dict[str, Any] = json.loads(out)
    return data


def ranks_of(store: Path) -> dict[int, int]:
    """Rank -> pid of the processes that train for the store now."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        ours = any(str(store / "plans") in word for word in argv)
        rank = next((line for line in environment if line.startswith("RANK=")), None)
        if ours and rank is not None:
            found[int(rank.removeprefix("RANK="))] = int(entry.name)
    return found


def kill_a_rank(store: Path, process: "subprocess.Popen[str]") -> None:
    """Kills rank 2 once a checkpoint of all ranks is on the disk."""
    while not any(store.glob("plans/*/*/checkpoints/step-????????/manifest.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.kill(ranks_of(store)[2], signal.SIGKILL)


@pytest.mark.slow
def test_a_full_job_over_four_ranks_survives_the_loss_of_one(start, tmp_path):
    runs = tmp_path / "runs"
    data = result_of(start("--proxies"))
    assert data["forecast"]["forecast"]["val_bpb"]["low"] > 0
    process = start("--artifacts", str(tmp_path / "artifacts.tar"))
    kill_a_rank(runs, process)
    data = result_of(process)
    entry, store = data["leaderboard_entry"], Store(runs)
    lost, made = [one for one in store.records() if one.launch.ranks == RANKS]
    assert (lost.status, made.status, made.metrics["resumes"]) == ("failed", "completed", 1)
    assert "rank 2" in lost.reason
    assert store.curve(made.plan_id).column("step").to_pylist() == list(range(1, made.steps + 1))
    assert (entry["ranks"], entry["core"]) == (RANKS, made.metrics["core"])
    assert entry["core"] is not None
    assert data["forecast"]["forecast"]["core"] is not None
    with tarfile.open(tmp_path / "artifacts.tar") as tar:
        assert "full/toy/SHA256SUMS" in tar.getnames()
    assert ranks_of(runs) == {}
