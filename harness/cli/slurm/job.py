"""What runs inside the allocation: the same harness command, stopped in time and started again.

submitit unpickles a `Job` on the node and calls it. The command runs in this very process, as
`python -m harness` would: a scheduler signals every process of a job, and a parent that passed its
signal on would have the harness hear it twice, which means "without grace".

- `--max-minutes` is what the allocation has left, less the time kept for ending cleanly.
- USR2, which the scheduler sends that long before the limit, becomes SIGTERM: what the harness
  takes for Ctrl-C. Slurm sends TERM itself when a job is cancelled or preempted.
- A command that ended with 5, stopped at a limit, is started again by the scheduler while it is
  meant to run, at most `requeue` times. Any other exit code is the job's. A worker of a search is
  started again only if its store has a new record since: it may have waited for a base in vain.
"""

import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from harness.cli.slurm import journal as journals
from harness.cli.slurm.allocation import Allocation, LocalAllocation, SlurmAllocation
from harness.cli.slurm.journal import CANCELLED, JobEntry, Journal
from harness.errors import COULD_NOT_RUN, PASS, STOPPED_AT_LIMIT, ClusterError
from harness.redact import redact_argv


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job of a submission: all that its node has to know."""

    kind: str
    folder: str  # of the submission
    store: str
    words: list[str]  # of the command, after `harness`; without passwords
    takes_minutes: bool  # whether it has --max-minutes
    max_minutes: float | None  # what its own words say of it
    limit_s: float
    reserve_s: float
    requeue: int

    @property
    def waits(self) -> bool:
        """Whether it may be that it only waits, for a base that another job makes."""
        return "--worker" in self.words

    def __call__(self) -> NoReturn:
        slurm = self.kind == "slurm"
        where = SlurmAllocation(STOPPED_AT_LIMIT) if slurm else LocalAllocation(self.limit_s)
        sys.exit(make(self, where))


class SignalHandler:
    """The scheduler's signals on their way to the command."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.heard: str | None = None
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGUSR2, self._time_is_up)

    def _time_is_up(self, number: int, frame: FrameType | None) -> None:
        self._note("the time limit is near")
        os.kill(os.getpid(), signal.SIGTERM)  # to whoever handles it now

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """While no trainer runs; while one does, the harness handles it."""
        self._note("SIGTERM")
        raise KeyboardInterrupt

    def _note(self, text: str) -> None:
        if self.heard is None:
            self.heard = text
            self.journal.add(JobEntry(event="asked", at=time.time(), text=text))

    def no_more(self) -> None:
        """The command has ended: what comes now is the scheduler's way of ending the job."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)


def make(job: Job, allocation: Allocation) -> int:
    """Runs the command to its end; returns what the process has to end with."""
    journal = Journal(Path(job.folder), allocation.number)
    earlier = journal.entries()
    journal.add(JobEntry(event="started", at=time.time(), host=socket.gethostname()))
    asked = SignalHandler(journal)
    before = _records(job)
    try:
        words = journals.with_passwords(Path(job.folder), job.words)
        code = command([*words, *_in_time(job, allocation.left_s())])
    except ClusterError as error:  # no answer to how much time is left
        print(f"error: {error}", file=sys.stderr)
        code = COULD_NOT_RUN
    except KeyboardInterrupt:  # asked before the command could hear it
        code = STOPPED_AT_LIMIT
    asked.no_more()
    ended_with, again, why = code, False, ""
    if code == STOPPED_AT_LIMIT:
        news = _records(job) != before or (asked.heard is not None and not job.waits)
        if not (why := _why_not(job, allocation, earlier, news)):
            try:
                ended_with, again = allocation.start_again(), True
            except ClusterError as error:
                why = str(error)
    _tell(journal, JobEntry(event="ended", at=time.time(), exit_code=code, again=again, text=why))
    return ended_with


def command(words: list[str]) -> int:
    """Runs `harness` with these words in this process; its exit code."""
    print("$ harness", *redact_argv(words), flush=True)
    sys.argv = ["harness", *words]
    try:
        runpy.run_module("harness", run_name="__main__")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else PASS
    return PASS


def _in_time(job: Job, left_s: float | None) -> list[str]:
    """The option that lets the command end by itself before the scheduler asks."""
    if not job.takes_minutes or left_s is None:
        return []
    minutes = max(0.0, left_s - job.reserve_s) / 60
    if job.max_minutes is not None:
        minutes = min(minutes, job.max_minutes)
    return ["--max-minutes", f"{minutes:.2f}"]


def _why_not(job: Job, allocation: Allocation, earlier: list[JobEntry], news: bool) -> str:
    """Why a command that stopped at a limit is not started again; empty where it is."""
    if (Path(job.folder) / CANCELLED).exists():
        return "it was cancelled"
    made = sum(entry.again for entry in earlier)
    if made >= job.requeue:
        return f"it was started again {made} times (requeue: {job.requeue})"
    if not news:
        return "this start recorded nothing, and the next one would do no more"
    if not allocation.runs():
        return "the scheduler has ended it"
    return ""


def _records(job: Job) -> set[str]:
    folder = Path(job.store) / "records"
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _tell(journal: Journal, entry: JobEntry) -> None:
    journal.add(entry)
    then = "; it is started again" if entry.again else f": {entry.text}" if entry.text else ""
    print(f"ended with exit code {entry.exit_code}{then}", flush=True)
