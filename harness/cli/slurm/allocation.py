"""What a job may still use, and how it is started again: asked of the scheduler, from inside.

Two of them: Slurm's, and that of submitit's executor on this machine. Also the one way in which a
scheduler's command is run.
"""

import os
import re
import subprocess
import time
from collections.abc import Sequence
from typing import Protocol

from harness.errors import ClusterError

ANSWER_S = 60.0  # a controller under load takes seconds
LOCAL_AGAIN = 144  # the exit code on which submitit's local executor starts a job once more
RUNS = {"RUNNING", "SIGNALING", "RESIZING"}  # Slurm's words; SIGNALING after its own signal
_TIME = re.compile(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)")


class Allocation(Protocol):
    """Where a job runs now."""

    number: str  # the scheduler's name for the job

    def left_s(self) -> float | None:
        """Seconds to the time limit; None without one."""

    def runs(self) -> bool:
        """Whether the scheduler means the job to run: no more once it is cancelled or preempted."""

    def start_again(self) -> int:
        """Asks for another start after this one's end, and returns what to end with."""


class SlurmAllocation:
    """A job of Slurm, by its variables."""

    def __init__(self, exit_code: int) -> None:
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        self.number = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
        self.exit_code = exit_code

    def left_s(self) -> float | None:
        return seconds(self._say("%L"))

    def runs(self) -> bool:
        return self._say("%T") in RUNS

    def start_again(self) -> int:
        ask(["scontrol", "requeue", self.number])
        return self.exit_code

    def _say(self, form: str) -> str:
        return ask(["squeue", "--noheader", "--jobs", self.number, "--format", form]).strip()


class LocalAllocation:
    """A job on this machine, started and watched by submitit."""

    def __init__(self, limit_s: float) -> None:
        self.number = os.environ["SUBMITIT_LOCAL_JOB_ID"]
        self.ends = time.monotonic() + limit_s

    def left_s(self) -> float | None:
        return self.ends - time.monotonic()

    def runs(self) -> bool:
        return True

    def start_again(self) -> int:
        return LOCAL_AGAIN


def seconds(text: str) -> float | None:
    """Slurm's `days-hours:minutes:seconds` in seconds; None for a job without a time limit.

    Raises ClusterError for what is no time.
    """
    if text in ("UNLIMITED", "NOT_SET"):
        return None
    if text == "INVALID":  # a job beyond its limit
        return 0.0
    found = _TIME.fullmatch(text)
    if found is None:
        raise ClusterError(
            "",
            "the time that is left to a job, such as 1-02:03:04",
            repr(text),
            "See what `squeue --format %L` says of it.",
        )
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def ask(words: Sequence[str]) -> str:
    """What a scheduler's command prints. Raises ClusterError where it is missing or fails."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=ANSWER_S, start_new_session=True
        )
    except FileNotFoundError:
        raise ClusterError(
            "",
            f"Slurm's `{words[0]}`",
            "no such program on this machine",
            "Give the command on a login node of the cluster, or write `kind: local`.",
        ) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(
            "",
            f"an answer of `{' '.join(words)}` within {ANSWER_S:g} s",
            "none",
            "See whether Slurm's controller runs: `scontrol ping`.",
        ) from None
    if done.returncode != 0:
        raise ClusterError(
            "",
            f"that `{' '.join(words)}` works",
            done.stderr.strip() or f"exit code {done.returncode}",
            "`scontrol ping` and `sinfo` tell how the cluster is.",
        )
    return done.stdout
