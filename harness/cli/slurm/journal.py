"""What is kept of a submission in its store: one folder, readable after the scheduler forgot it.

    jobs/<id>/
        submission.json       the command, the cluster file's text, the scheduler's numbers
        words.json            the command with its passwords, where it has any; its owner's alone
        <number>.jsonl        what happened to one job: every start, request and end
        <number>_0_log.out    what it printed, all starts in one file
        cancelled             exists once it was cancelled: no job of it is started again

The rest are submitit's own files. Schedulers forget jobs within minutes, so what the table shows is
written here by the jobs themselves; only what a killed job can't say is asked of the scheduler.
"""

import os
import time
from pathlib import Path
from typing import Literal

import msgspec

from harness import files
from harness.errors import StoreError

FOLDER = "jobs"
NAME = "submission.json"
WORDS = "words.json"
CANCELLED = "cancelled"


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One `harness submit`. `jobs`: the scheduler's number of each."""

    id: str
    submitted_at: float
    words: list[str]  # of the command, after `harness`; without passwords
    cwd: str
    python: str
    kind: str
    file: str
    text: str  # the cluster file's
    jobs: list[str] = []


class JobEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a job's journal. `again`: it ended so that the scheduler starts it once more."""

    event: Literal["started", "asked", "ended"]
    at: float
    host: str = ""
    text: str = ""
    exit_code: int | None = None
    again: bool = False


class Journal:
    """The lines of one job, appended as they happen."""

    def __init__(self, folder: Path, number: str) -> None:
        self.path = folder / f"{number}.jsonl"

    def add(self, entry: JobEntry) -> None:
        """Appends a line, whole and on the disk. Raises DiskError."""
        with files.disk_errors(self.path), open(self.path, "ab") as handle:
            handle.write(msgspec.json.encode(entry) + b"\n")
            handle.flush()
            os.fsync(handle.fileno())

    def entries(self) -> list[JobEntry]:
        """What was written so far; a half line at the end of a killed job's is no line."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        lines = data[: data.rfind(b"\n") + 1].splitlines()
        return [msgspec.json.decode(line, type=JobEntry) for line in lines]


def new_folder(store: Path, now: float) -> Path:
    """The folder of a new submission; its name is the submission's id, and sorts by time."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    folder = store.resolve() / FOLDER / f"{stamp}-{os.urandom(2).hex()}"
    with files.disk_errors(folder):
        folder.mkdir(parents=True)
    return folder


def save(folder: Path, submission: Submission) -> None:
    """Writes a submission, whole or not at all. Raises DiskError."""
    files.write_json(folder / NAME, msgspec.to_builtins(submission))


def keep_words(folder: Path, words: list[str]) -> None:
    """Keeps a command that holds a password, for its owner's eyes. Raises DiskError."""

    def opened(path: str, flags: int) -> int:
        return os.open(path, flags, mode=0o600)

    path = folder / WORDS
    with files.disk_errors(path), open(path, "xb", opener=opened) as handle:
        handle.write(msgspec.json.encode(words))
        handle.flush()
        os.fsync(handle.fileno())


def with_passwords(folder: Path, words: list[str]) -> list[str]:
    """The words of a job, which begin with those of its command, as they were given."""
    try:
        kept = msgspec.json.decode((folder / WORDS).read_bytes(), type=list[str])
    except FileNotFoundError:
        return words
    return [*kept, *words[len(kept) :]]


def submissions(store: Path) -> list[tuple[Path, Submission]]:
    """Every submission of a store, oldest first. Raises StoreError for a damaged one."""
    return [(path.parent, _read(path)) for path in sorted((store / FOLDER).glob(f"*/{NAME}"))]


def _read(path: Path) -> Submission:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Submission)
    except msgspec.DecodeError as error:
        raise StoreError(
            str(path), "a submission", str(error), "The file is damaged: move its folder away."
        ) from error


def log_of(folder: Path, number: str) -> Path:
    """Where a job's output goes, as submitit calls it."""
    return folder / f"{number}_0_log.out"
