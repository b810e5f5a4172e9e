"""Two ranks write one checkpoint and resume from it together, whatever happened to either."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint.directory import folder_of, listed, rank_file, read_manifest
from model.checkpoint.staging import read_tensors
from model.distributed.ranks import VARIABLES
from model.runtime.environment import environment_id
from tests.model.two_ranks import (
    DAMAGED,
    FULL,
    KILLED,
    LEFT_ALONE,
    STOP_STEP,
    STOPPED,
    TIMED,
    TRAIN_TIME_S,
)

ROOT = Path(__file__).parents[2]
STEPS = 12
SETTINGS = {
    "dial.depth": 3,  # three layers, so that a stack of matrices has to be filled up
    "dial.steps": STEPS,
    "dial.batch_tokens": 4 * 128,
    "model.width": 64,
    "model.head_width": 32,
    "model.context_tokens": 128,
    "model.vocab_size": 1024,
    "eval.tokens": 512,
    "eval.every_steps": 3,
    # two tables until step 8, tied, whose gradients wait for every second step: at 9 they do
    "schedule.untie": {},
    "optimizer.table_interval_steps": 2,
    "optimizer.adamw_cautious_decay": {},
    "optimizer.weight_average": {"decay": 0.7, "start": 0.3, "every_steps": 2},
    "checkpoint.every_steps": 3,
    "checkpoint.keep": STEPS,
    "system.precision": "fp32",
    "system.compile": False,
    "system.threads": 1,
    "system.calibration_s": 0,
}
OPTIONS = [
    "--config=ablations/configs/speedrun_tiny_cpu.yaml",
    *(f"--set={path}={json.dumps(value)}" for path, value in SETTINGS.items()),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests/model/two_ranks.py leaves."""
    folder = tmp_path_factory.mktemp("two_ranks")
    program = [sys.executable, "tests/model/two_ranks.py", str(folder), json.dumps(free_ports(7))]
    both = [
        subprocess.Popen(
            [*program, *OPTIONS],
            cwd=ROOT,
            env={**os.environ, **variables(rank), "PYTHONPATH": "."},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(errors)[-4000:]
    return folder


def variables(rank: int) -> dict[str, str]:
    of_rank = dict(zip(VARIABLES, (str(rank), "2", str(rank), "2"), strict=True))
    return {**of_rank, "MASTER_ADDR": "localhost", "OMP_NUM_THREADS": "1"}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def events(out: Path, *kinds: str, behind: int = -1) -> list[dict[str, Any]]:
    path = out / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    every = [json.loads(line) for line in lines]
    return [event for event in every if event["event"] in kinds and event.get("step", 0) > behind]


def numbers(out: Path) -> list[tuple[Any, ...]]:
    """The losses of training and validation, step by step."""
    names = ("event", "step", "tokens", "loss", "val_loss", "val_bpb", "lr_scale")
    return [tuple(e.get(name) for name in names) for e in events(out, "step", "evaluation")]


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


def require_same_end(out: Path, other: Path) -> None:
    """Bit by bit: losses, and the last checkpoint's tensors of both ranks."""
    assert numbers(out) == numbers(other)
    for rank in range(2):
        one, two = (
            read_tensors(listed(folder_of(each))[0] / rank_file(rank)) for each in (out, other)
        )
        assert one.keys() == two.keys()
        assert ("model" in one) == (rank == 0)
        for name, tensor in one.get("model", {}).items():
            assert torch.equal(tensor, two["model"][name])
        for stack, states in one["optimizers"]["muon"].items():
            for name, tensor in states.items():
                assert torch.equal(tensor, two["optimizers"]["muon"][stack][name])
        for index, states in one["optimizers"]["adamw"]["state"].items():
            for name, tensor in states.items():
                assert torch.equal(tensor, two["optimizers"]["adamw"]["state"][index][name])


@pytest.mark.slow
def test_both_ranks_files_make_one_checkpoint(runs: Path) -> None:
    path = listed(folder_of(runs / LEFT_ALONE))[0]
    manifest = read_manifest(path)
    assert (path.name, manifest.identity.ranks) == (f"step-{STEPS:08d}", 2)
    assert sorted(manifest.files) == [rank_file(0), rank_file(1)]
    assert events(runs / LEFT_ALONE, "checkpoint")[-1]["bytes"] == sum(
        stored.bytes for stored in manifest.files.values()
    )


@pytest.mark.slow
def test_a_killed_run_resumes_to_bit_identical_numbers(runs: Path) -> None:
    require_same_end(runs / KILLED, runs / LEFT_ALONE)
    assert result(runs / KILLED)["metrics"]["resumes"] == 1
    assert 0 < events(runs / KILLED, "resumed")[0]["step"] < STEPS


@pytest.mark.slow
def test_a_file_damaged_for_one_rank_makes_all_take_the_checkpoint_before(runs: Path) -> None:
    require_same_end(runs / DAMAGED, runs / LEFT_ALONE)
    damaged = Path(events(runs / DAMAGED, "checkpoint_damaged")[0]["path"])
    assert rank_file(1) in events(runs / DAMAGED, "checkpoint_damaged")[0]["expected"]
    (resumed,) = events(runs / DAMAGED, "resumed")
    assert resumed["step"] < int(damaged.name.removeprefix("step-"))
    assert damaged.with_name(f"{damaged.name}.damaged").is_dir()


@pytest.mark.slow
def test_one_ranks_full_disk_costs_all_a_checkpoint_and_none_the_run(runs: Path) -> None:
    assert numbers(runs / FULL) == numbers(runs / LEFT_ALONE)
    refused = [event["refused"] for event in events(runs / FULL, "checkpoint_failed")]
    assert refused
    assert all(each.startswith("rank 1: ") and "rank 0" not in each for each in refused)
    kept = {path.name for path in folder_of(runs / FULL).iterdir()}
    assert kept == {path.name for path in listed(folder_of(runs / LEFT_ALONE))[1:]}


@pytest.mark.slow
def test_a_request_to_stop_one_rank_stops_all_with_a_checkpoint_to_resume(runs: Path) -> None:
    left = json.loads((runs / "stopped.json").read_text())
    last = STOP_STEP + 1  # both read it at the end of the next step
    assert (left["status"], left["steps"]) == ("interrupted", last)
    assert left["hint"] == f"Re-run the same command with --resume to continue after step {last}."
    assert events(runs / STOPPED, "resumed")[0]["step"] == last
    require_same_end(runs / STOPPED, runs / LEFT_ALONE)


@pytest.mark.slow
def test_checkpoints_fall_due_by_the_clock_of_rank_0(runs: Path) -> None:
    assert listed(folder_of(runs / STOPPED))[-1].name == "step-00000001"


@pytest.mark.slow
def test_a_timed_run_ends_after_the_same_step_on_all_ranks(runs: Path) -> None:
    places = (runs / TIMED, runs / TIMED / "ranks/1")
    ends = [events(place, "horizon")[0] for place in places]
    assert ends[0]["step"] == ends[1]["step"]
    assert [result(place)["steps"] for place in places] == [ends[0]["step"]] * 2
    assert result(places[0])["metrics"]["train_time_s"] >= TRAIN_TIME_S


@pytest.mark.slow
def test_the_environment_is_that_of_all_ranks(runs: Path) -> None:
    environment = json.loads((runs / LEFT_ALONE / "environment.json").read_text())
    assert environment["environment_id"] == environment_id([], ranks=2) != environment_id([])
    gpus = [{"uuid": f"GPU-{number}", "power_limit_w": 700.0} for number in range(2)]
    assert environment_id(gpus, ranks=2) != environment_id(gpus[:1])


@pytest.mark.slow
def test_the_times_of_both_ranks_are_logged_after_the_last_step(runs: Path) -> None:
    steps = events(runs / LEFT_ALONE, "step")
    (event,) = events(runs / LEFT_ALONE, "ranks")
    assert event["step"] == event["steps"] == STEPS
    mean_s = sum(step["step_s"] for step in steps) / STEPS
    assert 0 < event["compute_s"][0] < mean_s
    assert len(event["compute_s"]) == len(event["loader_wait_s"]) == 2
    assert event["loader_wait_s"][0] == pytest.approx(
        sum(step["loader_wait_s"] for step in steps) / STEPS, abs=1e-5
    )


@pytest.mark.slow
def test_another_number_of_ranks_is_refused_with_both_numbers(runs: Path, tmp_path: Path) -> None:
    out = shutil.copytree(runs / LEFT_ALONE, tmp_path / "run")
    (out / "result.json").unlink()
    before = (out / "events.jsonl").read_text()
    command = [sys.executable, "-m", "model.train", *OPTIONS, f"--out={out}", "--resume"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "expected a checkpoint of ranks 1; got ranks 2" in done.stderr
    assert "torchrun --nproc-per-node 2" in done.stderr
    assert (out / "events.jsonl").read_text() == before


@pytest.mark.slow
def test_a_run_of_two_ranks_resumes_on_one_with_the_option(runs: Path, tmp_path: Path) -> None:
    """Its steps are those of two ranks but for the order of sums."""
    out = shutil.copytree(runs / LEFT_ALONE, tmp_path / "run")
    (out / "result.json").unlink()
    whole = numbers(out)
    shutil.rmtree(listed(folder_of(out))[0])  # the last one: step 9 is left, where gradients wait
    command = [sys.executable, "-m", "model.train", *OPTIONS, f"--out={out}", "--resume"]
    subprocess.run([*command, "--other-ranks"], cwd=ROOT, check=True)
    (resumed,) = events(out, "resumed")
    assert (resumed["step"], resumed["ranks"]) == (9, 2)
    for one, two in zip(numbers(out), whole, strict=True):
        assert one[:3] == two[:3]
        assert one[3:] == pytest.approx(two[3:], rel=1e-5)


def under_torchrun(out: Path, device: str, *more: str) -> subprocess.Popen[str]:
    """A run that does not end by itself."""
    launcher = ["torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    launcher += ["--rdzv-endpoint=localhost:0", "-m", "model.train"]
    endless = ["--set=dial.steps=100000", "--set=checkpoint.keep=2"]
    argv = [*OPTIONS, f"--out={out}", f"--set=system.device={device}", *endless, *more]
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *argv],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(there: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.05)


def rank_1_under(launcher: subprocess.Popen[str]) -> int:
    """The process number of the rank 1 that a launcher has started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    ranks = [pid for pid in children if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    return int(ranks[0])


TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.slow),
    pytest.param("cuda", marks=[pytest.mark.gpu, TWO_GPUS]),
]


@pytest.mark.parametrize("device", DEVICES)
def test_a_rank_killed_in_the_middle_of_a_step_ends_all_and_is_named(
    tmp_path: Path, device: str
) -> None:
    out = tmp_path / "run"
    with under_torchrun(out, device) as launcher:
        wait_until(lambda: listed(folder_of(out)))
        os.kill(rank_1_under(launcher), signal.SIGKILL)
        launcher.communicate(timeout=90)
    assert launcher.returncode != 0
    end = result(out)
    assert end["status"] == "failed"
    assert end["reason"].startswith("rank 1 ended without a result")
    assert not (out / "ranks/1/result.json").exists()


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_resumes_after_a_signal_to_torchrun(tmp_path: Path, device: str) -> None:
    out, places = tmp_path / "run", ("run", "run/ranks/1")
    reached = [0]
    for more in ([], ["--resume"]):
        with under_torchrun(out, device, *more) as launcher:
            wait_until(lambda: events(out, "checkpoint", behind=reached[-1]))
            launcher.send_signal(signal.SIGTERM)
            launcher.communicate(timeout=90)
        ends = [result(tmp_path / place) for place in places]
        assert [end["status"] for end in ends] == ["interrupted", "interrupted"]
        assert ends[0]["steps"] == ends[1]["steps"]
        reached.append(ends[0]["steps"])
        assert listed(folder_of(out))[0].name == f"step-{reached[-1]:08d}"
    assert [event["step"] for event in events(out, "resumed")] == [reached[1]]
    assert 0 < reached[1] < reached[2]
