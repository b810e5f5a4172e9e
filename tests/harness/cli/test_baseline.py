"""`harness baseline` as users type it: recorded once, accepted with fresh replicates."""

import json
import sys
from pathlib import Path

import pytest

from harness import errors
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
    """Runs `harness baseline` and returns the exit code and everything that it printed."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "noise.csv").write_text(NOISE_MODEL)

    def call(verb: str, *options: object) -> tuple[int, str]:
        argv = ["harness", "baseline", verb, *map(str, options)]
        argv += ["--baselines", str(tmp_path / "baselines")]
        if verb in ("record", "accept"):
            argv += [str(tmp_path / "base.yaml"), "--trainer", "fake"]
            argv += [
                "--store",
                str(tmp_path / "runs"),
                "--noise-model",
                str(tmp_path / "noise.csv"),
            ]
        monkeypatch.setattr(sys, "argv", argv)
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
    assert "evidence: pass at alpha 0.01" in shown


def test_replicates_of_the_baseline_itself_are_not_accepted(command):
    command("record", "small", "--seeds", "1-8")
    code, output = command("accept", "small", "--seeds", "7-12", "--why", "again")
    assert code == 4
    assert "fresh replicates" in output


@pytest.mark.slow
def test_worse_replicates_are_refused_without_allow_regression(command, tmp_path):
    command("record", "small", "--seeds", "1-8")
    worse = ("--seeds", "9-16", "--set", "plant.loss=0.01", "--why", "cheaper")
    code, output = command("accept", "small", *worse)
    assert code == 10
    assert "not accepted" in output
    assert len(baseline.find(tmp_path / "baselines", "small").entries) == 1
    assert command("accept", "small", *worse, "--allow-regression")[0] == 0
    assert len(baseline.find(tmp_path / "baselines", "small").entries) == 2


def test_an_arm_of_a_study_becomes_a_baseline(command, tmp_path, monkeypatch, capfd):
    study = tmp_path / "study.yaml"
    study.write_text(
        "study: quick\nquestion: Is it stored?\ntrainer: fake\nbase: base.yaml\n"
        "arms: {leave_one_out: [windows]}\nseeds: [1, 2]\nlimits: {run_minutes: 1}\n"
    )
    argv = ["harness", "study", str(study), "--store", str(tmp_path / "runs"), "--no-html"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        main()
    argv = ["harness", "baseline", "record", "arm", "--from", f"{tmp_path / 'runs'}:quick/base"]
    argv += ["--baselines", str(tmp_path / "baselines")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ending:
        main()
    assert not ending.value.code
    found = baseline.find(tmp_path / "baselines", "arm")
    assert found.now.seeds == [1, 2]
    assert found.now.config["windows"] == "SSSL"


def test_every_command_answers_json(command):
    def answer(*options: object) -> tuple[int, dict | list]:
        code, output = command(*options, "--json")
        start = next(i for i, line in enumerate(output.splitlines()) if line[:1] in ("{", "["))
        return code, json.JSONDecoder().raw_decode("\n".join(output.splitlines()[start:]))[0]

    code, recorded = answer("record", "small", "--seeds", "1-8")
    assert (code, recorded["accepted"], recorded["entry"]["number"]) == (0, True, 1)
    worse = ("--seeds", "9-16", "--set", "plant.loss=0.01", "--why", "cheaper")
    code, refused = answer("accept", "small", *worse)
    assert (code, refused["accepted"], refused["exit_code"]) == (10, False, 10)
    assert refused["evidence"]["outcome"] == "regression"
    assert "--allow-regression" in refused["reason"]
    ((code, listed), (_, shown)) = answer("list"), answer("show", "small")
    assert (code, [one["runs"] for one in listed]) == (0, [8])
    assert (shown["name"], len(shown["entries"])) == ("small", 1)


def test_a_name_that_does_not_fit_is_refused_before_the_replicates_are_run(command, tmp_path):
    code, output = command("accept", "small", "--why", "x")
    assert (code, "seed" in output.partition("error:")[0]) == (errors.COULD_NOT_RUN, False)
    assert command("record", "a/b")[0] == errors.USAGE
    assert not (tmp_path / "runs" / "records").exists()
    assert command("record", "small", "--seeds", "1-2")[0] == 0
    code, output = command("record", "small", "--seeds", "3-6")
    assert code == errors.COULD_NOT_RUN
    assert "a name that is not in use" in output
    assert "seed 4" not in output


@pytest.mark.parametrize("why", ["", " "])
def test_an_entry_is_not_replaced_without_a_reason(command, why):
    code, output = command("accept", "small", "--seeds", "9-16", "--why", why)
    assert code == 2
    assert "--why: expected a reason" in output
