"""Room for checkpoints on the run's file system.

A checkpoint has the weights once and the optimizers' moments of all ranks, by the formula that the
estimate of memory rests on (model/config/memory.py). A run keeps the newest few, and one more while
it is written: a disk that is full by then costs the checkpoint and not the run, but a node that is
lost afterwards costs all steps since the one before it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import directory as checkpoint
from model.config import Checkpointing, Config
from model.config.derive import Derived
from model.config.memory import average_bytes, compute_bytes, moment_bytes, weight_bytes
from model.diagnostics.finding import Finding, judged


@dataclass(frozen=True, kw_only=True)
class Room:
    """A run's file system against what the run will put there."""

    place: Path
    """The nearest folder that exists already."""
    writable: bool
    checkpoint_bytes: int
    copies: int
    """Checkpoints that will lie there at once and do not yet."""
    free_bytes: int
    promised_bytes: int = 0
    """What data that is yet to come will take of the same file system."""

    @classmethod
    def of(
        cls, config: Config, derived: Derived, out: Path, *, cache: Path, coming_bytes: int = 0
    ) -> "Room":
        """Reads the disk; `out` need not exist. `coming_bytes` will come into `cache`."""
        place = standing(out)
        shared = place.stat().st_dev == standing(cache).stat().st_dev
        there = len(checkpoint.listed(checkpoint.folder_of(out)))
        return cls(
            place=place,
            writable=place.is_dir() and os.access(place, os.W_OK),
            checkpoint_bytes=checkpoint_bytes(config, derived),
            copies=max(0, copies(config.checkpoint) - there),
            free_bytes=free_bytes(place),
            promised_bytes=coming_bytes if shared else 0,
        )


def findings(room: Room) -> Iterator[Finding]:
    """Whether checkpoints can be written there, and fit."""
    yield judged(
        "run directory",
        ok=room.writable,
        expected="a folder that can be written",
        got=str(room.place),
        hint="Choose another place for the run, or mend its permissions.",
    )
    needed, each = room.copies * room.checkpoint_bytes, _gb(room.checkpoint_bytes)
    promised = f", {_gb(room.promised_bytes)} of it for data" if room.promised_bytes else ""
    yield judged(
        "free disk",
        ok=needed + room.promised_bytes <= room.free_bytes,
        expected=f"{_gb(needed)} for checkpoints: {room.copies} of {each} yet to come",
        got=f"{_gb(room.free_bytes)} free at {room.place}{promised}",
        hint="Free some space, put the run on another disk, or lower checkpoint.keep.",
    )


def checkpoint_bytes(config: Config, derived: Derived) -> int:
    """What one checkpoint takes, all ranks' files together."""
    counts = derived.parameters
    waiting = 0
    if config.optimizer.table_interval_steps > 1:  # gradients of tables, each rank its own
        tables = counts.get("embedding", 0) + counts.get("head", 0)
        waiting = derived.ranks * tables * compute_bytes(config)
    weights = weight_bytes(config, counts) + average_bytes(config, counts)
    return weights + moment_bytes(config, counts) + waiting


def copies(settings: Checkpointing) -> int:
    """How many lie there at once, at the most."""
    if settings.every_steps is not None or settings.every_minutes is not None:
        return settings.keep + 1
    return int(settings.at_stop)


def standing(folder: Path) -> Path:
    """The nearest folder above that exists already; the same one where it does."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def free_bytes(folder: Path) -> int:
    """What this user may still write to the file system where a folder is or will be."""
    return shutil.disk_usage(standing(folder)).free


def _gb(size: int) -> str:
    return f"{size / 1e9:,.3g} GB"
