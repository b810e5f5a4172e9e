"""The table of tricks: which configurations are compared, what is kept of each, what is shown."""

import argparse
import contextlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from benchmarks.speed.pace import CHECKOUT, Pace
from benchmarks.speed.toggles.__main__ import noise_of
from benchmarks.speed.toggles.plan import Toggle, overrides_of, planned
from benchmarks.speed.toggles.rounds import (
    Clock,
    Process,
    Sitting,
    Waiting,
    is_lack_of_memory,
    with_room,
)
from benchmarks.speed.toggles.rows import Noise, Row, Rows, Session, failed_row, row_of
from benchmarks.speed.toggles.table import effect, markdown, terminal
from harness.comparison.noise_model import SHIPPED, NoiseModel, read_rows
from harness.errors import UsageError
from harness.results.study_plan import TrickInfo
from harness.runner.replies import Request
from harness.runner.stepper import StepperFailed
from harness.runner.trainer import NativeTrainer
from harness.stats.ab_noise import log_ratio
from harness.stats.distributions import t_quantile

SPEEDRUN = CHECKOUT / "ablations" / "configs" / "speedrun.yaml"
TINY = {
    "dial": {"depth": 1, "steps": 3, "batch_tokens": 256},
    "model": {"width": 64, "context_tokens": 64, "vocab_size": 512},
    "system": {"device": "cpu", "precision": "fp32", "compile": False, "threads": 1},
}
SESSION = Session(
    base="speedrun",
    set=["dial.depth=8"],
    config_id="c",
    code_id="d",
    synthetic=True,
    seconds=20.0,
    planned=["muon", "xsa", "smear"],
    device="a GPU",
    environment_id="e",
    torch="2.11",
    kernel_plan={},
    batch_tokens=1000,
    noise=None,
)
MUON = Row(
    name="muon",
    trick="muon",
    on_in_base=True,
    ratios=[-0.01, -0.012, -0.011],
    tokens_per_s=(1000.0, 1011.0),
)
XSA = Row(
    name="xsa", trick="xsa", on_in_base=False, ratios=[0.02, 0.02], tokens_per_s=(1000.0, 980.0)
)


def names_to_toggles(*names: str) -> dict[str, Toggle]:
    plan = planned(NativeTrainer(CHECKOUT), SPEEDRUN, {}, names)
    return {toggle.name: toggle for toggle in plan.toggles}


def value(config: dict[str, Any], path: str) -> Any:
    for name in path.split("."):
        config = config[name]
    return config


def test_a_trick_comes_with_what_it_requires_and_without_what_conflicts() -> None:
    found = names_to_toggles("logit_rescale", "partial_key_offset", "muon", "swiglu", "bias_free")
    assert {name: (toggle.on_in_base, toggle.also) for name, toggle in found.items()} == {
        "muon": (True, dict.fromkeys(MUON_PARTS, False)),
        "logit_rescale": (False, {"softcap": False}),
        "partial_key_offset": (False, {"half_rotary": True}),
        "bias_free": (True, {}),
        "swiglu": (False, {"relu_squared": False}),
    }
    assert value(found["muon"].config, "optimizer.muon") is None
    assert value(found["logit_rescale"].config, "model.softcap") is None
    assert value(found["swiglu"].config, "model.activation") == "swiglu"
    # biases would make the run a step longer; the base's steps are handed on
    assert value(found["bias_free"].config, "dial.steps") == 2520


MUON_PARTS = [
    f"muon_{part}"
    for part in ("polar_express", "normuon", "equalize_rows", "renormalize", "cautious_decay")
]


def test_whatever_requires_a_trick_goes_with_it_unless_it_is_a_part_of_it() -> None:
    catalogue = {
        "a": TrickInfo(off={"x.a": None}, on={"x.a": {}}),
        "part": TrickInfo(off={"x.a.part": False}, on={"x.a.part": True}, requires=["a"]),
        "rests": TrickInfo(off={"y": 0}, on={"y": 1}, requires=["part"]),
        "idle": TrickInfo(off={"z": 0}, on={"z": 1}, requires=["a"]),
        "against": TrickInfo(off={"w": 0}, on={"w": 1}, conflicts=["a"]),
    }
    on = {"a": True, "part": True, "rests": True, "idle": False, "against": False}
    assert overrides_of("a", catalogue, on) == {"x.a": None, "y": 0}
    assert overrides_of("idle", catalogue, on) == {"z": 1}
    assert overrides_of("against", catalogue, on) == {"x.a": None, "w": 1}
    off = {**dict.fromkeys(on, False), "against": True}
    assert overrides_of("rests", catalogue, off) == {"w": 0, "x.a": {}, "x.a.part": True, "y": 1}


def test_a_trick_that_changes_over_the_run_is_compared_stage_by_stage() -> None:
    found = names_to_toggles("sequence_length_schedule")
    assert {name: toggle.at_step for name, toggle in found.items()} == {
        "sequence_length_schedule, steps 0 to 839": 0,
        "sequence_length_schedule, steps 840 to 2,519": 840,
    }
    staged = {"schedule.context_stages": {}}
    with pytest.raises(UsageError, match="a base whose schedule has one stage"):
        planned(NativeTrainer(CHECKOUT), SPEEDRUN, staged, ["smear"])


def test_a_trick_that_is_unknown_or_impossible_is_reported() -> None:
    with pytest.raises(UsageError, match="Did you mean 'softcap'"):
        names_to_toggles("softcup")
    short = {"model.context_tokens": 64, "model.windows": None, "dial.batch_tokens": 256}
    (toggle,) = planned(NativeTrainer(CHECKOUT), SPEEDRUN, short, ["paired_heads"]).toggles
    assert toggle.refused is not None
    assert "model.context_tokens: expected at least 128 tokens" in toggle.refused


def test_half_a_line_of_a_killed_call_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = Rows(path)
    rows.open(SESSION)
    rows.add(MUON)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type":"row","name":"xs')
    again = Rows(path)
    assert (again.rows, again.unmeasured) == ([MUON], ["xsa", "smear"])
    again.add(XSA)
    assert path.read_bytes().startswith(whole + b'{"type":"row","name":"xsa"')
    assert Rows(path).rows == [MUON, XSA]


def test_of_two_rows_of_a_toggle_the_later_one_counts(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    rows.open(SESSION)
    rows.add(failed_row(Toggle(trick="xsa", on_in_base=False), "out of\n memory"))
    assert rows.rows[0].failed == "out of memory"
    rows.add(XSA)
    assert rows.rows == [XSA]


def test_rows_of_another_base_or_device_are_not_mixed_in(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    rows.require_same("anything", "goes", True)
    rows.open(SESSION)
    rows.require_same("c", "d", True)
    with pytest.raises(UsageError, match="the same code_id as this call's, new; got d"):
        rows.require_same("c", "new", True)
    rows.open(msgspec.structs.replace(SESSION, environment_id="another of its kind"))
    with pytest.raises(UsageError, match="the same device"):
        rows.open(msgspec.structs.replace(SESSION, device="another GPU"))
    (tmp_path / "other.txt").write_text("hello\n")
    with pytest.raises(UsageError, match="line 1: expected a line that this command wrote"):
        Rows(tmp_path / "other.txt")


def turns(*windows: tuple[float, float, float, float], recompiled: int = 0) -> list[Any]:
    """Turns of two steps; `recompiled` in the first turn of the first window."""
    found = [
        [
            {"steps": 2, "step_s": [s, s], "loader_wait_s": [0.0, 0.1 * s], "recompiled": 0}
            | {"peak_memory_bytes": 1e9, "sm_clock_mhz": 1600.0}
            for s in window
        ]
        for window in windows
    ]
    found[0][0]["recompiled"] = recompiled
    return found


def test_a_row_compares_seconds_a_token_in_windows_without_a_compilation() -> None:
    base = {"batch_tokens": 100, "kernel_plan": {"loss": "triton", "qkv": "triton"}}
    other = {"batch_tokens": 200, "kernel_plan": {"loss": "eager", "qkv": "triton"}}
    other |= {"compile_s": 1.0, "environment_id": "e"}
    usual = (1.0, 2.2, 2.2, 1.0)
    toggle = Toggle(trick="xsa", on_in_base=False)
    row = row_of(toggle, base, other, turns((9.0, 2.2, 2.2, 1.0), usual, usual, recompiled=1))
    assert row.ratios == pytest.approx([math.log(1.1)] * 2, abs=1e-6)
    assert row.left_out == 1
    assert row.tokens_per_s == pytest.approx((100.0, 200 / 2.2), rel=1e-5)
    assert row.loader_wait_share == pytest.approx((0.05, 0.05))
    assert row.sm_clock_mhz == (1600.0, 1600.0)
    assert row.kernels == {"loss": ("triton", "eager")}
    lost = row_of(toggle, base, other, turns(usual, recompiled=1))
    assert lost.failed == "something was compiled in every window"


def test_an_effect_is_that_of_having_the_trick_whichever_side_has_it() -> None:
    assert effect(MUON, None).log_ratio == pytest.approx(0.011)  # without it a token is faster
    assert effect(XSA, None).log_ratio == pytest.approx(0.02)
    assert effect(MUON, None).low < 0.011 < effect(MUON, None).high


def test_the_interval_of_one_launch_includes_the_noise_between_launches() -> None:
    noise = Noise(sd=0.002, df=20, origin="measured noise model")
    se = math.sqrt(2 * 0.002**2 + 0.001**2 / 3)  # 0.001: SD of the three windows
    found = effect(MUON, noise)
    assert found.high - found.log_ratio == pytest.approx(t_quantile(0.975, 20) * se)


def test_launch_noise_of_another_recipe_on_the_same_device_is_named_as_such() -> None:
    (base,) = NativeTrainer(CHECKOUT).describe([Request(name="b", base=str(SPEEDRUN), set={})])
    prior = read_rows(SHIPPED)
    on_h100 = noise_of(base, "NVIDIA H100 80GB HBM3", NoiseModel(prior))
    assert on_h100 is not None
    assert on_h100.origin.startswith("shipped noise model, of another recipe: ")
    assert noise_of(base, "a device that nobody measured", NoiseModel(prior)) is None
    own = {"origin": "measured", "df": 9, "sd": 0.001, "metric": "tokens_per_s"}
    row = msgspec.structs.replace(prior[0], scale="native d12, 1.3B tokens", **own)
    row = msgspec.structs.replace(row, gpu="NVIDIA H100 80GB HBM3", source="launch")
    found = noise_of(base, "NVIDIA H100 80GB HBM3", NoiseModel([*prior, row]))
    assert found == Noise(sd=0.001, df=9, origin="measured noise model: native d12, 1.3B tokens")


def test_a_table_names_the_noise_the_failures_and_what_is_missing(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    rows.open(SESSION)
    rows.add(msgspec.structs.replace(MUON, also={"muon_normuon": False}))
    rows.add(failed_row(Toggle(trick="xsa", on_in_base=False), "no | kernel"))
    lines = markdown(rows).splitlines()
    assert lines[0].startswith("`speedrun --set dial.depth=8` on one a GPU, torch 2.11, 1,000 tok")
    assert lines[4].startswith("| muon | on | 1,011 | 1,000 | +1.11 % [")
    assert lines[4].endswith("| muon_normuon off too |")
    assert lines[5] == "| xsa | off | – | – | – | not measured: no ∣ kernel |"
    assert lines[-1] == "Not measured (1): smear."
    assert "hold for the windows of that launch alone" in terminal(rows)
    rows.learn(Noise(sd=0.002, df=20, origin="measured noise model, native d12"))
    rows.learn(None)
    rows.open(SESSION)  # another call, of which less was known
    assert "count an s_launch of 0.200 % (20 df, measured noise model, native d12)" in terminal(
        Rows(rows.path)
    )


def test_room_is_given_to_those_that_come_first() -> None:
    assert with_room(10, 40, [15, 20, 15]) == [True, False, True]
    assert with_room(10, 12, [15]) == [False]


def test_where_all_leave_the_base_no_memory_half_of_them_start_next(tmp_path: Path) -> None:
    a, b, c = (Toggle(trick=name, on_in_base=False) for name in "abc")
    waiting = Waiting(together=[])
    chosen = argparse.Namespace(together=3)
    plan = planned(NativeTrainer(CHECKOUT), written(tmp_path), {}, ["xsa"])
    with contextlib.ExitStack() as running:
        rows = Rows(tmp_path / "rows.jsonl")
        sitting = Sitting(chosen, plan, rows, lambda device: None, tmp_path, running)
        assert sitting._fewer([a, b, c], [], waiting) == []
    assert (sitting.most, waiting.take(sitting.most)) == (1, [a])
    lacks = StepperFailed("the base", "CUDA out of memory", "out_of_memory", None, False)
    assert is_lack_of_memory(lacks)
    assert not is_lack_of_memory(StepperFailed("the base", "no GPU", "failed", None, False))


def test_what_failed_beside_others_comes_last_and_alone() -> None:
    a, b, c, d = (Toggle(trick=name, on_in_base=False) for name in "abcd")
    waiting = Waiting(together=[b, c], alone=[a, d])
    assert [waiting.take(3) for _ in range(3)] == [[b, c], [a], [d]]
    assert not waiting


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({**TINY, **changes}))
    return path


class Drifting:
    """A trainer of known step time on a machine that slows down from turn to turn, the same for
    all; it may fail at a turn."""

    turns = 0

    def __init__(self, side: str, step_s: float, fails_at: int | None = None) -> None:
        self.side, self.step_s, self.fails_at, self.own = side, step_s, fails_at, 0

    def ask(self, word: str, timeout_s: float) -> dict[str, Any]:
        steps = int(word.split()[1])
        self.own += 1
        Drifting.turns += 1
        if self.own == self.fails_at:
            raise StepperFailed(self.side, "lost", "failed", None, False)
        return {"steps": steps, "step_s": [self.step_s * (1 + 1e-4 * Drifting.turns)] * steps}


def test_toggles_go_around_with_their_base_and_who_fails_leaves_the_round(tmp_path: Path) -> None:
    chosen = argparse.Namespace(together=3, seconds=8.0, turn_seconds=1.0)
    sides = {"base": 0.5, "a": 0.55, "b": 0.6, "c": 0.45}
    made = {
        side: Process(
            pace=cast(Pace, Drifting(side, step_s, 3 if side == "b" else None)),
            ready={"step_s": step_s},
        )
        for side, step_s in sides.items()
    }
    plan = planned(NativeTrainer(CHECKOUT), written(tmp_path), {}, ["xsa"])
    with contextlib.ExitStack() as running:
        rows = Rows(tmp_path / "rows.jsonl")
        sitting = Sitting(chosen, plan, rows, lambda device: None, tmp_path, running)
        windows, failures = sitting._windows(made["base"], [made[side] for side in "abc"])
    assert [failure is None for failure in failures] == [True, False, True]
    assert [len(own) for own in windows] == [2, 0, 2]
    for side, own in (("a", windows[0]), ("c", windows[2])):
        for window in own:
            step_s = [turn["step_s"][0] for turn in window]
            found = log_ratio(step_s[0], step_s[1], step_s[2], step_s[3])
            assert found == pytest.approx(math.log(sides[side] / 0.5), abs=1e-6)


@pytest.mark.slow
def test_a_toggle_that_dies_is_tried_alone_and_then_a_row_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = written(tmp_path)
    plan = planned(NativeTrainer(CHECKOUT), base, {}, ["xsa"])
    (lives,) = plan.toggles
    system = {**lives.config["system"], "attention": "flex"}  # needs a GPU
    dies = msgspec.structs.replace(lives, trick="dies", config={**lives.config, "system": system})
    plan = msgspec.structs.replace(plan, toggles=[dies, lives])
    words = {"seconds": 0.2, "turn_seconds": 0.02, "ready_minutes": 1.0, "together": 2}
    chosen = argparse.Namespace(base=base, set=[], synthetic=True, **words)
    rows = Rows(tmp_path / "rows.jsonl")
    with contextlib.ExitStack() as running:
        sitting = Sitting(chosen, plan, rows, lambda device: None, tmp_path, running)
        sitting.measure(plan.toggles, Clock(ends_at=math.inf))
    assert [(row.name, row.failed is None) for row in rows.rows] == [("dies", False), ("xsa", True)]
    assert "expected flex to run here" in (rows.rows[0].failed or "")
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("dies: will be tried with the base alone: ")
    assert second.startswith("xsa: ")


@pytest.mark.slow
def test_toggles_take_turns_with_their_base_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.toggles",
        str(written(tmp_path)),
        "--synthetic",
    ]
    command += ["--out", str(out), "--seconds", "0.4", "--turn-seconds", "0.05"]
    command += ["--tricks", "smear", "swiglu", "paired_heads"]

    def called(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*command, *words], cwd=CHECKOUT, capture_output=True, text=True, timeout=120
        )

    stopped = called("--minutes", "0")
    assert (stopped.returncode, stopped.stdout) == (5, "")
    done = called()
    assert done.returncode == 0, done.stderr
    rows = {row.name: row for row in Rows(out).rows}
    assert list(rows) == ["smear", "paired_heads", "swiglu"]  # as in the catalogue
    assert "expected at least 128 tokens" in (rows["paired_heads"].failed or "")
    for name in ("smear", "swiglu"):
        assert len(rows[name].ratios) >= 2
        assert rows[name].tokens_per_s is not None
    # a call that was killed before its last row: only that one is measured again
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    again = called()
    assert again.returncode == 0, again.stderr
    assert [line.partition(":")[0] for line in again.stderr.splitlines()] == ["swiglu"]
    assert Rows(out).rows[0] == rows["smear"]
    assert "One launch a row, 0.4 s of ABBA segments: a screening." in again.stdout
