"""Retuning an arm: a small sweep, run first and on its own seeds, and the choice from it.

Removing Muon while AdamW keeps an unsuitable learning rate costs ten times as much as removing Muon
with a suitable one, so an arm gets the best settings of its sweep before it is compared. Every
combination of the values is an arm of role `retune`; where a search fills the sweep, its best
points replace the combinations. Pure functions; resolve.py writes the choice into the arm.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.config.study_file import RetuneFile
from harness.results.study_plan import Retuned

EDGE = 0.03  # fraction of a searched range; nearer to its end, the best may lie outside


def combinations(sweep: RetuneFile) -> list[dict[str, Any]]:
    """Every combination of the values, in the order of the file."""
    fields = list(sweep.values)
    return [
        dict(zip(fields, chosen, strict=True))
        for chosen in itertools.product(*(sweep.values[field] for field in fields))
    ]


def arm_name(arm: str, trick: str, settings: Mapping[str, Any]) -> str:
    """`retune:muon:lr=0.003`, with the last part of each field."""
    label = trick if arm == f"no_{trick}" else arm
    shown = ",".join(f"{field.rpartition('.')[2]}={value}" for field, value in settings.items())
    return f"retune:{label}:{shown}"


def choose(
    sweep: RetuneFile, results: Sequence[tuple[Mapping[str, Any], Sequence[float | None]]]
) -> dict[str, Retuned]:
    """The combination with the lowest mean val_bpb; empty where none finished at every seed.

    `results`: settings with their val_bpb at each seed, None where a run has none. `at_edge` marks
    a value at either end of those tried: a better one may lie outside.
    """
    finished: list[tuple[float, Mapping[str, Any]]] = []
    for settings, values in results:
        numbers = [value for value in values if value is not None]
        if numbers and len(numbers) == len(values):
            finished.append((sum(numbers) / len(numbers), settings))
    if not finished:
        return {}
    best = min(finished, key=lambda entry: entry[0])[1]
    return {
        field: Retuned(
            value=best[field],
            at_edge=_at_edge(sweep, field, best[field]),
            tried=_tried(field, finished),
        )
        for field in sweep.values or sweep.space
    }


def search_name(study: str, trick: str) -> str:
    """The name of the search that fills the sweep of a trick."""
    return f"{study}-retune-{trick}"


def _at_edge(sweep: RetuneFile, field: str, value: Any) -> bool:
    if not sweep.space:
        values = sweep.values[field]
        return len(values) > 1 and value in _edges(values)
    ends = sweep.space[field].get("float") or sweep.space[field].get("int")
    if ends is None:
        return False
    low, high, at = (
        map(math.log, (*ends, value)) if sweep.space[field].get("log") else (*ends, value)
    )
    return min(at - low, high - at) <= EDGE * (high - low)


def _edges(values: Sequence[Any]) -> tuple[Any, Any]:
    try:
        return min(values), max(values)
    except TypeError:  # values without an order, such as names
        return (None, None)


def _tried(field: str, finished: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, float]:
    """Value -> the lowest mean with it, over all other settings."""
    tried: dict[str, float] = {}
    for mean, settings in finished:
        key = str(settings[field])
        tried[key] = min(mean, tried.get(key, mean))
    return tried
