"""Reads the files of a run directory: events, the end of the log, progress."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness import files
from harness.config.field_types import Count

LOG_TAIL_CHARACTERS = 2000
LINE_BYTES = 2**20  # longest line of events.jsonl
EVENTS_BYTES = 2**28  # longest events.jsonl; a run of 100,000 steps writes 20 MB


class _AtStep(msgspec.Struct, kw_only=True):
    """What the contract requires of an event. Losses may be NaN, as in a run that diverges."""

    step: Count
    t: float | None = None
    tokens: Count | None = None
    train_time_s: float | None = None
    loss: float | None = None
    seconds: float | None = None


class _Step(_AtStep, kw_only=True):
    step_s: float | None = None
    loader_wait_s: float | None = None


class _Evaluation(_AtStep, kw_only=True):
    val_loss: float | None = None
    val_bpb: float | None = None


class _Core(msgspec.Struct, kw_only=True):
    core: float | None = None


class _Ranks(msgspec.Struct, kw_only=True):
    """One value for each rank; None where a rank has none."""

    compute_s: list[float | None] | None = None
    loader_wait_s: list[float | None] | None = None
    sm_clock_mhz: list[float | None] | None = None
    throttled: list[list[str] | None] | None = None


_KINDS: dict[str, type[msgspec.Struct]] = {
    "step": _Step,
    "evaluation": _Evaluation,
    "recompilation": _AtStep,
    "core": _Core,
    "ranks": _Ranks,
}


def log_tail(path: Path, characters: int = LOG_TAIL_CHARACTERS) -> str | None:
    """The last characters of a log; None if it is missing or empty."""
    try:
        with files.open_regular(path) as handle:
            size = handle.seek(0, 2)
            handle.seek(max(0, size - 4 * characters))
            text = handle.read(4 * characters).decode(errors="replace")
    except OSError:  # a trainer may have put anything in its place
        return None
    return text[-characters:] or None


class EventLog(msgspec.Struct, kw_only=True):
    """The events of a run that follow the contract, and the first line that does not."""

    events: list[dict[str, Any]] = []
    fault: str | None = None

    @property
    def last_step(self) -> tuple[int, int]:
        """(steps, tokens) at the last logged step."""
        for event in reversed(self.events):
            if event["event"] == "step":
                return event["step"], event.get("tokens") or 0
        return 0, 0


def read_event_log(path: Path) -> EventLog:
    """Reads events.jsonl. A last line without its end, left by a killed run, is skipped."""
    log = EventLog()
    try:
        with files.open_regular(path) as handle:
            for number, line in enumerate(_lines(handle), start=1):
                try:
                    log.events.append(parse_event(line))
                except ValueError as error:
                    if not line.endswith(b"\n") and len(line) < LINE_BYTES:
                        break
                    log.fault = log.fault or f"line {number} of {path.name} is invalid ({error})"
            if handle.read(1):
                log.fault = log.fault or f"{path.name} has more than {EVENTS_BYTES:,} bytes"
    except FileNotFoundError:
        pass
    except OSError as error:
        log.fault = f"{path.name} cannot be read ({error.strerror})"
    return log


def _lines(handle: Any) -> Iterator[bytes]:
    """The lines of a file, a long one in pieces, up to EVENTS_BYTES."""
    read = 0
    while read < EVENTS_BYTES and (line := handle.readline(LINE_BYTES)):
        read += len(line)
        yield line


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run that follow the contract."""
    return read_event_log(path).events


def parse_event(line: bytes) -> dict[str, Any]:
    """One line of events.jsonl.

    Raises ValueError for what is no event, or has a value of another type than the contract.
    """
    event: Any = files.parse_json(line.decode(errors="replace"))
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise ValueError("expected an object with the key `event`")
    if (kind := _KINDS.get(event["event"])) is not None:
        msgspec.convert(event, kind)  # ValidationError is a ValueError
    return event


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
            with files.open_regular(self._path) as handle:
                if (inode := os.fstat(handle.fileno()).st_ino) != self._inode:
                    self.progress, self._offset, self._inode = Progress(), 0, inode
                handle.seek(self._offset)
                new = handle.read(EVENTS_BYTES)
        except OSError:  # not written yet, or replaced by something else
            return False
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # the record of the run names the line
                self._add(parse_event(line))
        return bool(whole)

    def _add(self, event: dict[str, Any]) -> None:
        progress = self.progress
        match event["event"]:
            case "phase":
                progress.phase = str(event.get("name", ""))
            case "step":
                progress.step, progress.tokens = event["step"], event.get("tokens") or 0
                progress.loss, progress.step_s = event.get("loss"), event.get("step_s")
                progress.train_time_s = event.get("train_time_s") or 0.0
                if progress.loss is not None:
                    progress.losses.append((progress.step, float(progress.loss)))
            case "evaluation":
                progress.val_bpb = event.get("val_bpb")
                progress.evaluations.append(event)
            case "core":
                progress.core = event.get("core")
            case "ranks":
                progress.ranks.append(event)


def boot_id() -> str:
    """The id of the current boot of this machine; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return ""
