"""The trainer that steps on request: real processes of a tiny model, command by command."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config.derive import derive
from model.config.reader import load_config
from model.errors import ConfigErrors
from model.runtime.process import Process
from model.runtime.run_dir import RunDirectory
from model.runtime.stop import Stop
from model.stepper import Stepper, compiled_graphs, synthetic_tokens
from model.system.throttle import REASONS
from tests.fixtures import warm_python

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
UNKNOWN = ["jump 3", "go", "go 0", "go -1", "go 1.5", "go 2 3", "", "go 10000000000"]
TINY = {
    "seed": 1,
    "dial": {"depth": 1, "steps": 3, "batch_tokens": 256},
    "model": {"width": 64, "context_tokens": 64, "vocab_size": 512},
    "system": {
        "device": "cpu",
        "precision": "fp32",
        "compile": False,
        "calibration_s": 0,
        "threads": 1,
    },
}


def command(folder: Path, *arguments: str) -> list[str]:
    """A pace in `folder / "run"`."""
    config = folder / "tiny.json"
    config.write_text(json.dumps(TINY))
    module = ["-m", "model.pace"]
    return [*module, "--config", str(config), "--out", str(folder / "run"), *arguments]


def settings(overrides: dict[str, Any]) -> list[str]:
    arguments = [(f"{path}={json.dumps(value)}") for path, value in overrides.items()]
    return [part for line in arguments for part in ("--set", line)]


class Talk:
    """A pace and both ends of the line to it."""

    def __init__(self, folder: Path, *arguments: str, **options: Any) -> None:
        self.out = folder / "run"
        self.process = warm_python.start(command(folder, *arguments), talk=True, **options)

    def receive(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(f"the pace ended: {self.process.text('stderr')[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> dict[str, Any]:
        self.send(line)
        return self.receive()

    def end(self) -> dict[str, Any]:
        """Closes stdin; the result that the pace left."""
        self.process.communicate(timeout=60)
        result: dict[str, Any] = json.loads((self.out / "result.json").read_text())
        return result


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    """One pace on synthetic data for all tests that leave it running."""
    talk = Talk(tmp_path_factory.mktemp("pace"), "--synthetic")
    assert talk.receive()["event"] == "ready"
    yield talk
    talk.process.kill()
    talk.process.communicate()


@pytest.mark.parametrize("steps", [1, 4])
def test_a_segment_has_exactly_as_many_times_as_requested_steps(talk: Talk, steps: int) -> None:
    turn = talk.ask(f"go {steps}")
    assert (turn["event"], turn["steps"]) == ("turn", steps)
    assert len(turn["step_s"]) == len(turn["loader_wait_s"]) == steps
    assert min(turn["step_s"]) > 0
    assert (turn["sm_clock_mhz"], turn["recompiled"]) == (None, 0)
    assert turn["peak_memory_bytes"] > 1_000_000
    assert turn["compute_s_by_rank"] == [pytest.approx(sum(turn["step_s"]) / steps, abs=1e-6)]


@pytest.mark.parametrize("line", UNKNOWN)
def test_an_unknown_command_is_an_error_that_ends_nothing(talk: Talk, line: str) -> None:
    answer = talk.ask(line)
    assert answer.keys() == {"event", "expected", "got", "hint"}
    assert answer["event"] == "error"
    assert "go N" in answer["expected"]
    assert talk.ask("go 1")["event"] == "turn"


@pytest.mark.skipif(sys.platform != "linux", reason="reads CPU time from /proc")
def test_a_pace_that_waits_uses_no_core(talk: Talk) -> None:
    def cpu_s() -> float:
        fields = Path(f"/proc/{talk.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    talk.ask("go 1")
    time.sleep(0.1)  # the end of a parallel region may spin for some milliseconds
    before = cpu_s()
    time.sleep(1.0)
    assert cpu_s() - before < 0.1


def test_commands_in_one_write_are_executed_in_order(talk: Talk) -> None:
    talk.send("go 2\ngo 1\nwhat")
    assert [talk.receive().get("steps") for _ in range(3)] == [2, 1, None]


def test_ready_has_the_identity_and_stop_leaves_all_files(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    talk = Talk(tmp_path, *settings(tiny), "--at-step", "2")
    ready = talk.receive()
    assert ready["event"] == "ready"
    assert ready["startup_s"] > 3 * ready["step_s"] > 0
    assert (ready["batch_tokens"], ready["attention_backend"]) == (256, "sdpa")
    assert ready["kernel_plan"]["attention"] == "sdpa"
    assert ready["identity"].keys() == {"config_id", "code_id", "data_id", "protocol"}
    assert len(ready["identity"]["data_id"]) == 64
    assert (ready["at_step"], ready["synthetic"]) == (2, False)
    assert ready["sm_clock"] == {"source": None, "missing": "the device is not a GPU"}
    assert 0 < ready["peak_memory_bytes"] < ready["device_memory_bytes"]
    # far beyond the 3 steps of the schedule and the 64 batches that are planned
    turns = [talk.ask("go 70"), talk.ask("same 2")]
    assert [turn["batches"] for turn in turns] == ["loader", "same"]
    assert turns[1]["loader_wait_s"] == [0.0, 0.0]
    assert turns[0]["loss"] < 6.2  # ln 512 = 6.24: it does train
    talk.send("stop")
    result = talk.end()
    assert talk.process.returncode == 0
    assert (result["status"], result["steps"], result["tokens"]) == ("completed", 72, 72 * 256)
    total = sum(sum(turn["step_s"]) for turn in turns)
    assert result["metrics"]["train_time_s"] == pytest.approx(total, abs=1e-6)
    events = [json.loads(line) for line in (talk.out / "events.jsonl").read_text().splitlines()]
    phases = [event["name"] for event in events if event["event"] == "phase"]
    begun = ["startup", "preflight", "data", "build"]
    assert phases == [*begun, "first_step", "settle", "environment"]
    kept = [event for event in events if event["event"] == "turn"]
    assert [event["step_s"] for event in kept] == [turn["step_s"] for turn in turns]
    environment = json.loads((talk.out / "environment.json").read_text())
    assert environment["environment_id"] == ready["environment_id"]
    config = json.loads((talk.out / "config.json").read_text())
    assert config["identity"]["config_id"] == ready["identity"]["config_id"]


def test_the_end_of_input_ends_it_as_completed(tmp_path: Path) -> None:
    pace = warm_python.start(command(tmp_path, "--synthetic"), talk=True)
    assert pace.stdin is not None
    pace.stdin.write(b"go 2")  # not even a line's end
    ready, turn = [json.loads(line) for line in pace.communicate(timeout=60)[0].splitlines()]
    assert pace.returncode == 0
    assert (ready["event"], turn["event"]) == ("ready", "turn")
    assert ready["identity"]["data_id"] is None
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["steps"]) == ("completed", 2)


PARENT = """\
import json, subprocess, sys, time
pipe = subprocess.PIPE
pace = subprocess.Popen(json.loads(sys.argv[1]), stdin=pipe, stdout=pipe)
pace.stdout.readline()
print(pace.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the process in /proc")
def test_a_killed_parent_leaves_no_pace_running(tmp_path: Path) -> None:
    pace = json.dumps([sys.executable, *command(tmp_path, "--synthetic")])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, pace], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    place = Path("/proc") / parent.stdout.readline().strip()
    assert place.exists()
    parent.kill()
    parent.communicate()
    for _ in range(100):
        if not place.exists() or "State:\tZ" in (place / "status").read_text():
            break
        time.sleep(0.1)
    else:
        os.kill(int(place.name), signal.SIGKILL)
        pytest.fail("the pace went on for ten seconds after its parent")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "completed"


def test_the_watch_descriptor_ends_it_in_the_middle_of_a_turn(tmp_path: Path) -> None:
    read, write = os.pipe()
    talk = Talk(tmp_path, "--synthetic", "--watch-fd", str(read), pass_fds=[read])
    os.close(read)
    talk.receive()
    talk.send("go 10000000")
    time.sleep(0.2)
    os.close(write)
    talk.process.wait(timeout=60)
    result = talk.end()
    assert talk.process.returncode == 1
    assert result["status"] == "interrupted"
    assert "gone" in result["reason"]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    run = RunDirectory(tmp_path / "run")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in handlers.items():  # Stop takes them, and this process is the tests'
        signal.signal(number, handler)
    run.finish("completed")


def stepper_of(run: RunDirectory, overrides: dict[str, Any], **options: Any) -> Stepper:
    config = load_config(None, overrides)
    process = Process(config=config, derived=derive(config), run=run, stop=Stop(run, None))
    return Stepper(process, **options)


def test_synthetic_batches_are_the_seeds_own_and_always_the_same(tiny: dict[str, Any]) -> None:
    def tokens(seed: int) -> torch.Tensor:
        config = load_config(None, {**tiny, "seed": seed})
        return synthetic_tokens(config, derive(config), CPU)

    first = tokens(1)
    assert first.shape == (4, 65)
    assert (first.dtype, int(first.max()) < 512) == (torch.int64, True)
    assert torch.equal(first, tokens(1))
    assert not torch.equal(first, tokens(2))


def test_a_synthetic_pace_learns_its_only_batch_by_heart_without_reading_data(
    run: RunDirectory, tiny: dict[str, Any]
) -> None:
    absent = {"data.source": str(run.path / "absent"), "schedule.warmup_steps": 0}
    pace = stepper_of(run, {**tiny, **absent, "dial.depth": 1}, synthetic=True)
    pace.make_ready(time.time())
    first, later = pace.segment(1), pace.segment(30)
    assert later["loss"] < first["loss"] - 0.5  # random tokens: only memory lowers it
    assert later["batches"] == "same"


def test_a_step_that_the_schedule_does_not_have_is_refused(
    run: RunDirectory, tiny: dict[str, Any]
) -> None:
    with pytest.raises(ConfigErrors, match="0 to 2; got 3"):
        stepper_of(run, tiny, at_step=3)


def test_rows_that_follow_free_memory_are_refused_of_trainers_that_share_it(
    run: RunDirectory, tiny: dict[str, Any]
) -> None:
    with pytest.raises(ConfigErrors, match=r"system\.device_batch_rows so that"):
        stepper_of(run, {**tiny, "system.fit_memory": True})


def test_every_compilation_is_counted() -> None:
    double = torch.compile(lambda x: x * 2, backend="eager", dynamic=False)
    before = compiled_graphs()
    double(torch.ones(2))
    assert compiled_graphs() - before == 1
    double(torch.ones(2))
    assert compiled_graphs() - before == 1
    double(torch.ones(3))
    assert compiled_graphs() - before == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_a_turn_is_timed_by_events_and_compiles_nothing(tmp_path: Path) -> None:
    gpu = {"system.device": "cuda", "system.precision": "bf16", "system.compile": True}
    shared = {"system.share_gpu": True}  # other tests may use it at the same time
    gpu_settings = settings({**gpu, **shared, "system.attention": "sdpa"})
    talk = Talk(tmp_path, *gpu_settings, "--synthetic")
    ready = talk.receive()
    assert ready["graphs"] > 0
    assert ready["reserved_memory_bytes"] >= ready["peak_memory_bytes"] > 0
    began = time.perf_counter()
    turn = talk.ask("go 1000")
    wall_s = time.perf_counter() - began
    assert turn["recompiled"] == 0
    assert 0.5 * wall_s < sum(turn["step_s"]) <= wall_s
    assert (turn["sm_clock_mhz"] is None) == (ready["sm_clock"]["source"] is None)
    assert turn["sm_clock_mhz_by_rank"] == [turn["sm_clock_mhz"]]
    if ready["sm_clock"]["source"] == "nvml":
        assert set(turn["throttled_by_rank"][0]) <= set(REASONS.values())
    talk.send("stop")
    assert talk.end()["status"] == "completed"
