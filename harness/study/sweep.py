"""Fair settings for an arm: a small grid, run first on seeds of its own, and the choice from it.

Removing Muon at AdamW's wrong learning rate costs ten times what removing Muon costs; so the arm
gets the settings that are best for it, before its verdict. Every combination of the values is an
arm of role `retune`. Where a search fills the sweep, its best points take the place of the
combinations. Pure: settings in, settings out; resolve.py writes the choice into the arm.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.config.study_file import RetuneFile
from harness.results.study_plan import Retuned

EDGE = 0.03  # of a searched range: nearer to its end, the best may lie beyond


def combinations(sweep: RetuneFile) -> list[dict[str, Any]]:
    """Every combination of the values, in the order of the file."""
    fields = list(sweep.values)
    return [
        dict(zip(fields, chosen, strict=True))
        for chosen in itertools.product(*(sweep.values[field] for field in fields))
    ]


def arm_name(arm: str, trick: str, settings: Mapping[str, Any]) -> str:
    """`retune:muon:lr=0.003`; the last part of each field is enough to read it."""
    label = trick if arm == f"no_{trick}" else arm
    shown = ",".join(f"{field.rpartition('.')[2]}={value}" for field, value in settings.items())
    return f"retune:{label}:{shown}"


def choose(
    sweep: RetuneFile, results: Sequence[tuple[Mapping[str, Any], Sequence[float | None]]]
) -> dict[str, Retuned]:
    """The best combination by mean val_bpb; empty where none finished at every seed.

    `results`: settings with their val_bpb at each seed, None where a run has none. A value at
    either end of three or more that were tried, or of two, may not be the best there is: `at_edge`.
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
    """The search that fills the sweep of a trick."""
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
    except TypeError:  # settings without an order, such as names
        return (None, None)


def _tried(field: str, finished: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, float]:
    """Value -> the best mean with it, whatever the other settings were."""
    tried: dict[str, float] = {}
    for mean, settings in finished:
        key = str(settings[field])
        tried[key] = min(mean, tried.get(key, mean))
    return tried
