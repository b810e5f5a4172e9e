"""One of two processes that train together, several runs one after the other: starting a process
costs more than all of them. `test_rank_checkpoints.py` starts both and reads what they leave.

    python two_ranks.py FOLDER PORTS WORD ...      with RANK and the other variables of torchrun

The options are those of a run without its --out; PORTS is a JSON list, one a run.
"""

import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from model.checkpoint.directory import folder_of, listed, rank_file
from model.runtime.run_dir import RunDirectory
from model.train import main

RANK = int(os.environ.get("RANK", "0"))
LEFT_ALONE, KILLED, DAMAGED, FULL = "left_alone", "killed", "damaged", "full_disk"
STOPPED, TIMED = "stopped", "timed"
STOP_STEP = 5
TRAIN_TIME_S = 0.5
BY_THE_CLOCK = (
    *("--set=dial.steps=null", f"--set=dial.train_time_s={TRAIN_TIME_S}"),
    *("--set=schedule.untie=null", "--set=checkpoint.every_steps=null"),
)
WAIT_S = 60.0
BY_MINUTES = ("--set=checkpoint.every_steps=null", "--set=checkpoint.every_minutes=0.000001")
DISK_BYTES = 20_000  # less than a rank's file takes, more than its events


def train(folder: Path, name: str, *more: str) -> int:
    ports = json.loads(sys.argv[2])
    os.environ["MASTER_PORT"] = str(ports[len(list(folder.glob(f"began-{RANK}-*")))])
    (folder / f"began-{RANK}-{time.monotonic_ns()}").touch()
    return main([*sys.argv[3:], f"--out={folder / name}", *more])


def together(folder: Path, what: str) -> None:
    """Waits until both have come here."""
    (folder / f"{what}-{RANK}").touch()
    deadline = time.monotonic() + WAIT_S
    while not (folder / f"{what}-{1 - RANK}").exists():
        assert time.monotonic() < deadline, f"the other rank did not reach {what}"
        time.sleep(0.005)


def as_killed(folder: Path, name: str) -> None:
    """A copy of the run that was left alone as a kill would have left it: no result, and neither
    its last checkpoint nor its last events."""
    if RANK == 0:
        out = shutil.copytree(folder / LEFT_ALONE, folder / name)
        for result in (out / "result.json", out / "ranks/1/result.json"):
            result.unlink()
        shutil.rmtree(listed(folder_of(out))[0])
    together(folder, name)


def stopped_after(step: int) -> Any:
    """Logs events, and signals this process once it has logged that step."""
    log = RunDirectory.event

    def log_and_signal(run: RunDirectory, kind: str, **fields: Any) -> None:
        log(run, kind, **fields)
        if kind == "step" and fields["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return log_and_signal


def all_runs(folder: Path) -> None:
    assert train(folder, LEFT_ALONE) == 0

    as_killed(folder, KILLED)
    assert train(folder, KILLED, "--resume") == 0

    as_killed(folder, DAMAGED)
    if RANK == 0:  # and the other one finds it
        file = listed(folder_of(folder / DAMAGED))[0] / rank_file(1)
        os.truncate(file, file.stat().st_size - 1)
    together(folder, "damage")
    assert train(folder, DAMAGED, "--resume") == 0

    as_killed(folder, FULL)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if RANK == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_BYTES, hard))
    assert train(folder, FULL, "--resume") == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    log = RunDirectory.event
    if RANK == 1:
        RunDirectory.event = stopped_after(STOP_STEP)  # type: ignore[method-assign]
    assert train(folder, STOPPED, *BY_MINUTES) == 1
    RunDirectory.event = log  # type: ignore[method-assign]
    if RANK == 0:
        shutil.copy(folder / STOPPED / "result.json", folder / "stopped.json")
    together(folder, "copied")
    assert train(folder, STOPPED, "--resume") == 0

    assert train(folder, TIMED, *BY_THE_CLOCK) == 0


if __name__ == "__main__":
    all_runs(Path(sys.argv[1]))
