"""The allocation that a job runs in: its remaining time, and how the job is started again.

Slurm's, and that of submitit's executor on this machine. `slurm` runs any command of Slurm.
"""

import os
import subprocess
import time
from collections.abc import Sequence
from typing import Protocol

from harness.errors import STOPPED_AT_LIMIT, ClusterError

ANSWER_S = 60.0  # a controller under load takes seconds
LOCAL_REQUEUE = 144  # the exit code on which submitit's local executor starts a job again
RUNNING = {"RUNNING", "SIGNALING", "RESIZING"}  # SIGNALING follows Slurm's own signal


class Allocation(Protocol):
    """Where a job runs now."""

    number: str  # the scheduler's number of the job

    def left_s(self) -> float | None:
        """Seconds to the time limit; None without one."""

    def is_running(self) -> bool:
        """Whether the scheduler still runs the job: not once it is cancelled or preempted."""

    def requeue(self) -> int:
        """Requests another start after this one's end; returns the exit code to end with."""


class SlurmAllocation:
    """A job of Slurm, by its environment variables."""

    def __init__(self) -> None:
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        self.number = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]

    def left_s(self) -> float | None:
        end = self._query("%e")
        return None if end in ("N/A", "NONE", "Unknown") else float(end) - time.time()

    def is_running(self) -> bool:
        return self._query("%T") in RUNNING

    def requeue(self) -> int:
        slurm(["scontrol", "requeue", self.number])
        return STOPPED_AT_LIMIT

    def _query(self, field: str) -> str:
        return slurm(["squeue", "--noheader", "--jobs", self.number, "--format", field]).strip()


class LocalAllocation:
    """A job on this machine, started and watched by submitit."""

    def __init__(self, limit_s: float) -> None:
        self.number = os.environ["SUBMITIT_LOCAL_JOB_ID"]
        self.ends = time.monotonic() + limit_s

    def left_s(self) -> float | None:
        return self.ends - time.monotonic()

    def is_running(self) -> bool:
        return True

    def requeue(self) -> int:
        return LOCAL_REQUEUE


def slurm(argv: Sequence[str]) -> str:
    """The output of a command of Slurm, times as Unix time. Raises ClusterError if it fails."""
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            start_new_session=True,
            env={**os.environ, "SLURM_TIME_FORMAT": "%s"},
        )
    except FileNotFoundError:
        raise ClusterError(
            "",
            f"Slurm's `{argv[0]}`",
            "no such program on this machine",
            "Run the command on a login node of the cluster, or write `kind: local`.",
        ) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(
            "",
            f"an answer of `{' '.join(argv)}` within {ANSWER_S:g} s",
            "none",
            "Check that Slurm's controller runs: `scontrol ping`.",
        ) from None
    if done.returncode != 0:
        raise ClusterError(
            "",
            f"`{' '.join(argv)}` to succeed",
            done.stderr.strip() or f"exit code {done.returncode}",
            "Check the cluster with `scontrol ping` and `sinfo`.",
        )
    return done.stdout
