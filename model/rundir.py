"""The files that a run leaves: config.json, environment.json, events.jsonl, result.json.

They are the contract with whoever started the run. Events are one JSON object a line, flushed;
result.json is written last and by rename, so that half a result is no result. The first `finish`
wins: the watch thread may end a run while the main thread is stuck in a long kernel.
"""

import json
import math
import os
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from model.errors import RunError

STATUSES = ("completed", "diverged", "out_of_memory", "interrupted", "failed")
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
    "eval_s",
    "core",
    "core_soft",
    "peak_memory_bytes",
)


class Mirror(Protocol):
    """Shows events elsewhere too (model/sinks.py); takes them without making the run wait."""

    def event(self, event: dict[str, Any]) -> None:
        """A line of events.jsonl."""

    def close(self, result: dict[str, Any]) -> None:
        """What result.json says; the last call."""


class RunDirectory:
    """Writes one run's files; safe to call from the watch thread."""

    def __init__(self, path: Path) -> None:
        if (path / "result.json").exists():
            raise RunError(
                path=str(path),
                expected="a directory without a finished run",
                got="a result.json",
                remedy="Choose another --out; results are never overwritten.",
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._events = (path / "events.jsonl").open("a", encoding="utf-8")
        except OSError as error:
            raise RunError(
                path=str(path),
                expected="a directory that can be written",
                got=str(error),
                remedy="Choose another --out or mend its permissions.",
            ) from None
        self.path = path
        self.metrics: dict[str, float | None] = dict.fromkeys(METRICS)
        self.steps = self.tokens = 0
        self.mirrors: list[Mirror] = []
        self._lock = threading.Lock()
        self._finished = False

    def event(self, kind: str, **fields: Any) -> None:
        """One line in events.jsonl."""
        event = {"event": kind, "t": round(time.time(), 3), **fields}
        with self._lock:
            if not self._finished:
                self._events.write(json.dumps(event) + "\n")
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

    def finish(self, status: str, reason: str | None = None, remedy: str | None = None) -> bool:
        """Writes result.json unless it is written already; says whether it did."""
        assert status in STATUSES, status
        with self._lock:
            if self._finished:
                return False
            self._finished = True
            self._events.close()
            metrics = {name: _finite(value) for name, value in self.metrics.items()}
            end = {"status": status, "reason": reason, "remedy": remedy}
            counts = {"steps": self.steps, "tokens": self.tokens}
            result = {**end, **counts, "metrics": metrics}
            self.write("result.json", result)
        for mirror in self.mirrors:
            mirror.close(result)
        return True


def _finite(value: float | None) -> float | None:
    """JSON has no NaN; a metric that is none is not measured."""
    return value if value is not None and math.isfinite(value) else None
