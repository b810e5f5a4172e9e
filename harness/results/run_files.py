"""Reads the files of a run directory: events, the end of the log, progress."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

LOG_TAIL_CHARACTERS = 2000


def log_tail(path: Path, characters: int = LOG_TAIL_CHARACTERS) -> str | None:
    """The last characters of a log; None if it is missing or empty."""
    try:
        with open(path, "rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(0, size - 4 * characters))
            text = handle.read().decode(errors="replace")
    except FileNotFoundError:
        return None
    return text[-characters:] or None


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run; incomplete lines, as a killed trainer leaves them, are skipped."""
    events = []
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            for line in handle:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict):
                    events.append(event)
    except FileNotFoundError:
        return []
    return events


def last_step(path: Path) -> tuple[int, int]:
    """Returns (steps, tokens) at the last logged step."""
    for event in reversed(read_events(path)):
        if event.get("event") == "step":
            return int(event.get("step", 0)), int(event.get("tokens", 0))
    return 0, 0


class Progress(msgspec.Struct, kw_only=True):
    """What a running trainer has logged so far. `silent_s`: seconds since its last event."""

    phase: str = ""
    step: int = 0
    tokens: int = 0
    loss: float | None = None
    step_s: float | None = None
    train_time_s: float = 0.0
    val_bpb: float | None = None
    core: float | None = None
    evaluations: list[dict[str, Any]] = []  # all `evaluation` events
    ranks: list[dict[str, Any]] = []  # all `ranks` events
    losses: list[tuple[int, float]] = []  # (step, training loss in nats per token), every step
    silent_s: float = 0.0


class EventTail:
    """Follows an events.jsonl that is being written, in complete lines.

    A run that resumes from a checkpoint replaces the file by one without later events; then the
    new file is read from its start.
    """

    def __init__(self, path: Path) -> None:
        self.progress = Progress()
        self._path, self._offset, self._inode = path, 0, 0

    def read(self) -> bool:
        """Reads new events; returns whether there were any."""
        try:
            with open(self._path, "rb") as handle:
                if (inode := os.fstat(handle.fileno()).st_ino) != self._inode:
                    self.progress, self._offset, self._inode = Progress(), 0, inode
                handle.seek(self._offset)
                new = handle.read()
        except FileNotFoundError:
            return False
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                self._add(json.loads(line))
        return bool(whole)

    def _add(self, event: Any) -> None:
        if not isinstance(event, dict):
            return
        if event.get("event") == "phase":
            self.progress.phase = str(event.get("name", ""))
        elif event.get("event") == "step":
            self.progress.step = int(event.get("step", 0))
            self.progress.tokens = int(event.get("tokens", 0))
            self.progress.loss, self.progress.step_s = event.get("loss"), event.get("step_s")
            self.progress.train_time_s = float(event.get("train_time_s") or 0.0)
            if self.progress.loss is not None:
                self.progress.losses.append((self.progress.step, float(self.progress.loss)))
        elif event.get("event") == "evaluation":
            self.progress.val_bpb = event.get("val_bpb")
            self.progress.evaluations.append(event)
        elif event.get("event") == "core":
            self.progress.core = event.get("core")
        elif event.get("event") == "ranks":
            self.progress.ranks.append(event)


def boot_id() -> str:
    """The id of the current boot of this machine; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return ""
