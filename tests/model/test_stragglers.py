"""A slow rank is seen although all ranks' steps last equally long."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.distributed.ranks import ALONE
from model.distributed.stragglers import EVERY_S, StragglerStatistics
from model.system.sm_clock import Samples
from model.system.throttle import REASONS, reader_of, reasons_in
from tests.model.slow_rank import SLOW_RANK, SLOWER_BY_S

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
POWER_CAP, HEAT = 0x4, 0x40


def health(samples: Samples, **stands: Any) -> StragglerStatistics:
    return StragglerStatistics(ALONE, CPU, samples, **{"step": 0, "train_time_s": 0.0, **stands})


def test_the_report_has_means_of_a_step_since_the_last_one() -> None:
    samples = Samples()
    found = health(samples)
    for compute_s, waited_s in ((0.5, 0.0), (0.7, 0.2)):
        found.add(compute_s, waited_s)
    for sample in ((1500.0, 0), (1980.0, POWER_CAP), (1400.0, HEAT)):
        samples.add(*sample)
    found.begin_exchange(2, 10.0)
    found.add(0.1, 0.0)
    assert found.take() == {
        "step": 2,
        "steps": 2,
        "compute_s": [0.6],
        "loader_wait_s": [0.1],
        "sm_clock_mhz": [1500.0],
        "throttled": [["sw_power_cap", "hw_thermal_slowdown"]],
    }
    assert found.take() is None
    found.begin_exchange(3, 20.0)
    assert found.take() == {
        "step": 3,
        "steps": 1,
        "compute_s": [0.1],
        "loader_wait_s": [0.0],
        "sm_clock_mhz": [None],
        "throttled": [None],
    }


def test_a_report_is_due_by_the_training_time_and_after_the_last_step() -> None:
    found = health(Samples(), step=5, train_time_s=7.0)
    assert not found.is_due(6, 6.9 + EVERY_S, last=False)
    assert found.is_due(6, 7.0 + EVERY_S, last=False)
    found.begin_exchange(6, 7.0 + EVERY_S)
    found.take()
    assert not found.is_due(6, 7.0 + EVERY_S, last=True)
    assert found.is_due(7, 7.0 + EVERY_S, last=True)


def test_an_idle_gpu_is_not_throttled_and_every_other_reason_has_its_name() -> None:
    idle = 0x1
    assert reasons_in(idle) == []
    assert reasons_in(idle | sum(REASONS)) == list(REASONS.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="has no GPU to know")
def test_reasons_are_null_where_they_cannot_be_read() -> None:
    assert reader_of("GPU-of-nobody")() is None


@pytest.mark.parametrize(
    ("device", "ranks"),
    [
        pytest.param("cpu", 2, marks=pytest.mark.slow),
        pytest.param("cpu", 4, marks=pytest.mark.slow),
        pytest.param("cuda", 2, marks=[pytest.mark.gpu, TWO_GPUS]),
    ],
)
def test_the_slow_rank_is_the_one_with_the_longest_part_of_its_own(
    tmp_path: Path, tiny: dict[str, Any], device: str, ranks: int
) -> None:
    out, steps = tmp_path / "run", 12
    changes = {**tiny, "dial.steps": steps, "dial.batch_tokens": 64 * ranks, "optimizer.muon": {}}
    changes["system.device"] = device
    options = [f"--set={path}={json.dumps(value)}" for path, value in changes.items()]
    launcher = ["torch.distributed.run", f"--nproc-per-node={ranks}", "--rdzv-backend=c10d"]
    program = ["--rdzv-endpoint=localhost:0", "tests/model/slow_rank.py", "train"]
    base = ["--config=ablations/configs/gpt2_tiny_cpu.yaml", f"--out={out}"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *program, *base, *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    step_s, reports = [], []
    for place in (out, out / "ranks" / str(SLOW_RANK)):
        events = [json.loads(line) for line in (place / "events.jsonl").read_text().splitlines()]
        step_s.append(sum(e["step_s"] for e in events if e["event"] == "step") / steps)
        reports.append([event for event in events if event["event"] == "ranks"])
    assert step_s[0] == pytest.approx(step_s[1], rel=0.25)  # the step times do not differ
    (last,) = reports[0]
    assert (last["step"], last["steps"]) == (steps, steps)
    compute_s = last["compute_s"]
    others = [seconds for rank, seconds in enumerate(compute_s) if rank != SLOW_RANK]
    assert len(compute_s) == len(last["loader_wait_s"]) == ranks
    assert SLOWER_BY_S < compute_s[SLOW_RANK] < step_s[0]
    assert max(others) + SLOWER_BY_S / 2 < compute_s[SLOW_RANK]
    if device == "cpu":
        assert last["sm_clock_mhz"] == last["throttled"] == [None] * ranks
