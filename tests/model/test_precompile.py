"""Kernels of packages are compiled during the build when none is cached, and failures are
reported."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.config.derive import derive
from model.config.reader import load_config
from model.kernels import REFERENCE, Kernels
from model.runtime import precompile
from model.system import compile_jobs
from model.system.compile_cache import CompileCache

SPEEDRUN = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml"
FUSED = Kernels(attention="flash4", loss="triton", qkv="triton", products="quack", muon="triton")


def jobs(
    folder: Path, kernels: Kernels = FUSED, kept: str | None = None, **overrides: Any
) -> list[str]:
    config = load_config(SPEEDRUN, {key.replace("__", "."): v for key, v in overrides.items()})
    cache = CompileCache(folder, "key", {})
    if kept is not None:
        (cache.folders[kept] / "kernel.o").write_bytes(b"code")
    found = precompile.jobs_of(config, derive(config).sizes, kernels, cache)
    return [f"{job['kernel']} {job.get('window', '')}".strip() for job in found]


def test_every_kernel_that_will_run_has_a_process(tmp_path: Path) -> None:
    assert jobs(tmp_path) == ["flash4 512", "flash4 2048", "products", "symmetric"]


def test_only_what_will_run_is_compiled(tmp_path: Path) -> None:
    assert jobs(tmp_path, model__windows=None) == ["flash4 2048", "products", "symmetric"]
    assert "symmetric" not in jobs(tmp_path, optimizer__muon=None)
    assert "products" not in jobs(tmp_path, model__fp8={})  # of blocks
    assert jobs(tmp_path, REFERENCE) == []


def test_what_is_kept_is_not_compiled_again(tmp_path: Path) -> None:
    kept = jobs(tmp_path, kept="FLASH_ATTENTION_CUTE_DSL_CACHE_DIR")
    assert kept == ["products", "symmetric"]
    assert jobs(tmp_path, kept="QUACK_CACHE_DIR") == []


def test_a_process_that_fails_is_reported_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "raise RuntimeError('no such kernel')"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    monkeypatch.setattr(compile_jobs, "_running", [process])
    compile_jobs.wait()
    assert compile_jobs._running == []
    assert process.returncode == 1
    assert "compiling when needed: RuntimeError: no such kernel" in capsys.readouterr().out
