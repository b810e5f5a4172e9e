"""The folder of a submission in its store, readable after the scheduler has forgotten the job.

    jobs/<id>/
        submission.json       the command, the cluster file's text, the scheduler's job numbers
        argv.json             the command with its passwords, if it has any; readable by the owner
        <number>.jsonl        the events of one job: every start, stop request and end
        <number>_0_log.out    its output, all starts in one file
        cancelled             exists once it was cancelled: no job of it is started again

The other files are submitit's. Slurm forgets a job within minutes, and `sacct` needs an accounting
database that many clusters lack, so the jobs themselves log their events here.
"""

import os
import time
from pathlib import Path
from typing import IO, Literal

import msgspec

from harness import files
from harness.results import stored_file

FOLDER = "jobs"
NAME = "submission.json"
ARGV = "argv.json"
CANCELLED = "cancelled"


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One `harness submit`."""

    id: str
    submitted_at: float
    argv: list[str]  # of the command, after `harness`; without passwords
    cwd: str
    python: str
    kind: str
    file: str
    text: str  # the cluster file's, without passwords
    jobs: list[str] = []  # the scheduler's number of each


class JobEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a job's events. `requeued`: it ended, and the scheduler starts it again."""

    event: Literal["started", "stop_requested", "ended"]
    at: float
    host: str = ""
    reason: str = ""
    exit_code: int | None = None
    requeued: bool = False


class EventLog:
    """The events of one job, appended as they happen."""

    def __init__(self, folder: Path, number: str) -> None:
        self.path = folder / f"{number}.jsonl"

    def add(self, event: JobEvent) -> None:
        """Appends a line and flushes it to the disk. Raises DiskError."""
        with files.disk_errors(self.path), open(self.path, "ab") as handle:
            _write_through(handle, msgspec.json.encode(event) + b"\n")

    def events(self) -> list[JobEvent]:
        """The events so far, without a last line that a killed job wrote in part."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        lines = data[: data.rfind(b"\n") + 1].splitlines()
        return [msgspec.json.decode(line, type=JobEvent) for line in lines]


def new_folder(store: Path, now: float) -> Path:
    """The folder of a new submission; its name is the submission's id, and sorts by time."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    folder = store.resolve() / FOLDER / f"{stamp}-{os.urandom(2).hex()}"
    with files.disk_errors(folder):
        folder.mkdir(parents=True)
    return folder


def save(folder: Path, submission: Submission) -> None:
    """Writes a submission atomically. Raises DiskError."""
    files.write_json(folder / NAME, msgspec.to_builtins(submission))


def save_secret_argv(folder: Path, argv: list[str]) -> None:
    """Stores a command that holds a password, readable by its owner alone. Raises DiskError."""

    def opened(path: str, flags: int) -> int:
        return os.open(path, flags, mode=0o600)

    path = folder / ARGV
    with files.disk_errors(path), open(path, "xb", opener=opened) as handle:
        _write_through(handle, msgspec.json.encode(argv))


def with_passwords(folder: Path, argv: list[str]) -> list[str]:
    """A job's arguments, which begin with those of its command, with the command's passwords."""
    try:
        stored = msgspec.json.decode((folder / ARGV).read_bytes(), type=list[str])
    except FileNotFoundError:
        return argv
    return [*stored, *argv[len(stored) :]]


def submissions(store: Path) -> list[tuple[Path, Submission]]:
    """Every submission of a store, oldest first. Raises StoreError for a damaged one."""
    return [(path.parent, _read(path)) for path in sorted((store / FOLDER).glob(f"*/{NAME}"))]


def log_path(folder: Path, number: str) -> Path:
    """The file of a job's output, as submitit names it."""
    return folder / f"{number}_0_log.out"


def _read(path: Path) -> Submission:
    hint = "Move its folder away: `squeue` and `scancel` of Slurm still find its job."
    data = stored_file.read(path, "a submission")
    return stored_file.decode(
        data, Submission, path, "a submission", if_damaged=hint, if_older=hint
    )


def _write_through(handle: IO[bytes], data: bytes) -> None:
    handle.write(data)
    handle.flush()
    os.fsync(handle.fileno())
