"""Probes that really run: alone, over two ranks, with a rank that hangs or is killed, on GPUs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from model.doctor import main as doctor
from model.system.timeouts import TimedOut, with_timeout

ROOT = Path(__file__).parents[2]
BASE = str(ROOT / "ablations" / "configs" / "speedrun_tiny_cpu.yaml")
SILENT = Path(__file__).with_name("silent_rank.py")
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def main(argv: list[str]) -> int:
    return doctor(["--probe", *argv])


def report(out: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((out / "probe.json").read_bytes())
    return value


def wrong(probe: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["what"], each["severity"]) for each in probe["findings"] if not each["ok"]]


def torchrun(ranks: int, out: Path, *argv: str) -> list[str]:
    command = ["-m", "model.doctor", "--probe", "--config", BASE, "--out", str(out), *argv]
    return [*LAUNCHER, f"--nproc-per-node={ranks}", *command]


@pytest.mark.usefixtures("handlers_restored")
def test_one_rank_alone_is_probed_without_a_sum(tmp_path: Path) -> None:
    argv = ["--set", "system.threads=1"]
    assert main(["--config", BASE, "--out", str(tmp_path), *argv]) == 0
    probe = report(tmp_path)
    assert probe["complete"]
    assert wrong(probe) == []
    (cpu,) = probe["cpus"]
    assert (cpu["rank"], cpu["threads"]) == (0, 1)
    assert cpu["matmul_tflops"] > 0
    assert (probe["gpus"], probe["all_reduce"], probe["links"]) == ([], [], None)
    assert probe["backends"]["attention"] == "sdpa"
    assert probe["torch"] == torch.__version__


def test_a_faulty_configuration_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    argv = ["--set", "dial.depth=deep", "--out", str(tmp_path / "out")]
    assert main(["--config", BASE, *argv]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("handlers_restored")
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_requested_and_missing_is_a_finding(tmp_path: Path) -> None:
    argv = ["--set", "system.device=cuda"]
    assert main(["--config", BASE, "--out", str(tmp_path), *argv]) == 0
    assert wrong(report(tmp_path)) == [("GPU", "error")]


def test_a_probe_stops_when_its_parent_is_gone(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(write)
    argv = ["--config", BASE, "--out", str(tmp_path), "--watch-fd", str(read)]
    command = [sys.executable, "-m", "model.doctor", "--probe", *argv]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, pass_fds=[read], capture_output=True, text=True
    )
    os.close(read)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_call_that_exceeds_its_timeout_is_abandoned() -> None:
    with pytest.raises(TimedOut):
        with_timeout(lambda: time.sleep(2.0), 0.05)
    assert with_timeout(lambda: "in time", 5.0) == "in time"
    with pytest.raises(ZeroDivisionError):
        with_timeout(lambda: 1 / 0, 5.0)


@pytest.mark.slow
def test_two_ranks_sum_under_torchrun(tmp_path: Path) -> None:
    done = subprocess.run(
        torchrun(2, tmp_path), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    probe = report(tmp_path)
    assert (probe["ranks"], probe["complete"], wrong(probe)) == (2, True, [])
    assert [cpu["rank"] for cpu in probe["cpus"]] == [0, 1]
    sizes = [each["bytes"] for each in probe["all_reduce"]]
    assert sizes == sorted(sizes)
    assert len(sizes) == 3
    assert all(each["bus_gb_s"] > 0 for each in probe["all_reduce"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ("look", [("ranks", "error")]),
        ("work", [("work", "error"), ("all-reduce", "error")]),
        ("sum", [("all-reduce", "error")]),
    ],
)
def test_a_rank_that_falls_silent_is_a_finding_and_not_a_hang(
    tmp_path: Path, phase: str, expected: list[tuple[str, str]]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        own = {name: str(value) for name, value in variables.items()}
        environment = {**ENVIRONMENT, **own, "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(SILENT), str(port), phase, str(tmp_path)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=environment))
    try:
        assert processes[0].wait(timeout=60) in (0, 3)
    finally:
        for process in processes:
            process.communicate()
    probe = report(tmp_path)
    assert probe["complete"]
    assert [each for each in wrong(probe) if each in expected] == expected


@pytest.mark.slow
def test_a_rank_that_is_killed_leaves_what_was_found(tmp_path: Path) -> None:
    process = subprocess.Popen(
        torchrun(2, tmp_path, "--set", "system.device=cpu"),
        cwd=ROOT,
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
    )
    victim = None
    while victim is None and process.poll() is None:  # as soon as both ranks are at work
        time.sleep(0.01)
        path = tmp_path / "probe.json"
        if path.exists() and "ranks measure" in path.read_text():
            victim = last_child_of(process.pid)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    probe = report(tmp_path)
    assert not probe["complete"]
    assert ("probe", "error") in wrong(probe)
    assert [cpu["rank"] for cpu in probe["cpus"]] == [0, 1]


def last_child_of(pid: int) -> int:
    """torchrun's last rank."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[-1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_gpus_are_probed_at_work_and_over_their_links(tmp_path: Path, ranks: int) -> None:
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} GPUs")
    config = str(ROOT / "ablations" / "configs" / "speedrun.yaml")
    command = [
        *LAUNCHER,
        f"--nproc-per-node={ranks}",
        "-m",
        "model.doctor",
        "--probe",
        "--config",
        config,
    ]
    argv = ["--out", str(tmp_path), "--set", "system.device=cuda", "--set", "dial.depth=12"]
    argv += ["--set", "system.share_gpu=true"]  # with the process of these tests
    done = subprocess.run([*command, *argv], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    probe = report(tmp_path)
    print(json.dumps(probe, indent=1))
    assert probe["complete"]
    assert [gpu["rank"] for gpu in probe["gpus"]] == list(range(ranks))
    assert len({gpu["uuid"] for gpu in probe["gpus"]}) == ranks
    for gpu in probe["gpus"]:
        assert gpu["matmul_tflops"] > 10
        assert gpu["sm_clock_mhz"] > 500
        assert not gpu["idle"]
    if ranks > 1:
        assert len(probe["all_reduce"]) == 3
        assert len(probe["links"]) == ranks
    assert not [each for each in wrong(probe) if each[0] in ("all-reduce", "work", "back-ends")]
