"""Compares two sides at the error rate that earlier readings of the same question leave.

Runs that are in a store carry their question with them: the configurations, the code and the data
of both sides. Each reading is stored before its result is returned. Logs have no such identity;
their earlier readings are stated by the user (`CompareOptions.seen`).
"""

from pathlib import Path

import msgspec

from harness.comparison.comparability import Runs
from harness.comparison.compare import compare
from harness.comparison.engine import has_limits
from harness.comparison.noise_model import NoiseModel
from harness.comparison.options import CompareOptions
from harness.comparison.result import Comparison
from harness.errors import DiskError
from harness.results import readings
from harness.results.store import Store


def compare_and_record(
    a: Runs, b: Runs, options: CompareOptions, noise_model: NoiseModel
) -> Comparison:
    """`compare`, as the reading that it is. Raises LogError, UsageError and StoreError."""
    first = compare(a, b, options, noise_model)
    metrics = [one.metric for one in first.metrics if has_limits(one)]
    root = _store_of(a, b)
    if root is None or not metrics:
        return first
    names = [str(run.attempt) for run in (*a, *b)]
    try:
        seen = readings.add(Store(root), _question(a, b), names, metrics, options.seen)
    except DiskError as error:
        note = f"this reading could not be stored ({error.got}): state it later with --seen"
        return msgspec.structs.replace(first, notes=[*first.notes, note])
    if seen == options.seen:
        return first
    return compare(a, b, msgspec.structs.replace(options, seen=seen), noise_model)


def _store_of(a: Runs, b: Runs) -> Path | None:
    """The store of side B, where every run is in a store."""
    stores = [run.store for run in (*a, *b)]
    return None if None in stores else stores[-1]


def _question(a: Runs, b: Runs) -> str:
    sides = [
        sorted({(str(run.config_id), str(run.code_id), *sorted(run.identity.items())) for run in s})
        for s in (a, b)
    ]
    return readings.question_id(sides)
