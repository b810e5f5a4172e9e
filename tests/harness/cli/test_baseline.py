"""`harness baseline` as users type it: recorded once, accepted with fresh replicates."""

import sys
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.gate import baseline

ROOT = Path(__file__).resolve().parents[3]
BASE = """\
dial: {depth: 2, steps: 20, batch_tokens: 4096}
windows: SSSL
noise: {loss_sd: 0.0002}
"""
NOISE_MODEL = """\
scale,metric,gpu,source,sd,df,runs,groups,origin,note
"fake 920k parameters, 82k tokens",val_bpb,simulated,seed,0.00046,60,80,20,measured,
"""


@pytest.fixture
def command(tmp_path, capfd, monkeypatch):
    """`harness baseline WORDS`: the exit code and what it printed."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "noise.csv").write_text(NOISE_MODEL)

    def call(verb: str, name: str, *words: object) -> tuple[int, str]:
        line = ["harness", "baseline", verb, name, *map(str, words)]
        line += ["--baselines", str(tmp_path / "baselines")]
        if verb in ("record", "accept"):
            line += [str(tmp_path / "base.yaml"), "--trainer", "fake"]
            line += [
                "--store",
                str(tmp_path / "runs"),
                "--noise-model",
                str(tmp_path / "noise.csv"),
            ]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as ending:
            main()
        out, err = capfd.readouterr()
        return int(ending.value.code or 0), out + err

    return call


def test_fresh_replicates_are_accepted_with_reason_and_evidence(command, tmp_path):
    assert command("record", "small", "--seeds", "1-8")[0] == 0
    code, _ = command("accept", "small", "--seeds", "9-16", "--why", "a new driver")
    assert code == 0
    found = baseline.find(tmp_path / "baselines", "small")
    assert [entry.seeds for entry in found.entries] == [list(range(1, 9)), list(range(9, 17))]
    assert found.now.why == "a new driver"
    assert found.now.evidence is not None
    assert found.now.evidence.outcome == "pass"
    code, shown = command("show", "small")
    assert code == 0
    assert "evidence at 0.01: pass" in shown


def test_the_old_replicates_bank_nothing(command):
    command("record", "small", "--seeds", "1-8")
    code, said = command("accept", "small", "--seeds", "7-12", "--why", "again")
    assert code == 4
    assert "fresh replicates" in said


def test_worse_replicates_are_kept_out_unless_they_are_meant(command, tmp_path):
    command("record", "small", "--seeds", "1-8")
    worse = ("--seeds", "9-16", "--set", "plant.loss=0.01", "--why", "cheaper")
    code, said = command("accept", "small", *worse)
    assert code == 10
    assert "not accepted" in said
    assert len(baseline.find(tmp_path / "baselines", "small").entries) == 1
    assert command("accept", "small", *worse, "--allow-regression")[0] == 0
    assert len(baseline.find(tmp_path / "baselines", "small").entries) == 2


def test_an_arm_of_a_study_becomes_a_baseline(command, tmp_path, monkeypatch, capfd):
    study = tmp_path / "study.yaml"
    study.write_text(
        "study: quick\nquestion: Is it stored?\ntrainer: fake\nbase: base.yaml\n"
        "arms: {leave_one_out: [windows]}\nseeds: [1, 2]\nlimits: {run_minutes: 1}\n"
    )
    words = ["harness", "study", str(study), "--store", str(tmp_path / "runs"), "--no-html"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        main()
    words = ["harness", "baseline", "record", "arm", "--from", f"{tmp_path / 'runs'}:quick/base"]
    words += ["--baselines", str(tmp_path / "baselines")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ending:
        main()
    assert not ending.value.code
    found = baseline.find(tmp_path / "baselines", "arm")
    assert found.now.seeds == [1, 2]
    assert found.now.config["windows"] == "SSSL"
