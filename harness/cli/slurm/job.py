"""Runs inside the allocation: the same harness command, stopped in time and requeued.

submitit unpickles a `Job` on the node and calls it. The command runs in this very process, as
`python -m harness` would: a scheduler signals every process of a job, so a parent that passed its
signal on would interrupt the harness twice, which means "without a checkpoint". For the same reason
submitit's own checkpointing is not used: it ends the process from within the signal handler, with
its own exit code, and does nothing for a command that stops at a limit by itself.

- `--max-minutes` is the remaining time of the allocation, less the time reserved to end cleanly.
- The scheduler sends USR2 that long before the limit; it becomes SIGTERM, on which the harness
  stops as on Ctrl-C. Slurm itself sends SIGTERM when a job is cancelled or preempted.
- A command that ends with 5, stopped at a limit, is requeued at most `requeue` times, unless the
  job was cancelled. Any other exit code is the job's. A worker of a search is requeued only if its
  store has a new record since: it may have waited for a base in vain.
"""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

import msgspec

from harness.cli.slurm.submission import CANCELLED, EventLog, JobEvent, with_passwords
from harness.errors import COULD_NOT_RUN, PASS, STOPPED_AT_LIMIT, ClusterError
from harness.escape import escape
from harness.redact import redact_argv

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
        expected = f"Slurm's `{argv[0]}`"
        hint = "Run the command on a login node of the cluster, or write `kind: local`."
        raise ClusterError("", expected, "no such program on this machine", hint) from None
    except subprocess.TimeoutExpired:
        expected = f"an answer of `{' '.join(argv)}` within {ANSWER_S:g} s"
        hint = "Check that Slurm's controller runs: `scontrol ping`."
        raise ClusterError("", expected, "none", hint) from None
    if done.returncode != 0:
        expected = f"`{' '.join(argv)}` to succeed"
        got = done.stderr.strip() or f"exit code {done.returncode}"
        raise ClusterError("", expected, got, "Check the cluster with `scontrol ping` and `sinfo`.")
    return done.stdout


# --- the command ----------------------------------------------------------------------------------


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job of a submission: all that its node needs."""

    kind: str
    folder: str  # of the submission
    store: str
    argv: list[str]  # of the command, after `harness`; without passwords
    takes_minutes: bool  # whether the command has --max-minutes
    max_minutes: float | None  # its own --max-minutes
    limit_s: float
    reserve_s: float
    requeue: int

    def __call__(self) -> NoReturn:
        slurm = self.kind == "slurm"
        sys.exit(run_job(self, SlurmAllocation() if slurm else LocalAllocation(self.limit_s)))

    def records(self) -> set[str]:
        """The names of the records in the store."""
        folder = Path(self.store) / "records"
        return set(os.listdir(folder)) if folder.is_dir() else set()


class SignalHandler:
    """Passes the scheduler's signals to the command, and logs the first one."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.stop_requested = False
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGUSR2, self._time_limit_is_near)

    def _time_limit_is_near(self, number: int, frame: FrameType | None) -> None:
        self._request_stop("the time limit is near")
        os.kill(os.getpid(), signal.SIGTERM)  # to the handler that is installed now

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """Installed while no trainer runs; while one does, the harness handles SIGTERM."""
        self._request_stop("SIGTERM")
        raise KeyboardInterrupt

    def _request_stop(self, reason: str) -> None:
        if not self.stop_requested:
            self.stop_requested = True
            self.log.add(JobEvent(event="stop_requested", at=time.time(), reason=reason))

    def ignore(self) -> None:
        """For after the command's end: later signals belong to the scheduler's end of the job."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)


def run_job(job: Job, allocation: Allocation) -> int:
    """Runs the command to its end; returns the exit code for the process."""
    log = EventLog(Path(job.folder), allocation.number)
    requeued = sum(event.requeued for event in log.events())
    log.add(JobEvent(event="started", at=time.time(), host=socket.gethostname()))
    signals = SignalHandler(log)
    before = job.records()
    try:
        argv = with_passwords(Path(job.folder), job.argv)
        code = run_command([*argv, *_max_minutes(job, allocation.left_s())])
    except ClusterError as error:  # the remaining time is unknown
        print(escape(f"error: {error}", "log"), file=sys.stderr)
        code = COULD_NOT_RUN
    except KeyboardInterrupt:  # stopped before the command handled signals
        code = STOPPED_AT_LIMIT
    signals.ignore()
    exit_code, again, reason = code, False, ""
    if code == STOPPED_AT_LIMIT:
        waiting = "--worker" in job.argv  # perhaps only for a base that another job makes
        progress = job.records() != before or (signals.stop_requested and not waiting)
        reason = _why_not_requeued(job, allocation, requeued, progress)
        if not reason:
            try:
                exit_code, again = allocation.requeue(), True
            except ClusterError as error:
                reason = str(error)
    log.add(JobEvent(event="ended", at=time.time(), exit_code=code, requeued=again, reason=reason))
    then = "; the job is requeued" if again else f": {reason}" if reason else ""
    print(f"ended with exit code {code}{then}", flush=True)
    return exit_code


def run_command(argv: list[str]) -> int:
    """Runs `harness` with these arguments in this process; returns its exit code."""
    print("$ harness", *redact_argv(argv), flush=True)
    sys.argv = ["harness", *argv]
    try:
        runpy.run_module("harness", run_name="__main__")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else PASS
    return PASS


def _max_minutes(job: Job, left_s: float | None) -> list[str]:
    """The option that makes the command end before the scheduler's signal."""
    if not job.takes_minutes or left_s is None:
        return []
    minutes = max(0.0, left_s - job.reserve_s) / 60
    if job.max_minutes is not None:
        minutes = min(minutes, job.max_minutes)
    return ["--max-minutes", f"{minutes:.2f}"]


def _why_not_requeued(job: Job, allocation: Allocation, requeued: int, progress: bool) -> str:
    """The reason why a command that stopped at a limit is not started again, or "" if it is."""
    if (Path(job.folder) / CANCELLED).exists():
        return "it was cancelled"
    if requeued >= job.requeue:
        return f"it was requeued {requeued} times (requeue: {job.requeue})"
    if not progress:
        return "this start recorded nothing, so another one would not either"
    if not allocation.is_running():
        return "the scheduler ended it"
    return ""
