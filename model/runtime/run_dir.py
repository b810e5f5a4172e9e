"""The files that a run leaves: config.json, environment.json, events.jsonl, result.json.

They are the contract with whoever started the run. Events are one JSON object a line, flushed;
result.json is written last and by rename, so that half a result is no result. The first `finish`
wins: the watch thread may end a run while the main thread is stuck in a long kernel.

One process at a time writes them. A process that resumes a run leaves what the one before it wrote
until `go_on` is called: if it is refused or told to leave before that, the earlier result stands.

Of several ranks, rank 0 writes the run's files; the others keep such files of their own under
`ranks/`, which tell how each one ended.
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
    """Shows events elsewhere too (model/runtime/sinks.py); takes them without making the run
    wait."""

    def event(self, event: dict[str, Any]) -> None:
        """A line of events.jsonl."""

    def close(self, result: dict[str, Any]) -> None:
        """What result.json says; the last call."""


class RunDirectory:
    """Writes one run's files; safe to call from the watch thread."""

    def __init__(self, root: Path, *, rank: int = 0, resume: bool = False) -> None:
        """Raises RunError where a run has ended here, unless it is one to `resume`."""
        self.earlier_status = _status(root / "result.json")
        if self.earlier_status is not None:
            _require_unfinished(root, self.earlier_status, resume)
        if not resume and listed(folder_of(root)):
            raise RunError(
                path=str(root),
                expected="a directory without another run's checkpoints",
                got=f"those in {folder_of(root).name}/",
                hint="Go on with --resume, or choose another --out.",
            )
        path = place_of(root, rank)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._events = _own(path / "events.jsonl")
        except BlockingIOError:
            raise RunError(
                path=str(path),
                expected="a directory that no other process writes to",
                got="one in which a run is at work",
                hint="Wait for its end, or end it with SIGTERM.",
            ) from None
        except OSError as error:
            locks = error.errno in NO_LOCKS
            raise RunError(
                path=str(path),
                expected=f"a directory {'with file locks' if locks else 'that can be written'}",
                got=str(error),
                hint=LOCK_HINT if locks else "Choose another --out or mend its permissions.",
            ) from None
        if rank:  # how it ended before says nothing of the run
            (path / "result.json").unlink(missing_ok=True)
        self.root, self.path = root, path
        """The run's directory, and where this rank writes: the same for rank 0."""
        self.metrics: dict[str, float | None] = dict.fromkeys(METRICS)
        self.steps = self.tokens = 0
        self.mirrors: list[Mirror] = []
        self._lock = threading.Lock()
        # where a process was killed in the middle of a line, that line ends before ours begins
        self._before_next = "\n" if _ends_in_half_a_line(path / "events.jsonl") else ""
        self._finished = False
        self._stands_aside = resume and rank == 0

    def event(self, kind: str, **fields: Any) -> None:
        """One line in events.jsonl."""
        event = {"event": kind, "t": round(time.time(), 3), **fields}
        with self._lock:
            if not self._finished:
                self._events.write(self._before_next + json.dumps(event) + "\n")
                self._before_next = ""
                self._events.flush()
        for mirror in self.mirrors:
            mirror.event(event)

    def phase(self, name: str, seconds: float) -> None:
        """A phase of the run and what it took."""
        self.event("phase", name=name, seconds=round(seconds, 4))

    def write(self, name: str, value: dict[str, Any]) -> None:
        """A whole JSON file, by rename."""
        part = self.path / f".{name}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.path / name)

    def go_on(self, step: int) -> None:
        """The run goes on behind `step`: later steps never happened, and its end is still to come.

        Their events are taken out of events.jsonl, an earlier result.json is removed.
        """
        with self._lock:
            path, part = self.path / "events.jsonl", self.path / ".events.jsonl.part"
            kept = [line for line in _lines(path) if _happened(line, step)]
            part.write_text("".join(kept), encoding="utf-8")
            with part.open("rb") as written:
                os.fsync(written.fileno())
            events = _own(part)
            part.rename(path)
            self._events.close()
            self._events, self._before_next = events, ""
            (self.path / "result.json").unlink(missing_ok=True)
            self._stands_aside = False

    def finish(self, status: str, reason: str | None = None, hint: str | None = None) -> bool:
        """Writes result.json unless it is written already; says whether it did."""
        assert status in STATUSES, status
        with self._lock:
            if self._finished:
                return False
            self._finished = True
            try:
                if self._stands_aside:
                    return True
                metrics = {name: _finite(value) for name, value in self.metrics.items()}
                end = {"status": status, "reason": reason, "hint": hint}
                counts = {"steps": self.steps, "tokens": self.tokens}
                result = {**end, **counts, "metrics": metrics}
                self.write("result.json", result)
            finally:
                # behind the result: whoever finds the lock gone (model/runtime/lost_rank.py) looks
                # for one
                self._events.close()
        for mirror in self.mirrors:
            mirror.close(result)
        return True


def place_of(root: Path, rank: int) -> Path:
    """Where a rank of the run in `root` writes."""
    return root / "ranks" / str(rank) if rank else root


def is_at_work(place: Path) -> bool:
    """Whether a process writes there; one that has not come so far counts as one that does."""
    try:
        with (place / "events.jsonl").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return True
    return False


def _status(path: Path) -> str | None:
    """The status of an earlier run, or null where none came to its end."""
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
        hint = "Go on with --resume, or choose another --out; results are never overwritten."
    raise RunError(
        path=str(path),
        expected="a run that can go on" if resume else "a directory without a finished run",
        got=f"a result.json that says {status}",
        hint=hint,
    )


def _own(path: Path) -> IO[str]:
    """A file to append to that no other process has; raises BlockingIOError where one has."""
    file = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _ends_in_half_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        return file.read() not in (b"", b"\n")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)


def _happened(line: str, step: int) -> bool:
    """Whether an event belongs to a run that goes on behind `step`; half a line belongs to none."""
    try:
        return bool(json.loads(line).get("step", 0) <= step)
    except ValueError:
        return False


def _finite(value: float | None) -> float | None:
    """JSON has no NaN; a metric that is none is not measured."""
    return value if value is not None and math.isfinite(value) else None
