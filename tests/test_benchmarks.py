"""The benchmarks that drive running trainers: their arithmetic, and short real measurements."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.speed.ab import compare
from benchmarks.speed.kernels import Kernel, by_class, class_of
from benchmarks.speed.overlap import overlap_of, spans_of
from benchmarks.speed.pace import Pace, StepperFailed, first_answers
from benchmarks.speed.startup import seconds_of
from benchmarks.speed.step import DoesNotFit, Launch, Pair, Side, comparison, main, require_room
from harness.stats.ab_noise import log_ratio

ROOT = Path(__file__).parents[1]
TINY = {
    "dial": {"depth": 1, "steps": 3, "batch_tokens": 256},
    "model": {"width": 64, "context_tokens": 64, "vocab_size": 512},
    "system": {"device": "cpu", "precision": "fp32", "compile": False, "threads": 1},
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


def measured(module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", f"benchmarks.speed.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def paces_of(config: Path) -> list[str]:
    """Command lines of running processes that were given this configuration."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended meanwhile
        if "model.pace" in words and str(config) in words:
            found.append(" ".join(words))
    return found


@pytest.mark.slow
def test_two_interleaved_trainers_give_a_table_and_an_interval(tmp_path: Path, base: Path) -> None:
    out = tmp_path / "out.json"
    deeper = ["--candidate-set", "dial.depth=6", "dial.params=100000"]
    short = ["--segments", "3", "--turn-seconds", "0.1", "--synthetic", "--check-memory"]
    done = measured("step", str(base), *deeper, *short, "--out", str(out))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["configuration", "tiny", "dial.depth=6"]
    assert "95 % within this launch" in done.stdout
    assert "no SM clock: the device is not a GPU" in done.stdout
    record = json.loads(out.read_text())
    turns = record["launches"][0]["turns"]
    assert [turn["configuration"] for turn in turns] == [0, 1, 1, 0] * 3
    assert all(len(turn["step_s"]) == turn["steps"] for turn in turns)
    found = record["comparisons"]["dial.depth=6 dial.params=100000"]
    assert found["low"] < found["log_ratio"] < found["high"]
    assert found["log_ratio"] > math.log(1.5)  # six blocks in place of one
    assert found["windows"] == 3
    assert record["launches"][0]["environments"][0]["torch"]
    assert paces_of(base) == []


@pytest.mark.slow
def test_a_trainer_that_fails_is_reported_and_none_is_left_running(base: Path) -> None:
    done = measured("step", str(base), "--synthetic", "--candidate-set", "system.attention=flex")
    assert done.returncode == 1
    assert "error: system.attention=flex: " in done.stderr
    assert "expected flex to run here" in done.stderr
    assert "Set system.attention: sdpa." in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert paces_of(base) == []


def test_a_loader_check_without_a_loader_is_wrong_usage(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(base), "--synthetic", "--loader-check"])
    assert ended.value.code == 2
    assert "needs a loader" in capsys.readouterr().err


@pytest.mark.slow
def test_a_start_has_its_phases_in_seconds_cold_and_warm(tmp_path: Path, base: Path) -> None:
    out = tmp_path / "out.json"
    done = measured("startup", str(base), "--synthetic", "--runs", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()[2:]]
    assert names == [
        "phase",
        *["imports", "preflight", "data", "build", "compile", "first_step", "total", "cache"],
    ]
    starts = json.loads(out.read_text())["starts"]
    assert [each["state"] for each in starts] == ["cold", "warm"]
    for each in starts:
        assert each["total"] >= each["imports"] + each["build"] + each["first_step"] - 0.01
        assert "compile" not in each  # nothing to compile here
        assert each["compile_cache"] == {"result": "off"}


@pytest.mark.slow
def test_a_command_that_a_trainer_refuses_is_a_failure_with_what_it_expected(
    tmp_path: Path, base: Path
) -> None:
    pace = Pace("it", base, [], tmp_path / "it", words=["--synthetic"])
    try:
        assert first_answers([pace], 60)[0]["event"] == "ready"
        with pytest.raises(StepperFailed, match=r"answered.*error.*go N"):
            pace.ask("jump", 60)
        with pytest.raises(StepperFailed, match="gave no answer in 0 s"):
            pace.ask("go 1000000", 0.1)
    finally:
        pace.kill()
    assert paces_of(base) == []


def test_the_log_ratio_of_a_window_is_free_of_linear_drift() -> None:
    a, b = 1.0, 1.1
    drifting = [side * math.exp(0.03 * place) for place, side in enumerate((a, b, b, a))]
    assert log_ratio(*drifting) == pytest.approx(math.log(b / a))


def test_one_launch_is_labelled_as_such_and_one_window_has_no_interval() -> None:
    one = compare([[0.01, 0.012, 0.011, 0.013]])
    assert one.within_one_launch
    assert one.se == pytest.approx(0.00129099 / 2, rel=1e-5)  # SD of the four over sqrt(4)
    assert one.low < 0.0115 < one.high
    lone = compare([[0.01]])
    assert lone.df == 0
    assert math.isnan(lone.low)


def test_launches_that_agree_better_than_their_windows_fall_back_on_the_windows() -> None:
    found = compare([[-0.01, 0.01], [-0.01, 0.01], [-0.01, 0.01]])
    assert not found.within_one_launch
    assert found.se == pytest.approx(math.sqrt(0.0002 / 6))
    assert found.df == 2


@pytest.mark.parametrize(("launch_sd", "window_sd"), [(0.001, 0.002), (0.002, 0.0005), (0, 0.001)])
def test_intervals_over_launches_have_their_nominal_coverage(
    launch_sd: float, window_sd: float
) -> None:
    rng, truth, repeats = random.Random(1), 0.003, 2000

    def launches() -> list[list[float]]:
        middles = [truth + math.sqrt(2) * rng.gauss(0, launch_sd) for _ in range(4)]
        return [[rng.gauss(middle, window_sd) for _ in range(5)] for middle in middles]

    found = [compare(launches()) for _ in range(repeats)]
    held = sum(each.low <= truth <= each.high for each in found)
    # never less than promised; more where launches do not differ, as the formula then errs safely
    assert held / repeats > 0.95 - 2 * math.sqrt(0.95 * 0.05 / repeats)


def launch_of(*windows: Sequence[float], recompiled: int = 0) -> Launch:
    """Turns of one step; a step of configuration 0 has 100 tokens, of configuration 1 200."""
    turns = [
        {"pair": "b", "configuration": side, "steps": 1, "step_s": [step_s], "recompiled": 0}
        for window in windows
        for side, step_s in zip((0, 1, 1, 0), window, strict=True)
    ]
    turns[0]["recompiled"] = recompiled
    return Launch(
        ready=[{"batch_tokens": 100}, {"batch_tokens": 200}], environments=[], turns=turns
    )


PAIR = Pair(name="b", a=Side(configuration=0), b=Side(configuration=1))


def test_configurations_of_unequal_batches_are_compared_by_the_token() -> None:
    found = comparison([launch_of([1.0, 2.0, 2.0, 1.0], [1.0, 2.0, 2.0, 1.0])], PAIR)
    assert found is not None
    assert found.log_ratio == pytest.approx(0)


def test_windows_with_a_compilation_are_left_out() -> None:
    slow, usual = [9.0, 2.2, 2.2, 1.0], [1.0, 2.2, 2.2, 1.0]
    found = comparison([launch_of(slow, usual, usual, recompiled=1)], PAIR)
    assert found is not None
    assert found.windows == 2
    assert found.log_ratio == pytest.approx(math.log(1.1))
    assert comparison([launch_of(slow, recompiled=1)], PAIR) is None


def test_trainers_that_hold_over_90_percent_of_the_memory_together_are_refused() -> None:
    ready = {"reserved_memory_bytes": 30e9, "device_memory_bytes": 80e9}
    require_room([ready, ready])
    with pytest.raises(DoesNotFit, match=r"at most 72\.0 GB.*30\.0 \+ 30\.0 \+ 30\.0 = 90\.0 GB"):
        require_room([ready, ready, ready])


def test_phases_of_a_start_count_from_the_start_of_the_process() -> None:
    events = [
        {"event": "phase", "t": 101.5, "name": "startup", "seconds": 1.2},
        {"event": "phase", "t": 103.5, "name": "build", "seconds": 2.0},
        {"event": "step", "t": 104.0},
        {"event": "phase", "t": 104.5, "name": "first_step", "seconds": 1.0},
    ]
    expected = {"imports": 1.5, "build": 2.0, "first_step": 1.0, "total": 4.5}
    assert seconds_of(events, 100.0) == expected


def test_kernels_are_sorted_into_classes_by_name() -> None:
    names = {
        "kernel_cutlass_kernel_flash_attncuteflash_bwd_sm90": "attention",
        "void pytorch_flash::flash_fwd_kernel": "attention",
        "kernel_cutlass_kernel_quackepiloguefrontendGemmMod_dact": "products, quack",
        "nvjet_sm90_tst_192x192_64x3_2x1_v_bz_coopB_NNN": "products, cuBLAS",
        "_cross_entropy_row": "loss",
        "triton_per_fused__fused_rms_norm_add_mul_0": "Inductor",
        "Memcpy DtoD (Device -> Device)": "casts and copies",
        "_apply_update": "Muon, elementwise",
        "void at::native::multi_tensor_apply_kernel<FusedOptimizer>": "AdamW",
        "a kernel of tomorrow": "other",
    }
    assert {name: class_of(name) for name in names} == names
    sums = by_class([Kernel(name, 1.0, 2) for name in names])
    assert sums["attention"] == 2.0
    assert sum(sums.values()) == len(names)


def test_a_profile_without_a_gpu_is_refused(base: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = measured("kernels", str(base))
    assert done.returncode == 2
    assert "expected a CUDA GPU" in done.stderr


def event(name: str, start: float, end: float, device: str = "CUDA", marks: bool = False) -> Any:
    """As torch's profiler has it, in microseconds."""
    return SimpleNamespace(
        name=name,
        device_type=SimpleNamespace(name=device),
        time_range=SimpleNamespace(start=start, end=end),
        is_user_annotation=marks,
    )


def test_exchanges_are_cut_where_computation_starts_and_ends() -> None:
    scatter, gather = "ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", "ncclDevKernel_AllGather"
    seen = [
        event("gemm", 0, 100),
        event(scatter, 60, 160),  # 40 beside the product, 20 alone, 40 beside the update
        event("update", 120, 180),
        event("copy on another stream", 125, 150),  # computation all the same, and not twice
        event(gather, 200, 230),  # alone, behind 20 in which nothing runs
        event("nccl:_reduce_scatter_base", 0, 160, marks=True),
        event("ProfilerStep#1", 0, 1000, marks=True),
        event("cudaLaunchKernel", 0, 500, device="CPU"),
    ]
    found = overlap_of(list(spans_of(seen, on_gpu=True)), steps=2)
    microseconds = {name: round(2e6 * value, 6) for name, value in asdict(found).items()}
    assert microseconds == {"step_s": 230, "exchange_s": 130, "beside_s": 80, "idle_s": 20}
    assert found.waiting_s == pytest.approx(50 / 2e6)


def test_on_a_cpu_the_launch_of_an_exchange_is_no_computation() -> None:
    seen = [
        event("aten::mm", 0, 10, device="CPU"),
        event("c10d::allreduce_", 10, 20, device="CPU"),
        event("gloo:all_reduce", 12, 42, device="CPU", marks=True),  # gloo marks its works
        event("Optimizer.step#AdamW.step", 0, 50, device="CPU", marks=True),
        event("aten::add", 40, 50, device="CPU"),
    ]
    found = overlap_of(list(spans_of(seen, on_gpu=False)), steps=1)
    microseconds = {name: round(1e6 * value, 6) for name, value in asdict(found).items()}
    assert microseconds == {"step_s": 50, "exchange_s": 30, "beside_s": 2, "idle_s": 2}


@pytest.mark.slow
def test_ranks_exchange_as_the_formula_counts(tmp_path: Path, base: Path) -> None:
    """Stacks that have to be filled up, small tensors, a clipped norm or tables that wait."""
    shape = ["--set=dial.depth=3", "--set=model.vocab_size=1024", "--set=optimizer.muon={}"]
    changes = [], ["--set=optimizer.clip=null", "--set=optimizer.table_interval_steps=2"]
    for each in changes:
        out = tmp_path / "out.json"
        words = [*shape, *each, "--ranks", "1", "2", "--steps", "2", "--out", str(out), "--profile"]
        done = measured("ranks", str(base), *words)
        assert done.returncode == 0, done.stderr
        alone, two = json.loads(out.read_text())
        assert (alone["exchanges"], sorted(two["exchanges"])) == ({}, ["add", "gather", "scatter"])
        assert two["tokens_per_s"] > 0
        assert "beside computation" in done.stdout
        assert [rank["exchange_s"] for rank in alone["profile"]] == [0.0]
        assert len(two["profile"]) == 2
        for rank in two["profile"]:
            assert 0 <= rank["beside_s"] <= rank["exchange_s"] < rank["step_s"]
            assert rank["exchange_s"] > 0


def test_the_plan_of_ranks_needs_no_run(base: Path) -> None:
    done = measured("ranks", str(base), "--ranks", "1", "2", "--plan")
    assert done.returncode == 0, done.stderr
    heads, *rows = done.stdout.splitlines()
    assert "sent GB a step" in heads
    assert [row.split()[0] for row in rows] == ["1", "2"]
