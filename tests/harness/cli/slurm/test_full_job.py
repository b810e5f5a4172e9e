"""Full jobs through a real Slurm: one of the FakeTrainer, a real one over two nodes."""

from pathlib import Path

import pytest

from harness import errors, files

pytestmark = pytest.mark.slow
SLURM = {"kind": "slurm", "shared_store": "true", "cpus_per_task": 2}
FAKE = """\
full: one-node
trainer: fake
base: base.yaml
ranks: 4
step_test_seconds: 0.1
"""
FAKE_BASE = "dial: {depth: 4, ratio: 0.05, batch_tokens: 8192}\ncore: {examples: 20}\n"
TWO = """\
full: two-nodes
base: base.yaml
ranks: 2
nodes: 2
step_test_seconds: 0.2
"""
TWO_BASE = """\
dial: {depth: 1, steps: 20, batch_tokens: 512}
model: {width: 64, head_width: 32, context_tokens: 128, vocab_size: 512, rotary: {}}
optimizer: {muon: {}}
data: {cache_dir: CACHE}
eval: {tokens: 1024}
system: {device: cpu, precision: fp32, compile: false, calibration_s: 0, threads: 1}
"""


@pytest.fixture
def made(submit, slurm, cluster_file, store, tmp_path):
    """Runs a job to its end on that Slurm; returns its leaderboard entry."""

    def run(job: str, base: str, **cluster: object) -> dict[str, object]:
        (tmp_path / "job.yaml").write_text(job)
        (tmp_path / "base.yaml").write_text(base.replace("CACHE", str(tmp_path / "cache")))
        argv = ("full", tmp_path / "job.yaml", "--without-forecast")
        file = cluster_file(**SLURM, **cluster)
        done = submit("--wait", file, "--", *argv, OMP_NUM_THREADS="1", **slurm)
        assert done.returncode == errors.PASS, done.stdout + done.stderr + logs(store.root)
        (path,) = store.root.glob("full/*/leaderboard_entry.json")
        entry: dict[str, object] = files.read_json(path)
        return entry

    return run


def logs(root: Path) -> str:
    """All logs of a store's jobs, for a failure message."""
    found = [path for path in (root / "jobs").rglob("*") if path.is_file()]
    return "\n".join(f"{path}:\n{path.read_text(errors='replace')[-4000:]}" for path in found)


def test_a_full_job_runs_through_slurm_to_its_entry(made, store):
    entry = made(FAKE, FAKE_BASE)
    (record,) = store.records()
    assert (entry["ranks"], entry["nodes"], entry["core"]) == (4, 1, record.metrics["core"])


def test_a_full_job_over_two_nodes_is_one_run(made, store):
    pytest.importorskip("torch")
    entry = made(TWO, TWO_BASE, nodes=2)
    (record,) = store.records()
    assert (entry["ranks"], entry["nodes"], record.steps) == (2, 2, 20)
