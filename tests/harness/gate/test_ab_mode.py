"""The modes of a speed A/B: both trainers at once, or whole processes one after the other."""

import json
import sys
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from harness.__main__ import main
from harness.errors import UsageError
from harness.gate.ab_mode import MemoryEstimate, choose
from harness.gate.history import load
from harness.gate.noise_sources import launch_rows
from harness.results.store import Store
from harness.runner.trainer import TRAINERS, FakeTrainer

ROOT = Path(__file__).resolve().parents[3]
BASE = """\
dial: {depth: 2, steps: 20, batch_tokens: 4096}
noise: {speed_cv: 0.0003, host_drift: 0.002, host_drift_period_s: 5.0}
"""
GIB = 2**30
LARGE = ("--set", "plant.memory_share=0.6")
UNDERESTIMATED = (*LARGE, "--set", "plant.memory_unforeseen=true")


class RunOnlyTrainer(FakeTrainer):
    """A trainer that cannot step on command."""

    name: ClassVar[str] = "runs"
    paces: ClassVar[bool] = False


@pytest.fixture
def gate(tmp_path, capfd, monkeypatch):
    """`harness gate` of one configuration in this process: exit code, result, progress."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setitem(TRAINERS, "runs", RunOnlyTrainer)
    (tmp_path / "base.yaml").write_text(BASE)

    def call(*options: object, trainer: str = "fake") -> tuple[int, dict, str]:
        argv = ["harness", "gate", str(tmp_path / "base.yaml"), "--trainer", trainer]
        argv += [*map(str, options), "--store", str(tmp_path / "runs"), "--json", "--no-confirm"]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ending:
            main()
        out, err = capfd.readouterr()
        result = json.loads(out) if out.startswith("{") else {}
        return int(ending.value.code or 0), result, err

    return call


def speed(result: dict) -> dict:
    (found,) = (one for one in result["metrics"] if one["result"]["metric"] == "tokens_per_s")
    return found["result"]


def segments_of(store: Path) -> list[Path]:
    """The run directories of the first launch's segments, in the order in which they ended."""
    found = store.glob("gates/*/1/launch-1/*/result.json")
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


def test_sides_that_do_not_fit_into_memory_together_run_sequentially(gate, tmp_path):
    planted = ("--candidate-set", "plant.slowdown=0.03", "--candidate-set", "plant.loss=0.1")
    code, result, progress = gate(*LARGE, *planted, "--claims", "refactor")
    assert code == 10
    assert [one["result"]["outcome"] for one in result["metrics"][:2]] == ["regression"] * 2
    assert "the losses differ from step" in result["metrics"][0]["result"]["reason"]
    assert "sequential A/B: whole processes one after the other" in progress
    assert "48.0 + 48.0 of 80.0 GiB by the trainer's estimate" in progress
    assert {launch["mode"] for launch in result["launches"]} == {"sequential"}
    assert all(len(launch["ratios"]) == 1 for launch in result["launches"])
    assert any("one ratio each, and their own spread" in note for note in speed(result)["notes"])
    (stored,) = load(Store(tmp_path / "runs"))
    (row,) = launch_rows([msgspec.structs.replace(stored, scale="a recipe", device="a device")])
    assert row.source == "sequential", "interleaved launches have another noise"
    segments = segments_of(tmp_path / "runs")
    assert [segment.name for segment in segments] == ["a1", "b1", "b2", "a2"]
    ended = [(segment / "result.json").stat().st_mtime_ns for segment in segments]
    started = [(segment / "config.json").stat().st_mtime_ns for segment in segments]
    assert all(end < start for end, start in zip(ended, started[1:], strict=False))


def test_underestimated_memory_is_read_at_start_and_the_gate_is_planned_again(gate):
    planted = (*UNDERESTIMATED, "--candidate-set", "plant.slowdown=0.03")
    code, result, progress = gate(*planted)
    assert code == 10
    assert "both sides at once" in progress
    assert any("planned again" in note for note in result["notes"])
    assert result["plan"]["parts"][0]["ab_mode"] == "sequential"
    assert result["launches"][0]["mode"] == "sequential"
    _, plan, _ = gate(*planted, "--plan")
    note = plan["parts"][0]["notes"][0]
    assert "reserved in earlier launches" in note, "known before the second gate starts"


def test_an_always_valid_gate_keeps_its_rule_when_it_is_planned_again(gate):
    planted = ("--candidate-set", "plant.slowdown=0.03")
    code, result, _ = gate(*UNDERESTIMATED, *planted, "--always-valid", "--budget-minutes", "2")
    assert code == 10
    (part,) = result["plan"]["parts"]
    assert (part["rule"], part["ab_mode"]) == ("always_valid", "sequential")
    assert len(result["launches"]) == result["metrics"][0]["look"] > 1


def test_a_mode_requested_with_ab_is_used_or_refused(gate):
    code, result, _ = gate(
        *UNDERESTIMATED, "--candidate-set", "plant.loss=0.1", "--ab", "interleaved"
    )
    assert code == 4
    assert "--ab sequential" in result["reason"]
    code, plan, _ = gate("--candidate-set", "plant.loss=0.1", "--ab", "sequential", "--plan")
    note = plan["parts"][0]["notes"][0]
    assert (code, "whole processes" in note, "requested" in note) == (0, True, True)
    code, _, errors = gate("--candidate-set", "plant.loss=0.1", "--ab", "sometimes")
    assert (code, "auto, interleaved or sequential" in errors) == (2, True)


def test_a_candidate_that_runs_out_of_memory_on_its_own_is_a_regression(gate):
    code, result, _ = gate("--candidate-set", "fail.out_of_memory_at_step=0")
    assert code == 10
    assert "the candidate ran out of memory" in result["reason"]


def test_segments_of_a_trainer_that_cannot_step_on_command_are_short_runs(gate, tmp_path):
    options = ("--set", "dial.steps=400", "--candidate-set", "plant.slowdown=0.03")
    code, result, progress = gate(*options, trainer="runs")
    assert code == 10
    assert "cannot step on command" in progress
    assert speed(result)["estimate"] == pytest.approx(-0.03, abs=0.005)
    (one, *_) = segments_of(tmp_path / "runs")
    assert json.loads((one / "result.json").read_text())["steps"] == 50
    code, result, _ = gate("--candidate-set", "fail.crash_at_step=3", trainer="runs")
    assert code == 10
    assert "the candidate crashed" in result["reason"]


@pytest.mark.parametrize(
    ("gpus", "b_gib", "read_gib", "mode"),
    [
        ("0", 42, None, "interleaved"),  # 90 % of the simulated GPU's 80 GiB, with 30 of A
        ("0", 43, None, "sequential"),
        ("0", 43, 100, "sequential"),  # measured on another machine
        ("", 60, 100, "interleaved"),
        ("", 61, 100, "sequential"),
        ("", 999, None, "interleaved"),  # read once both are ready
    ],
)
def test_auto_is_interleaved_up_to_90_percent_of_memory(monkeypatch, gpus, b_gib, read_gib, mode):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    device_bytes = read_gib and read_gib * GIB
    memory = MemoryEstimate(a_bytes=30 * GIB, b_bytes=b_gib * GIB, device_bytes=device_bytes)
    assert choose("auto", FakeTrainer(), memory).mode == mode


def test_interleaved_is_refused_for_a_trainer_that_cannot_step_on_command():
    with pytest.raises(UsageError, match="supports `pace`"):
        choose("interleaved", RunOnlyTrainer(), MemoryEstimate(a_bytes=1, b_bytes=1))
