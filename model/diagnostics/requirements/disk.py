"""Disk space for checkpoints on the run's file system.

A checkpoint has the weights once and the optimizer state of all ranks, by the formula of the memory
estimate (model/config/memory.py). A run keeps the newest few, and one more while it is written. A
full disk costs a checkpoint, not the run; but after a lost node the run resumes from the previous
one.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import directory as checkpoint
from model.config import Checkpointing, Config
from model.config.derive import Derived
from model.config.memory import average_bytes, compute_bytes, moment_bytes, weight_bytes
from model.diagnostics.finding import Finding, check


@dataclass(frozen=True, kw_only=True)
class DiskSpace:
    """A run's file system, and what the run will write to it."""

    place: Path
    """The nearest existing parent folder."""
    writable: bool
    checkpoint_bytes: int
    copies: int
    """Checkpoints that will exist at once and do not yet."""
    free_bytes: int
    data_bytes: int = 0
    """Size of data that will be downloaded or tokenized on the same file system."""

    @classmethod
    def of(
        cls, config: Config, derived: Derived, out: Path, *, cache: Path, coming_bytes: int = 0
    ) -> "DiskSpace":
        """Read the disk; `out` need not exist. `coming_bytes` will be written to `cache`."""
        place = nearest_existing(out)
        shared = place.stat().st_dev == nearest_existing(cache).stat().st_dev
        there = len(checkpoint.listed(checkpoint.folder_of(out)))
        return cls(
            place=place,
            writable=place.is_dir() and os.access(place, os.W_OK),
            checkpoint_bytes=checkpoint_bytes(config, derived),
            copies=max(0, copies(config.checkpoint) - there),
            free_bytes=free_bytes(place),
            data_bytes=coming_bytes if shared else 0,
        )


def findings(space: DiskSpace) -> Iterator[Finding]:
    """Whether checkpoints can be written, and fit."""
    yield check(
        "run directory",
        ok=space.writable,
        expected="a folder that can be written",
        got=str(space.place),
        hint="Choose another folder for the run, or fix its permissions.",
    )
    needed, each = space.copies * space.checkpoint_bytes, _gb(space.checkpoint_bytes)
    for_data = f", {_gb(space.data_bytes)} of it for data" if space.data_bytes else ""
    yield check(
        "free disk",
        ok=needed + space.data_bytes <= space.free_bytes,
        expected=f"{_gb(needed)} for checkpoints: {space.copies} of {each} yet to come",
        got=f"{_gb(space.free_bytes)} free at {space.place}{for_data}",
        hint="Free some space, put the run on another disk, or lower checkpoint.keep.",
    )


def checkpoint_bytes(config: Config, derived: Derived) -> int:
    counts = derived.parameters
    waiting = 0
    if config.optimizer.table_interval_steps > 1:  # each rank's gradients of tables
        tables = counts.get("embedding", 0) + counts.get("head", 0)
        waiting = derived.ranks * tables * compute_bytes(config)
    weights = weight_bytes(config, counts) + average_bytes(config, counts)
    return weights + moment_bytes(config, counts) + waiting


def copies(settings: Checkpointing) -> int:
    """The largest number of checkpoints at once."""
    if settings.every_steps is not None or settings.every_minutes is not None:
        return settings.keep + 1
    return int(settings.at_stop)


def nearest_existing(folder: Path) -> Path:
    """The folder, or its nearest existing parent."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the file system of a folder."""
    return shutil.disk_usage(nearest_existing(folder)).free


def _gb(size: int) -> str:
    return f"{size / 1e9:,.3g} GB"
