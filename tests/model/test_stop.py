"""A request to stop reaches a process whose main thread hangs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.errors import MachineError
from model.runtime.stop import open_watch_fd

ROOT = Path(__file__).parents[2]
HELD = """
import ctypes, os, sys
from pathlib import Path
from model.runtime import stop
from model.distributed.ranks import Ranks
from model.runtime.run_dir import RunDirectory

stop.GRACE_S = 0.2
run = RunDirectory(Path(sys.argv[1]), rank=0)
stop.Stop(run, None, Ranks(rank=0, count=int(sys.argv[2])))
if sys.argv[3] == "forks" and os.fork() == 0:
    os.kill(os.getpid(), 15)
    os._exit(0)
print("held", flush=True)
lock = ctypes.create_string_buffer(64)  # a mutex, taken twice: a wait in C that no signal ends
ctypes.CDLL(None).pthread_mutex_lock(lock)
ctypes.CDLL(None).pthread_mutex_lock(lock)
"""


def held(out: Path, ranks: int = 1, how: str = "alone") -> "subprocess.Popen[str]":
    """A process that waits in C, once it does."""
    command = [sys.executable, "-c", HELD, str(out), str(ranks), how]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def ended(process: "subprocess.Popen[str]", out: Path) -> dict[str, object]:
    with process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 1
    found: dict[str, object] = json.loads((out / "result.json").read_text())
    return found


def test_a_process_that_waits_for_a_device_leaves_its_result(tmp_path: Path) -> None:
    found = ended(held(tmp_path / "run"), tmp_path / "run")
    assert (found["status"], found["reason"]) == ("interrupted", "received SIGTERM")


def test_a_rank_that_waits_for_one_that_was_killed_names_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "ranks" / "1").mkdir(parents=True)
    (out / "ranks" / "1" / "events.jsonl").touch()  # nobody holds it any more
    found = ended(held(out, ranks=2), out)
    assert found["status"] == "failed"
    assert str(found["reason"]).startswith("rank 1 ended without a result")


def test_a_signal_to_a_forked_child_is_none_to_its_parent(tmp_path: Path) -> None:
    with held(tmp_path / "run", how="forks") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)
        process.kill()


def test_torchrun_s_own_descriptor_is_watched_unless_it_is_inherited(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    no_pipe = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a run")
    monkeypatch.setattr(os, "getppid", os.getpid)  # the test is its own torchrun
    assert [open_watch_fd(fd) for fd in (None, 0)] == [None, 0]
    own = open_watch_fd(reading)
    os.close(writing)
    assert own is not None
    assert own != reading
    assert os.read(own, 1) == b""
    for absent in (no_pipe, writing):
        with pytest.raises(MachineError, match="Pass it to torchrun"):
            open_watch_fd(absent)
    for fd in (own, reading, no_pipe):
        os.close(fd)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert open_watch_fd(57) == 57
