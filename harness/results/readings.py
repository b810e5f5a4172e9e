"""The readings that a store has: which runs of a question have been compared already.

    readings/<question>/<runs>.json

A question is a hash of what is compared, `runs` one of the runs that answered it: comparing the
same runs again is the same reading, and comparing more of them is the next one. Files are written
once, atomically, before their result is shown, and merge by copying.
"""

import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from harness import files
from harness.results import stored_file
from harness.results.store import READINGS, Store

DIGITS = 16  # of the hashes


class StoredReading(msgspec.Struct, frozen=True, kw_only=True):
    """One reading. `stated`: earlier readings by the user's count; `at`: Unix seconds."""

    metrics: list[str]
    at: float
    stated: int = 0


def question_id(identity: object) -> str:
    """A hash of what is compared."""
    return files.digest(identity, DIGITS)


def add(
    store: Store, question: str, runs: Collection[str], metrics: Collection[str], stated: int = 0
) -> int:
    """Stores a reading; returns how many readings of any of these metrics came before it.

    `runs`: names of all runs of both sides. Raises DiskError and StoreError.
    """
    folder = store.root / READINGS / question
    path = folder / f"{files.digest(sorted(runs), DIGITS)}.json"
    with store.locked():
        known = {one: _read(one) for one in folder.glob("*.json") if not one.name.startswith(".")}
        own = known.pop(path, None) or StoredReading(metrics=[], at=time.time())
        read = StoredReading(
            metrics=sorted({*own.metrics, *metrics}),
            at=own.at,
            stated=max(stated, own.stated),
        )
        if read != own:
            files.write_bytes(path, msgspec.json.encode(read) + b"\n")
    earlier = [one for one in known.values() if one.at <= own.at]
    before = sum(not set(metrics).isdisjoint(one.metrics) for one in earlier)
    return max(before, read.stated)


def _read(path: Path) -> StoredReading:
    hint = "The file is damaged: move it away; state earlier readings with --seen."
    data = stored_file.read(path, "a reading")
    return stored_file.decode(data, StoredReading, path, "a reading", if_damaged=hint)
