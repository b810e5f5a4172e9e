"""Fair settings for an arm: a small grid, run first on seeds of its own, and the choice from it.

Removing Muon at AdamW's wrong learning rate costs ten times what removing Muon costs; so the arm
gets the settings that are best for it, before its verdict. Every combination of the values is an
arm of role `retune`. Pure: settings in, settings out; resolve.py writes the choice into the arm.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from harness.arms import Retuned
from harness.config import RetuneFile


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
            at_edge=len(values) > 1 and best[field] in _edges(values),
            tried=_tried(field, finished),
        )
        for field, values in sweep.values.items()
    }


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
