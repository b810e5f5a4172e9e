"""Classification of a run's exceptions, with the texts and types that torch raises."""

import json
from pathlib import Path

import pytest
import torch

from model.runtime.process import Process, command_line, run_process
from model.runtime.run_dir import STATUSES
from model.system.failure import (
    IN_A_KERNEL,
    IN_ANOTHER_RANK,
    IN_THE_CODE,
    IN_THE_DRIVER,
    IN_THE_GPU,
    classify,
)

# what torch adds to every CUDA error, whichever it is
BOILERPLATE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
    "stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
    "\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("device-side assert triggered", IN_THE_CODE),
        ("an illegal memory access was encountered", IN_A_KERNEL),
        ("unspecified launch failure", IN_A_KERNEL),
        ("misaligned address", IN_A_KERNEL),
        ("uncorrectable ECC error encountered", IN_THE_GPU),
        ("Invalid access of peer GPU memory over nvlink or a hardware error", IN_THE_GPU),
        ("CUDA-capable device(s) is/are busy or unavailable", IN_THE_GPU),
        ("unknown error", IN_THE_GPU),
        ("no kernel image is available for execution on the device", IN_THE_DRIVER),
        ("the provided PTX was compiled with an unsupported toolchain.", IN_THE_DRIVER),
    ],
)
def test_a_gpu_error_has_the_hint_of_its_cause(message: str, hint: str) -> None:
    failure = classify(torch.AcceleratorError(f"CUDA error: {message}{BOILERPLATE}"))
    assert (failure.status, failure.hint) == ("failed", hint)
    assert message in failure.reason
    assert failure.unexpected


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError(f"CUDA error: out of memory{BOILERPLATE}"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_memory_that_ran_out_is_no_failure_of_the_gpu(error: Exception) -> None:
    failure = classify(error)
    assert failure.status == "out_of_memory"
    assert failure.reason
    assert "device_batch_rows" in (failure.hint or "")


@pytest.mark.parametrize(
    "error",
    [
        torch.distributed.DistBackendError("NCCL error in: unhandled system error"),
        RuntimeError("[pair.cc:537] Read error [127.0.0.1]:14260: Connection reset by peer."),
    ],
)
def test_a_rank_that_lost_another_points_to_it(error: Exception) -> None:
    assert classify(error).hint == IN_ANOTHER_RANK


def test_cublas_fails_as_a_plain_runtime_error() -> None:
    text = "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( ... )`"
    assert classify(RuntimeError(text)).hint == IN_A_KERNEL


def test_an_error_of_the_code_is_not_blamed_on_the_gpu() -> None:
    failure = classify(ValueError("expected 3 rows\nof 4"))
    assert failure.status == "failed"
    assert failure.reason == "ValueError: expected 3 rows of 4"
    assert failure.hint is None
    assert failure.unexpected


def test_a_gpu_that_fails_in_a_run_leaves_a_hint_in_the_result(tmp_path: Path) -> None:
    def train(_: Process) -> None:
        raise torch.AcceleratorError(f"CUDA error: uncorrectable ECC error{BOILERPLATE}")

    base = Path(__file__).parents[2] / "ablations" / "configs" / "gpt2_tiny_cpu.yaml"
    argv = ["--config", str(base), "--out", str(tmp_path / "run")]
    assert run_process(command_line("model.train", None).parse_args(argv), train) == 1
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed"
    assert "dmesg" in result["hint"]
    assert "started again" in result["hint"]


def test_the_trainers_own_ends_are_no_surprise() -> None:
    from model.trainer import Diverged, Interrupted

    ends = [classify(Diverged("training loss nan at step 3")), classify(Interrupted("SIGINT"))]
    assert [end.status for end in ends] == ["diverged", "interrupted"]
    assert not any(end.unexpected for end in ends)
    assert {end.status for end in ends} < set(STATUSES)
