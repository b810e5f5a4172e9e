"""How the jobs of a store are: their journals, and where those end, the scheduler's word.

Also what is done to jobs that still are: waiting for them, and cancelling them.
"""

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from harness import files
from harness.cli.slurm import journal
from harness.cli.slurm.allocation import ask
from harness.cli.slurm.journal import CANCELLED, Journal, Submission
from harness.errors import COULD_NOT_RUN, STOPPED_AT_LIMIT, UsageError

OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
OVER |= {"OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}
"""Slurm's words for a job that will not run again; it has a dozen others for one that may."""
GONE = "gone"
POLL_S = 1.0
SETTLES_S = 30.0  # a scheduler needs a moment to know a job
_CONTROLLER = b"submitit.local._local"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One job as it is now. `exit_code`: of the last start that wrote its end."""

    id: str
    number: str
    words: list[str]
    state: str
    live: bool
    exit_code: int | None
    again: int
    text: str
    log: Path


def states(store: Path) -> list[State]:
    """Every job of a store, oldest submission first. Raises StoreError, ClusterError."""
    known = journal.submissions(store)
    slurm = _slurm() if any(made.kind == "slurm" for _, made in known) else {}
    found = []
    for folder, made in known:
        said = slurm if made.kind == "slurm" else _local(folder, made)
        found += [state_of(folder, made, number, said.get(number)) for number in made.jobs]
    return found


def state_of(folder: Path, made: Submission, number: str, said: str | None) -> State:
    """One job; `said` is the scheduler's word for it, None where it knows it no more."""
    entries = Journal(folder, number).entries()
    ends = [entry for entry in entries if entry.event == "ended"]
    live = said is not None and said not in OVER  # one that ended, too: Slurm may start it again
    over = not live and bool(entries) and entries[-1].event == "ended" and not entries[-1].again
    state = "ended" if over else (said or GONE).lower()
    text = entries[-1].text if over else ""
    if state == GONE:
        text = "it was killed without a word; its log, or `sacct -j`, may say why"
        if not entries:
            text = "it wrote nothing: does its node see the store, and this interpreter?"
    return State(
        id=made.id,
        number=number,
        words=made.words,
        state=state,
        live=live,
        exit_code=ends[-1].exit_code if ends else None,
        again=max(0, sum(entry.event == "started" for entry in entries) - 1),
        text=text,
        log=journal.log_of(folder, number),
    )


def _slurm() -> dict[str, str]:
    """number -> state of all jobs of this user that Slurm still knows."""
    form = ["--format", "%i|%T", "--states", "all", "--array"]
    lines = ask(["squeue", "--me", "--noheader", *form]).splitlines()
    return dict(line.strip().partition("|")[::2] for line in lines)


def _local(folder: Path, made: Submission) -> dict[str, str]:
    running = controllers(folder)
    known = {str(pid) for pair in running.items() for pid in pair}
    return {number: "RUNNING" for number in made.jobs if number in known}


def controllers(folder: Path) -> dict[int, int]:
    """The processes that watch over the local jobs of a submission, by /proc; each with its parent.

    A job has the number of the one or, where setup lines are run before, of the shell above it.
    """
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and _CONTROLLER in words and os.fsencode(folder) in words:
                found[int(entry.name)] = int(parent)
    return found


def wait(store: Path, id: str) -> list[State]:
    """The jobs of a submission, once all are over."""
    began = time.monotonic()
    while True:
        found = [state for state in states(store) if state.id == id]
        young = time.monotonic() - began < SETTLES_S
        if not any(job.live or (job.state == GONE and young) for job in found):
            return found
        time.sleep(POLL_S)


def worst(found: Sequence[State]) -> int:
    """The exit code of a submission: of its jobs' the highest; a job that told none could not run.

    That one could not run is worse than that another stopped at a limit. Slurm's word for a job
    that it killed stands in its state.
    """
    rank = {STOPPED_AT_LIMIT: COULD_NOT_RUN, COULD_NOT_RUN: STOPPED_AT_LIMIT}
    told = [job.exit_code if job.state == "ended" else None for job in found]
    codes = [COULD_NOT_RUN if code is None else code for code in told]
    return max(codes, key=lambda code: rank.get(code, code))


def cancel(store: Path, ids: Sequence[str]) -> list[str]:
    """Cancels jobs by their submission's id or the scheduler's number; the numbers cancelled.

    Raises UsageError for an id that no job has.
    """
    known = {made.id: (folder, made) for folder, made in journal.submissions(store)}
    chosen = {_named(known, id) for id in ids}
    numbers = []
    for id in sorted(chosen):
        folder, made = known[id]
        files.write_text(folder / CANCELLED, "")
        if made.kind == "slurm":
            ask(["scancel", *made.jobs])
        else:
            for pid in controllers(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        numbers += made.jobs
    return numbers


def _named(known: Mapping[str, tuple[Path, Submission]], id: str) -> str:
    """The submission that an id means: its own, or that of one of its jobs."""
    for name, (_, made) in known.items():
        if id == name or id in made.jobs or id in {job.partition("_")[0] for job in made.jobs}:
            return name
    raise UsageError(
        f"--cancel {id}",
        "the id of a submission in this store, or a job's number",
        "these: " + (", ".join(known) or "none"),
        "`harness submit --jobs` lists them; --store names another store.",
    )
