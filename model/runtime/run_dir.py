"""The files of a run: config.json, environment.json, events.jsonl, result.json.

They are the interface to the program that started the run. Events are one JSON object a line,
flushed; result.json is written last and by rename, so it is complete or absent. The first `finish`
wins: the watch thread may end a run while the main thread hangs in a long kernel.

One process at a time writes them. A resuming process keeps the earlier result until it calls
`continue_from`, so a refused or interrupted resume does not change it.

Rank 0 writes the run's files; the other ranks write the same files below `ranks/`, with their own
results.
"""

import fcntl
import json
import math
import os
import threading
import time
from pathlib import Path
from typing import IO, Any, Protocol

from model.checkpoint.directory import folder_of, listed
from model.errors import LOCK_HINT, NO_LOCKS, RunError

STATUSES = ("completed", "diverged", "out_of_memory", "interrupted", "failed")
FINAL_STATUSES = ("completed", "diverged")  # nothing to resume
METRICS = (
    "train_time_s",
    "tokens_per_s",
    "tokens_per_s_job",
    "loader_wait_s",
    "mfu",
    "val_bpb",
    "val_loss",
    "train_loss",
    "compile_s",
    "recompiled_steps",
    "startup_s",
    "resumes",
    "eval_s",
    "core",
    "core_soft",
    "core_s",
    "peak_memory_bytes",
)


class Mirror(Protocol):
    """Forwards events to a sink (model/runtime/sinks.py) without blocking the run."""

    def event(self, event: dict[str, Any]) -> None:
        """Take a line of events.jsonl."""

    def close(self, result: dict[str, Any]) -> None:
        """Take the content of result.json; the last call."""


class RunDirectory:
    """Writes one run's files; safe to call from the watch thread."""

    def __init__(self, root: Path, *, rank: int = 0, resume: bool = False) -> None:
        """Raises RunError where a run has ended, unless `resume` is set and it can be resumed."""
        self.earlier_status = _status(root / "result.json")
        if self.earlier_status is not None:
            _require_unfinished(root, self.earlier_status, resume)
        if not resume and listed(folder_of(root)):
            raise RunError(
                path=str(root),
                expected="a directory without another run's checkpoints",
                got=f"those in {folder_of(root).name}/",
                hint="Resume it with --resume, or choose another --out.",
            )
        path = rank_dir(root, rank)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._events = _open_locked(path / "events.jsonl")
        except BlockingIOError:
            raise RunError(
                path=str(path),
                expected="a directory that no other process writes to",
                got="one in use by a running process",
                hint="Wait for it to end, or stop it with SIGTERM.",
            ) from None
        except OSError as error:
            locks = error.errno in NO_LOCKS
            raise RunError(
                path=str(path),
                expected=f"a directory {'with file locks' if locks else 'that can be written'}",
                got=str(error),
                hint=LOCK_HINT if locks else "Choose another --out, or fix its permissions.",
            ) from None
        if rank:  # an earlier result of this rank
            (path / "result.json").unlink(missing_ok=True)
        self.root, self.path = root, path
        """The run's directory and this rank's folder, which are equal for rank 0."""
        self.metrics: dict[str, float | None] = dict.fromkeys(METRICS)
        self.steps = self.tokens = 0
        self.mirrors: list[Mirror] = []
        self._lock = threading.Lock()
        # ends the partial line of a killed process
        self._before_next = "\n" if _ends_in_partial_line(path / "events.jsonl") else ""
        self._finished = False
        self._keeps_result = resume and rank == 0

    def event(self, kind: str, **fields: Any) -> None:
        """Append a line to events.jsonl."""
        event = {"event": kind, "t": round(time.time(), 3), **fields}
        with self._lock:
            if not self._finished:
                self._events.write(self._before_next + json.dumps(event) + "\n")
                self._before_next = ""
                self._events.flush()
        for mirror in self.mirrors:
            mirror.event(event)

    def phase(self, name: str, seconds: float) -> None:
        """Record a phase and its seconds."""
        self.event("phase", name=name, seconds=round(seconds, 4))

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file atomically."""
        part = self.path / f".{name}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.path / name)

    def continue_from(self, step: int) -> None:
        """Resume the run after `step`.

        Removes later events from events.jsonl, and an earlier result.json.
        """
        with self._lock:
            path, part = self.path / "events.jsonl", self.path / ".events.jsonl.part"
            lines = [line for line in _lines(path) if _is_up_to(line, step)]
            part.write_text("".join(lines), encoding="utf-8")
            with part.open("rb") as written:
                os.fsync(written.fileno())
            events = _open_locked(part)
            part.rename(path)
            self._events.close()
            self._events, self._before_next = events, ""
            (self.path / "result.json").unlink(missing_ok=True)
            self._keeps_result = False

    def finish(self, status: str, reason: str | None = None, hint: str | None = None) -> bool:
        """Write result.json unless it is already written; returns whether it did."""
        assert status in STATUSES, status
        with self._lock:
            if self._finished:
                return False
            self._finished = True
            try:
                if self._keeps_result:
                    return True
                metrics = {name: _finite(value) for name, value in self.metrics.items()}
                end = {"status": status, "reason": reason, "hint": hint}
                counts = {"steps": self.steps, "tokens": self.tokens}
                result = {**end, **counts, "metrics": metrics}
                self.write("result.json", result)
            finally:
                # releases the lock after the result exists (model/runtime/lost_rank.py)
                self._events.close()
        for mirror in self.mirrors:
            mirror.close(result)
        return True


def rank_dir(root: Path, rank: int) -> Path:
    """The folder of a rank's files."""
    return root / "ranks" / str(rank) if rank else root


def is_running(folder: Path) -> bool:
    """Whether a process writes there, or has not yet started to."""
    try:
        with (folder / "events.jsonl").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return True
    return False


def _status(path: Path) -> str | None:
    """The status of an earlier run, or null without a result."""
    try:
        return str(json.loads(path.read_bytes())["status"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return "unreadable"


def _require_unfinished(path: Path, status: str, resume: bool) -> None:
    if resume and status not in FINAL_STATUSES:
        return
    hint = "Choose another --out; results are never overwritten."
    if not resume and status == "interrupted":
        hint = "Resume it with --resume, or choose another --out; results are never overwritten."
    raise RunError(
        path=str(path),
        expected="a run that can be resumed" if resume else "a directory without a finished run",
        got=f"a result.json with status {status}",
        hint=hint,
    )


def _open_locked(path: Path) -> IO[str]:
    """A file to append to, locked; raises BlockingIOError where another process holds the lock."""
    file = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _ends_in_partial_line(path: Path) -> bool:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        return file.read() not in (b"", b"\n")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)


def _is_up_to(line: str, step: int) -> bool:
    """Whether an event is of a step up to `step`; a partial line is not."""
    try:
        return bool(json.loads(line).get("step", 0) <= step)
    except ValueError:
        return False


def _finite(value: float | None) -> float | None:
    """NaN and infinity as None, which JSON has."""
    return value if value is not None and math.isfinite(value) else None
