"""Turns of a speed A/B: two trainers at once, or whole processes where that cannot be."""

import json
import sys
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from harness.__main__ import main
from harness.errors import UsageError
from harness.gate.ab_mode import Memory, choose
from harness.gate.history import launch_rows, load
from harness.results.store import Store
from harness.runner.trainer import TRAINERS, FakeTrainer

ROOT = Path(__file__).resolve().parents[3]
BASE = """\
dial: {depth: 2, steps: 20, batch_tokens: 4096}
noise: {speed_cv: 0.0003, host_drift: 0.002, host_drift_period_s: 5.0}
"""
GIB = 2**30
LARGE = ("--set", "plant.memory_share=0.6")
UNFORESEEN = (*LARGE, "--set", "plant.memory_unforeseen=true")


class Runs(FakeTrainer):
    """A trainer that can only run."""

    name: ClassVar[str] = "runs"
    paces: ClassVar[bool] = False


@pytest.fixture
def gate(tmp_path, capfd, monkeypatch):
    """`harness gate` of one configuration in this process: exit code, result, progress."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setitem(TRAINERS, "runs", Runs)
    (tmp_path / "base.yaml").write_text(BASE)

    def call(*words: object, trainer: str = "fake") -> tuple[int, dict, str]:
        line = ["harness", "gate", str(tmp_path / "base.yaml"), "--trainer", trainer]
        line += [*map(str, words), "--store", str(tmp_path / "runs"), "--json", "--no-confirm"]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as ending:
            main()
        out, err = capfd.readouterr()
        result = json.loads(out) if out.startswith("{") else {}
        return int(ending.value.code or 0), result, err

    return call


def speed(result: dict) -> dict:
    (found,) = (one for one in result["metrics"] if one["judged"]["metric"] == "tokens_per_s")
    return found["judged"]


def turns_of(store: Path) -> list[Path]:
    """The run directories of the first launch's turns, in the order in which they ended."""
    found = store.glob("gates/*/1/launch-1/*/result.json")
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


def test_two_that_do_not_fit_together_take_turns_as_whole_processes(gate, tmp_path):
    planted = ("--candidate-set", "plant.slowdown=0.03", "--candidate-set", "plant.loss=0.1")
    code, result, said = gate(*LARGE, *planted, "--claims", "refactor")
    assert code == 10
    assert [one["judged"]["outcome"] for one in result["metrics"][:2]] == ["regression"] * 2
    assert "the losses part at step" in result["metrics"][0]["judged"]["reason"]
    assert "turns: A B B A of whole processes" in said
    assert "48.0 + 48.0 of 80.0 GiB by the trainer's estimate" in said
    assert {launch["form"] for launch in result["launches"]} == {"sequential"}
    assert all(len(launch["ratios"]) == 1 for launch in result["launches"])
    assert any("one ratio each, and their own spread" in note for note in speed(result)["notes"])
    (stored,) = load(Store(tmp_path / "runs"))
    (row,) = launch_rows([msgspec.structs.replace(stored, scale="a recipe", device="a device")])
    assert row.source == "sequential", "resident launches have another noise"
    turns = turns_of(tmp_path / "runs")
    assert [turn.name for turn in turns] == ["a1", "b1", "b2", "a2"]
    ended = [(turn / "result.json").stat().st_mtime_ns for turn in turns]
    began = [(turn / "config.json").stat().st_mtime_ns for turn in turns]
    assert all(end < begin for end, begin in zip(ended, began[1:], strict=False))


def test_memory_that_no_estimate_knew_is_read_and_the_plan_made_anew(gate):
    planted = (*UNFORESEEN, "--candidate-set", "plant.slowdown=0.03")
    code, result, said = gate(*planted)
    assert code == 10
    assert "both sides at once" in said
    assert any("planned anew" in note for note in result["notes"])
    assert result["plan"]["parts"][0]["turns"] == "sequential"
    assert result["launches"][0]["form"] == "sequential"
    _, _, said = gate(*planted, "--plan")
    assert "held in earlier launches" in said, "the second gate knows it before it starts"


def test_an_open_gate_stays_open_when_its_plan_is_made_anew(gate):
    planted = ("--candidate-set", "plant.slowdown=0.03")
    code, result, _ = gate(*UNFORESEEN, *planted, "--always-valid", "--budget-minutes", "2")
    assert code == 10
    (part,) = result["plan"]["parts"]
    assert (part["rule"], part["turns"]) == ("open", "sequential")
    assert len(result["launches"]) == result["metrics"][0]["look"] > 1


def test_a_form_that_was_asked_for_is_kept_or_refused(gate):
    code, result, _ = gate(*UNFORESEEN, "--candidate-set", "plant.loss=0.1", "--ab", "interleaved")
    assert code == 4
    assert "--ab sequential" in result["reason"]
    code, _, said = gate("--candidate-set", "plant.loss=0.1", "--ab", "sequential", "--plan")
    assert (code, "whole processes" in said, "asked for" in said) == (0, True, True)
    code, _, said = gate("--candidate-set", "plant.loss=0.1", "--ab", "sometimes")
    assert (code, "auto, resident or relay" in said) == (2, True)


def test_a_candidate_that_has_too_little_memory_alone_too_is_a_regression(gate):
    code, result, _ = gate("--candidate-set", "fail.out_of_memory_at_step=0")
    assert code == 10
    assert "the candidate ran out of memory" in result["reason"]


def test_turns_of_a_trainer_that_only_runs_are_short_runs(gate, tmp_path):
    words = ("--set", "dial.steps=400", "--candidate-set", "plant.slowdown=0.03")
    code, result, said = gate(*words, trainer="runs")
    assert code == 10
    assert "takes no steps on command" in said
    assert speed(result)["estimate"] == pytest.approx(-0.03, abs=0.005)
    (one, *_) = turns_of(tmp_path / "runs")
    assert json.loads((one / "result.json").read_text())["steps"] == 50
    code, result, _ = gate("--candidate-set", "fail.crash_at_step=3", trainer="runs")
    assert code == 10
    assert "the candidate crashed" in result["reason"]


@pytest.mark.parametrize(
    ("gpus", "b_gib", "read_gib", "form"),
    [
        ("0", 42, None, "interleaved"),  # 90 % of the simulated GPU's 80 GiB, with 30 of A
        ("0", 43, None, "sequential"),
        ("0", 43, 100, "sequential"),  # read on another machine
        ("", 60, 100, "interleaved"),
        ("", 61, 100, "sequential"),
        ("", 999, None, "interleaved"),  # to be read when both are ready
    ],
)
def test_auto_goes_by_ninety_percent_of_the_device(monkeypatch, gpus, b_gib, read_gib, form):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    there = read_gib and read_gib * GIB
    memory = Memory(a_bytes=30 * GIB, b_bytes=b_gib * GIB, device_bytes=there)
    assert choose("auto", FakeTrainer(), memory).form == form


def test_a_trainer_that_only_runs_cannot_be_made_to_take_steps():
    with pytest.raises(UsageError, match="answers `pace`"):
        choose("interleaved", Runs(), Memory(a_bytes=1, b_bytes=1))
