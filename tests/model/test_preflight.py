"""The checks of a GPU before a run, from plain facts, and of its driver from plain rows."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config import Config
from model.config.derive import derive, with_rows
from model.config.reader import load_config
from model.errors import MachineError
from model.runtime.preflight import (
    GIB,
    GpuFacts,
    faults,
    fitting_rows,
    has_code_for,
    in_use,
    no_gpu,
    wait_while,
)
from model.system.nvidia_smi import GpuProcess, compute_processes, processes_from
from tests.fixtures import warm_python

ROOT = Path(__file__).parents[2]
BASES = ROOT / "ablations" / "configs"
H100 = GpuFacts(
    name="NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    built_for=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"),
    total_bytes=80 * GIB,
    free_bytes=79 * GIB,
    processes=(),
)
OTHER = GpuProcess(gpu_uuid="GPU-1", pid=4711, name="python", memory_bytes=30 * GIB)


def found(facts: GpuFacts, overrides: dict[str, Any] | None = None) -> list[MachineError]:
    config = load_config(BASES / "speedrun.yaml", overrides or {})
    return list(faults(facts, config, derive(config)))


def test_an_idle_gpu_that_is_large_enough_has_no_fault() -> None:
    assert found(H100) == []


def test_bf16_is_refused_before_ampere_and_fp32_is_not() -> None:
    turing = replace(H100, name="Tesla T4", capability=(7, 5))
    (fault,) = found(turing, {"system.precision": "bf16"})
    assert fault.path == "system.precision"
    assert "Tesla T4 of 7.5" in fault.got
    assert "fp32" in fault.hint
    assert found(turing, {"system.precision": "fp32", "system.device_batch_rows": 8}) == []


def test_a_gpu_without_code_in_this_torch_is_refused() -> None:
    pascal = replace(H100, capability=(6, 1))
    first, *_ = found(pascal, {"system.precision": "fp32"})
    assert "has code for (sm_75" in first.expected
    assert "build of torch" in first.hint


def test_compiling_is_refused_where_triton_has_no_code() -> None:
    pascal = replace(H100, capability=(6, 1), built_for=("sm_60", "compute_60"))
    paths = [fault.path for fault in found(pascal, {"system.precision": "fp32"})]
    assert "system.compile" in paths
    eager = {"system.precision": "fp32", "system.compile": False, "system.device_batch_rows": 2}
    assert found(pascal, eager) == []


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((9, 0), ("sm_90a",), True),
        ((8, 9), ("sm_86",), True),
        ((8, 0), ("sm_86",), False),
        ((12, 1), ("sm_120",), True),
        ((13, 0), ("sm_120",), False),
        ((13, 0), ("sm_90", "compute_120"), True),
        ((7, 0), ("sm_75", "compute_120"), False),
    ],
)
def test_code_runs_on_its_generation_and_ptx_on_later_ones(
    capability: tuple[int, int], built_for: tuple[str, ...], runs: bool
) -> None:
    assert has_code_for(capability, built_for) is runs


def test_a_gpu_in_use_is_refused_with_who_uses_it() -> None:
    (fault,) = found(replace(H100, processes=(OTHER,), free_bytes=49 * GIB))
    assert fault.path == "system.share_gpu"
    assert fault.got == "process 4711 (python) with 30.0 GiB"
    assert "CUDA_VISIBLE_DEVICES" in fault.hint


def test_memory_taken_by_nobody_in_sight_counts_as_use() -> None:
    (fault,) = found(replace(H100, free_bytes=60 * GIB))
    assert fault.path == "system.share_gpu"
    assert "20.0 GiB of its 80.0 GiB" in fault.got
    assert found(replace(H100, free_bytes=78.5 * GIB)) == []


def test_a_gpu_that_was_just_left_is_waited_for() -> None:
    readings = [replace(H100, free_bytes=60 * GIB), replace(H100, processes=(OTHER,)), H100]
    assert wait_while(in_use, lambda: readings.pop(0), wait_s=10.0) is H100
    assert readings == []


def test_a_gpu_that_stays_in_use_is_not_waited_for_longer_than_allowed() -> None:
    busy = replace(H100, processes=(OTHER,))
    assert wait_while(in_use, lambda: busy, wait_s=0.0) is busy


def test_a_shared_gpu_is_allowed_where_it_is_requested_and_fits() -> None:
    shared = {"system.share_gpu": True}
    assert found(replace(H100, processes=(OTHER,), free_bytes=49 * GIB), shared) == []
    (fault,) = found(replace(H100, processes=(OTHER,), free_bytes=5 * GIB), shared)
    assert fault.path == "system.device_batch_rows"


def test_too_little_memory_is_refused_with_rows_that_fit() -> None:
    small = replace(H100, total_bytes=16 * GIB, free_bytes=15.5 * GIB)
    (fault,) = found(small)
    rows = int(fault.hint.split("system.device_batch_rows: ")[1].split(";")[0])
    assert found(small, {"system.device_batch_rows": rows}) == []
    assert found(small, {"system.device_batch_rows": 4 * rows}) != []


@pytest.mark.parametrize(
    ("changes", "free_gib", "rows"),
    [
        ({}, 79, 32),
        ({}, 28, 16),
        ({}, 5, 1),
        ({"system.device_batch_rows": 8}, 79, 8),
        ({}, 1, 1),  # and is then refused
        # 24, 48 and 72 rows a step
        ({"dial.batch_tokens": 3 * 2**15, "schedule.batch_stages": {}}, 20, 12),
    ],
)
def test_rows_that_are_chosen_fit_and_divide_every_step(
    changes: dict[str, Any], free_gib: int, rows: int
) -> None:
    settings = {"dial.depth": 12, "model.context_tokens": 2048, **changes}
    config = load_config(BASES / "speedrun.yaml", settings)
    derived = derive(config)
    assert fitting_rows(config, derived, free_gib * GIB) == rows
    fewer = with_rows(config, derived, rows)
    passes = fewer.device_batch_rows * fewer.gradient_accumulation
    assert passes * 2048 == fewer.batch_tokens == derived.batch_tokens
    if free_gib > 1:
        assert fewer.memory_bytes <= free_gib * GIB
    kept = replace(derived, device_batch_rows=0, gradient_accumulation=0)
    same = replace(fewer, device_batch_rows=0, gradient_accumulation=0)
    unmeasured = {"memory_bytes": 0, "memory_fused_bytes": 0, "memory_parts": {}}
    assert replace(same, **unmeasured) == replace(kept, **unmeasured)


def test_a_model_that_does_not_fit_has_a_hint() -> None:
    (fault,) = found(replace(H100, total_bytes=4 * GIB, free_bytes=4 * GIB), {"dial.depth": 24})
    assert "Not even one row" in fault.hint


def test_without_derived_values_memory_is_not_judged() -> None:
    tiny = replace(H100, total_bytes=GIB, free_bytes=GIB)
    assert list(faults(tiny, Config(), None)) == []


@pytest.mark.parametrize(
    ("torch_cuda", "driver", "text"),
    [
        ("13.0", None, "no NVIDIA driver"),
        (None, "580.65", "built without CUDA"),
        ("13.0", "535.10", "CUDA 13.0 can use with driver 535.10"),
    ],
)
def test_a_missing_gpu_is_an_error_that_names_the_missing_part(
    torch_cuda: str | None, driver: str | None, text: str
) -> None:
    fault = no_gpu(torch_cuda, driver)
    assert text in fault.got
    assert "system.device: cpu" in fault.hint


def test_rows_of_the_driver_become_processes_and_what_is_no_process_is_left_out() -> None:
    rows = [
        ["GPU-1", "4711", "30720", "/usr/bin/python", "with a comma"],
        ["GPU-2", "12", "[N/A]", "[Not Found]"],
        ["No running processes found"],
    ]
    first, second = processes_from(rows)
    assert first == replace(OTHER, name="/usr/bin/python,with a comma")
    assert second.memory_bytes is None
    assert (
        second.described() == "process 12 ([Not Found]) with memory that the driver does not report"
    )


def test_a_driver_that_fails_is_an_empty_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert compute_processes() == []


@pytest.mark.skipif(
    shutil.which("nvidia-smi") is not None, reason="needs a machine without a driver"
)
def test_a_run_that_asks_for_a_gpu_is_refused_before_its_data_is_prepared(tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = ["--config", str(BASES / "speedrun.yaml"), "--out", str(out)]
    argv += ["--set", "system.device=cuda", "--set", f"data.cache_dir={tmp_path / 'cache'}"]
    done = warm_python.run(["-m", "model.train", *argv])
    assert done.returncode == 1
    assert "no NVIDIA driver" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "cache").exists()
