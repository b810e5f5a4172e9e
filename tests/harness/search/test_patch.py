"""The patch of a base: git applies it, it keeps all other lines and sets the values."""

import subprocess
from pathlib import Path

import pytest

from harness.errors import ReportError
from harness.search.patch import diff, patched

ROOT = Path(__file__).resolve().parents[3]
BASE = """\
# the reference recipe
dial: {depth: 12}   # small
optimizer:
  clip: null
  muon:
    orthogonalize: "polar_express"   # quoted
    lr: 0.02  # by hand
  embedding: {lr: 0.3, beta1: 0.8}

model: {norm: rmsnorm}
"""


def load(text):
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def test_only_necessary_lines_change_and_the_evidence_is_above_the_first():
    wanted = {"optimizer.muon.lr": 0.025, "optimizer.embedding.lr": 0.2, "schedule.warmup": 10}
    new = patched(BASE, wanted, ["val_bpb -0.004"], "base.yaml")
    removed = [line for line in BASE.splitlines() if line not in new.splitlines()]
    assert removed == ["    lr: 0.02  # by hand", "  embedding: {lr: 0.3, beta1: 0.8}"]
    assert "    # val_bpb -0.004\n    lr: 0.025 # by hand\n" in new
    tree = load(new)
    assert tree["optimizer"]["embedding"] == {"lr": 0.2, "beta1": 0.8}
    assert tree["schedule"] == {"warmup": 10}
    assert tree["dial"] == {"depth": 12}


def test_git_applies_the_patch(tmp_path):
    file = tmp_path / "configs" / "base.yaml"
    file.parent.mkdir()
    file.write_text(BASE)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    wanted = {"model.softcap": {"cap": 15}, "optimizer.clip": 1.0}
    text = diff(BASE, wanted, ["evidence"], "configs/base.yaml")
    subprocess.run(["git", "apply"], cwd=tmp_path, input=text, text=True, check=True)
    assert load(file.read_text())["model"] == {"norm": "rmsnorm", "softcap": {"cap": 15}}
    assert load(file.read_text())["optimizer"]["clip"] == 1.0


@pytest.mark.parametrize("path", ["optimizer.clip", "model.norm", "schedule.warmup"])
@pytest.mark.parametrize(
    "text",
    [BASE.removesuffix("\n"), BASE.replace("\n", "\r\n"), BASE.replace("\n", "\r\n")[:-2]],
    ids=["no newline at the end", "carriage returns", "both"],
)
def test_git_applies_it_to_a_file_with_other_line_ends_and_keeps_them(tmp_path, text, path):
    file = tmp_path / "base.yaml"
    file.write_bytes(text.encode())
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    made = diff(text, {path: 10}, ["evidence"], "base.yaml")
    subprocess.run(["git", "apply"], cwd=tmp_path, input=made.encode(), check=True)
    new = file.read_bytes().decode()
    assert new == patched(text, {path: 10}, ["evidence"], "base.yaml")
    assert new.count("\r\n") == new.count("\n") * ("\r\n" in text)
    assert new.endswith("\n") == text.endswith("\n")
    section, _, field = path.partition(".")
    assert load(new)[section][field] == 10


def test_every_shipped_base_can_be_patched():
    for path in (ROOT / "ablations" / "configs").glob("*.yaml"):
        text = path.read_text()
        new = patched(text, {"dial.depth": 99}, [], path.name)
        changed = set(text.splitlines()) ^ set(new.splitlines())
        assert all("depth" in line or "dial" in line for line in changed), changed
        assert load(new)["dial"]["depth"] == 99


def test_a_file_with_folded_values_is_an_error():
    folded = "a: {b: 1,\n    c: 2}\n"
    with pytest.raises(ReportError, match="changed line by line"):
        patched(folded, {"a.b": 3}, [], "base.yaml")
