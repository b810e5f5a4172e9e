"""What supports a row, in one small tar that anybody can check and unpack.

A job keeps its own files in its store under full/NAME/ (job.yaml, preflight.json, probe.json,
forecast.json, row.json, row.md, ...); signatures first, the bodies follow.
"""

from collections.abc import Sequence
from pathlib import Path

from harness.record import Record
from harness.store import Store

FOLDER = "full"  # of a store: one folder a job


def job_dir(store: Store, name: str) -> Path:
    """Where a store keeps what belongs to a job."""
    return store.root / FOLDER / name


def pack(
    store: Store, name: str, out: Path, *, job: Sequence[Record], proxies: Sequence[Record]
) -> int:
    """Writes the evidence of a job, the same bytes every time; returns its number of files."""
    raise NotImplementedError


def check(tar_path: Path) -> list[str]:
    """What is wrong with packed evidence, one sentence each; empty where all hashes are right."""
    raise NotImplementedError
