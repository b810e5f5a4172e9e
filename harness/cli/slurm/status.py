"""The status of a store's jobs: their own events and the scheduler's state; waiting, cancelling."""

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from harness import files
from harness.cli.slurm.job import slurm
from harness.cli.slurm.submission import CANCELLED, EventLog, Submission, log_path, submissions
from harness.errors import COULD_NOT_RUN, STOPPED_AT_LIMIT, UsageError

OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
OVER |= {"OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}
"""Slurm's states of a job that will not run again; in a dozen others it may."""
LOST = "lost"
POLL_S = 1.0
SETTLES_S = 30.0  # a scheduler takes a moment to list a new job
_CONTROLLER = b"submitit.local._local"


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One job as it is now. `exit_code`: of the last start that logged its end."""

    submission: str
    number: str
    argv: list[str]
    state: str
    live: bool
    exit_code: int | None
    restarts: int
    reason: str
    log: Path


def statuses(store: Path) -> list[JobStatus]:
    """Every job of a store, oldest submission first. Raises StoreError, ClusterError."""
    return _statuses(submissions(store))


def _statuses(known: Sequence[tuple[Path, Submission]]) -> list[JobStatus]:
    queue = _slurm_states() if any(made.kind == "slurm" for _, made in known) else {}
    result = []
    for folder, made in known:
        states = queue if made.kind == "slurm" else _local_states(folder, made)
        result += [status_of(folder, made, number, states.get(number)) for number in made.jobs]
    return result


def status_of(folder: Path, made: Submission, number: str, scheduler: str | None) -> JobStatus:
    """One job; `scheduler` is the scheduler's state of it, None if it no longer lists the job."""
    events = EventLog(folder, number).events()
    ends = [event for event in events if event.event == "ended"]
    live = scheduler is not None and scheduler not in OVER  # Slurm may restart one that ended
    over = not live and bool(ends) and ends[-1] is events[-1] and not ends[-1].requeued
    state = "ended" if over else (scheduler or LOST).lower()
    reason = events[-1].reason if over else ""
    if state == LOST:
        reason = "it was killed without logging its end; see its log, or `sacct -j`"
        if not events:
            reason = "it logged nothing: can its node read the store and this Python?"
    return JobStatus(
        submission=made.id,
        number=number,
        argv=made.argv,
        state=state,
        live=live,
        exit_code=ends[-1].exit_code if ends else None,
        restarts=max(0, sum(event.event == "started" for event in events) - 1),
        reason=reason,
        log=log_path(folder, number),
    )


def wait(store: Path, submission: str) -> list[JobStatus]:
    """The jobs of a submission, once all are over."""
    known = [one for one in submissions(store) if one[1].id == submission]
    began = time.time()
    while True:
        jobs = _statuses(known)
        if not _not_over(jobs, began):
            return jobs
        time.sleep(POLL_S)


def running_like(store: Path, argv: list[str], cwd: str, text: str) -> Submission | None:
    """The latest submission of a command whose jobs are not over and were not cancelled."""
    for folder, made in reversed(submissions(store)):
        alike = (made.argv, made.cwd, made.text) == (argv, cwd, text)
        if not alike or (folder / CANCELLED).exists():
            continue
        if _not_over(_statuses([(folder, made)]), made.submitted_at):
            return made
    return None


def _not_over(jobs: Sequence[JobStatus], since: float) -> bool:
    """Whether a job may still run. `since`: Unix time from which a scheduler has to list it."""
    young = time.time() - since < SETTLES_S
    return any(job.live or (job.state == LOST and young) for job in jobs)


def exit_code_of(jobs: Sequence[JobStatus]) -> int:
    """The exit code of a submission: the highest of its jobs.

    "Could not run", which is also the code of a job that logged no end, ranks above "stopped at a
    limit".
    """
    rank = {STOPPED_AT_LIMIT: COULD_NOT_RUN, COULD_NOT_RUN: STOPPED_AT_LIMIT}
    logged = [job.exit_code if job.state == "ended" else None for job in jobs]
    codes = [COULD_NOT_RUN if code is None else code for code in logged]
    return max(codes, key=lambda code: rank.get(code, code))


def cancel(store: Path, ids: Sequence[str]) -> list[str]:
    """Cancels submissions by their id or the number of a job; returns the jobs' numbers.

    Raises UsageError for an id that no job has.
    """
    known = {made.id: (folder, made) for folder, made in submissions(store)}
    numbers = []
    for name in sorted({_submission_of(known, id) for id in ids}):
        folder, made = known[name]
        files.write_text(folder / CANCELLED, "")
        if made.kind == "slurm":
            slurm(["scancel", *made.jobs])
        else:
            for pid in controllers(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        numbers += made.jobs
    return numbers


def controllers(folder: Path) -> dict[int, int]:
    """submitit's processes that watch the local jobs of a submission, each with its parent.

    A job's number is that process or, where setup lines run before it, the shell above it.
    """
    found, name = {}, os.fsencode(folder.resolve())
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and _CONTROLLER in argv and name in argv:
                found[int(entry.name)] = int(parent)
    return found


def _slurm_states() -> dict[str, str]:
    """number -> state of all jobs of this user that Slurm still lists."""
    fields = ["--format", "%i|%T", "--states", "all", "--array"]
    lines = slurm(["squeue", "--me", "--noheader", *fields]).splitlines()
    return dict(line.strip().partition("|")[::2] for line in lines)


def _local_states(folder: Path, made: Submission) -> dict[str, str]:
    pids = {str(pid) for pair in controllers(folder).items() for pid in pair}
    return {number: "RUNNING" for number in made.jobs if number in pids}


def _submission_of(known: Mapping[str, tuple[Path, Submission]], id: str) -> str:
    for name, (_, made) in known.items():
        if id in (name, *made.jobs, *(number.partition("_")[0] for number in made.jobs)):
            return name
    expected = "the id of a submission in this store, or the number of a job"
    got = f"one that is not among {', '.join(known) or 'none'}"
    hint = "`harness submit --jobs` lists them; --store names another store."
    raise UsageError(f"--cancel {id}", expected, got, hint)
