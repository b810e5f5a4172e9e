"""The whole house once: a study of the native trainer, from its file to the report."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUDY = """\
study: tiny
question: Does the whole path from study to report hold?
trainer: native
base: tiny.yaml
set: {data: text}
arms:
  leave_one_out: [muon]
  idea: {patch: idea.diff}
seeds: [1]
horizons: [0.5, 1]
limits: {run_minutes: 2}
"""
BASE = """\
dial: {depth: 2, steps: 4, batch_tokens: 512}
model: {width: 64, context_tokens: 128, vocab_size: 512, rotary: {}, value_embeddings: {}}
optimizer: {muon: {}}
eval: {tokens: 1024}
system: {device: cpu, precision: fp32, compile: false, calibration_s: 0, threads: 1}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of this code with a study, a text folder and a patch in it."""
    from pydoc_data.topics import topics

    root = tmp_path / "checkout"
    for package in ("harness", "model"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, root / package, ignore=ignored)
    shutil.copy(ROOT / ".gitignore", root)
    (root / "study.yaml").write_text(STUDY)
    (root / "tiny.yaml").write_text(BASE)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "as it is")
    gpt = root / "model" / "gpt.py"
    before = gpt.read_text()
    gpt.write_text(before.replace("F.relu(hidden)", "F.relu(hidden * 1.0)") + "# another idea\n")
    (root / "idea.diff").write_text(git(root, "diff"))
    gpt.write_text(before)
    (root / "text").mkdir()
    for name, text in sorted(topics.items())[:30]:
        (root / "text" / f"{name}.txt").write_text(text, encoding="utf-8")
    return root


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    done = subprocess.run(
        ["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout


def harness(root: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_native_study_runs_from_its_file_to_its_report(checkout: Path) -> None:
    plan = harness(checkout, "study", "study.yaml", "--store", "store", "--dry-run", "--no-measure")
    assert "time: unknown" in plan
    assert not (checkout / ".cache").exists()  # a plan needs no data
    out = harness(checkout, "study", "study.yaml", "--store", "store")
    assert "All runs are recorded." in out
    study = json.loads((checkout / "store" / "studies" / "tiny.json").read_text())
    arms = {arm["name"]: arm for arm in study["arms"]}
    assert list(arms) == ["base", "no_muon", "idea", "base@0.5"]
    assert arms["base@0.5"]["set"] == {"data": "text", "dial.steps": 2}
    assert arms["no_muon"]["untuned"] == ["optimizer.matrices.lr"]
    # other code, same data: the patched checkout has no folder `text` of its own
    ids = {name: arm["identity"] for name, arm in arms.items()}
    assert len({identity["data_id"] for identity in ids.values()}) == 1
    assert ids["idea"]["code_id"] != ids["base"]["code_id"]
    assert ids["idea"]["config_id"] == ids["base"]["config_id"]
    records = [json.loads(p.read_text()) for p in (checkout / "store" / "records").glob("*.json")]
    assert len(records) == 4
    assert {record["status"] for record in records} == {"completed"}
    losses = {record["launch"]["arm"]: record["metrics"]["val_loss"] for record in records}
    assert losses["idea"] == losses["base"]  # the patch changes no number
    assert losses["no_muon"] != losses["base"]
    report = json.loads(
        (checkout / "store" / "reports" / "study" / "tiny" / "report.json").read_text()
    )
    assert report["attribution"]["base"] == "base"
    assert (checkout / "store" / "reports" / "study" / "tiny" / "report.html").exists()
    again = harness(checkout, "study", "study.yaml", "--store", "store")
    assert "All runs are recorded." in again
    assert len(list((checkout / "store" / "records").glob("*.json"))) == 4
