"""A trainer that steps on request, over several ranks: one line to rank 0, and all ranks step."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from tests.model.slow_rank import SLOW_RANK, SLOWER_BY_S
from tests.model.test_pace import ROOT, Talk, command, settings

SLOW_PACE = ["tests/model/slow_rank.py", "pace"]
PACE = ["-m", "model.pace"]
WAIT_S = 60.0


class Ranks(Talk):
    """A pace over several ranks, under torchrun, and both ends of the line to its rank 0."""

    ready: dict[str, Any]

    def __init__(self, folder: Path, ranks: int, program: list[str], *options: str) -> None:
        self.out = folder / "run"
        options = command(folder, *options)[3:]  # behind `python -m model.pace`
        launcher = ["torch.distributed.run", f"--nproc-per-node={ranks}", "--rdzv-backend=c10d"]
        launcher += ["--rdzv-endpoint=localhost:0", *program]
        reading, self.watch = os.pipe()
        self.errors = folder / "errors.txt"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *launcher, *options, "--watch-fd", str(reading)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=[reading],
            )
        os.close(reading)

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors.read_text()[-3000:]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close_watch(self) -> None:
        """What the end of the process that started it does."""
        if self.watch >= 0:
            os.close(self.watch)
        self.watch = -1

    def ends(self, ranks: int) -> list[dict[str, Any]]:
        """How each rank ended, once all have."""
        places = [self.out, *(self.out / "ranks" / str(rank) for rank in range(1, ranks))]
        results = [place / "result.json" for place in places]
        deadline = time.monotonic() + WAIT_S
        while not all(result.exists() for result in results):
            assert time.monotonic() < deadline, self.errors.read_text()[-3000:]
            time.sleep(0.05)
        return [json.loads(result.read_text()) for result in results]

    def pid_of(self, rank: int) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        wanted = f"RANK={rank}".encode()
        found = [
            pid
            for pid in map(int, children.split())
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        ]
        return found[0]


# a learning rate that learns, stacks that ranks share; a batch is four rows of 64 tokens
LEARNING = {"schedule.warmup_steps": 0, "optimizer.muon": {}}
BETWEEN_TURNS, IN_A_TURN = "between turns", "in a turn"
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
ON_GPUS = pytest.param("cuda", marks=[pytest.mark.gpu, TWO_GPUS])
DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), ON_GPUS]


def synthetic(device: str) -> list[str]:
    return ["--synthetic", *settings({**LEARNING, "system.device": device})]


@contextlib.contextmanager
def paced(folder: Path, ranks: int, program: list[str], options: list[str]) -> Iterator[Ranks]:
    """A pace that is ready, and has ended after the block."""
    talk = Ranks(folder, ranks, program, *options)
    try:
        talk.ready = talk.receive()
        yield talk
        talk.process.wait(timeout=WAIT_S)
    finally:
        talk.process.kill()  # its ranks look for it
        talk.process.wait()
        for pipe in (talk.process.stdin, talk.process.stdout):
            assert pipe is not None
            pipe.close()
        talk.close_watch()


@pytest.mark.parametrize("device", DEVICES)
def test_ranks_step_together_and_the_slow_one_is_seen(tmp_path: Path, device: str) -> None:
    with paced(tmp_path, 2, SLOW_PACE, synthetic(device)) as talk:
        ready, turn = talk.ready, talk.ask("go 4")
        assert ready["ranks"] == 2
        assert len(ready["peak_memory_bytes_by_rank"]) == 2
        assert ready["peak_memory_bytes"] == max(ready["peak_memory_bytes_by_rank"])
        assert ready["batch_tokens"] == 4 * 64  # of both together
        slow_s, quick_s = turn["compute_s_by_rank"][SLOW_RANK], turn["compute_s_by_rank"][0]
        assert len(turn["step_s"]) == 4
        assert median(turn["step_s"]) > 0.9 * SLOWER_BY_S  # rank 0's own steps last as long
        assert slow_s > quick_s + SLOWER_BY_S / 2
        if device == "cpu":
            assert turn["sm_clock_mhz_by_rank"] == turn["throttled_by_rank"] == [None, None]
        assert talk.ask("jump")["event"] == "error"
        talk.send("go 100000")
        time.sleep(0.2)
        talk.close_watch()
    assert talk.process.returncode == 1
    ends = talk.ends(2)
    assert [end["status"] for end in ends] == ["interrupted", "interrupted"]
    assert all("gone" in end["reason"] for end in ends)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_more_ranks_learn_the_same_from_the_same_rows_until_the_end_of_input(
    tmp_path: Path, tiny: dict[str, Any], ranks: int
) -> None:
    options = settings({**tiny, **LEARNING})
    alone = Talk(tmp_path, *options)
    alone.receive()
    expected = [alone.ask("go 2")["loss"] for _ in range(3)]
    alone.end()
    folder = tmp_path / "ranks"
    folder.mkdir()
    with paced(folder, ranks, PACE, options) as talk:
        losses = [talk.ask("go 2")["loss"] for _ in range(3)]
        talk.send("go 1\ngo 2")
        assert [talk.receive()["steps"] for _ in range(2)] == [1, 2]
        assert talk.process.stdin is not None
        talk.process.stdin.close()
    assert losses == pytest.approx(expected, rel=1e-4)
    assert talk.process.returncode == 0
    assert [(end["status"], end["steps"]) for end in talk.ends(ranks)] == [("completed", 9)] * ranks


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("when", [BETWEEN_TURNS, IN_A_TURN])
def test_a_rank_that_is_killed_ends_all_and_is_named(
    tmp_path: Path, when: str, device: str
) -> None:
    with paced(tmp_path, 2, PACE, synthetic(device)) as talk:
        begin(talk, when)
        os.kill(talk.pid_of(1), signal.SIGKILL)
    end = json.loads((talk.out / "result.json").read_text())
    assert talk.process.returncode == 1
    assert end["status"] == "failed"
    assert end["reason"].startswith("rank 1 ended without a result")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("when", [BETWEEN_TURNS, IN_A_TURN])
def test_a_request_to_stop_one_rank_stops_all(tmp_path: Path, when: str, device: str) -> None:
    with paced(tmp_path, 2, PACE, synthetic(device)) as talk:
        begin(talk, when)
        os.kill(talk.pid_of(1), signal.SIGTERM)
    ends = talk.ends(2)
    assert [end["status"] for end in ends] == ["interrupted", "interrupted"]
    assert ends[1]["reason"] == "received SIGTERM"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("when", [BETWEEN_TURNS, IN_A_TURN])
def test_no_rank_outlives_its_torchrun(tmp_path: Path, when: str, device: str) -> None:
    with paced(tmp_path, 2, PACE, synthetic(device)) as talk:
        begin(talk, when)
        talk.process.kill()
        ends = talk.ends(2)  # whose line to the test is still there
    assert [end["status"] for end in ends] == ["interrupted", "interrupted"]
    assert "torchrun is gone" in {end["reason"] for end in ends}


def begin(talk: Ranks, when: str) -> None:
    """During a segment, or after one."""
    if when == BETWEEN_TURNS:
        talk.ask("go 1")
    else:
        talk.send("go 100000")
        time.sleep(0.2)
