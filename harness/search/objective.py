"""The objectives of a search and the bounds on its trials, computed from the metrics of a run.

Only metrics of the whole run are objectives. `ln_time_to_target` is the change of ln(training time
to the base's loss): the loss difference divided by the slope of the loss against ln(time) that a
study measured, plus the change of ln(seconds per token).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from harness.config.search_file import LN_TIME, BoundFile, SearchFile
from harness.errors import StudyFileError
from harness.metrics import LOSSES, METRICS
from harness.results.record import Identity
from harness.results.store import Store
from harness.study.attribution import attribute

SPEED = "tokens_per_s"

Metrics = Mapping[str, float | None]


class TimeReference(msgspec.Struct, frozen=True, kw_only=True):
    """What `ln_time_to_target` is relative to: the base's loss and speed, and the slope.

    `slope`: of the loss `metric` against ln(training time); below 0.
    """

    metric: str
    slope: float
    loss: float
    tokens_per_s: float


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """One or several objectives of a completed run, and the bounds on its metrics."""

    names: list[str]
    bounds: dict[str, BoundFile] = {}
    reference: TimeReference | None = None

    @property
    def watched(self) -> str | None:
        """The loss whose evaluations during a run are reported to Optuna; None for no loss."""
        if len(self.names) > 1:
            return None  # Optuna prunes by a single objective
        name = self.names[0]
        if name == LN_TIME and self.reference is not None:
            return self.reference.metric
        return name if name in LOSSES else None

    def values(self, metrics: Metrics) -> list[float] | None:
        """One number for each name; None if the run did not measure one of them."""
        values = [self._value(name, metrics) for name in self.names]
        measured = [value for value in values if value is not None]
        return measured if len(measured) == len(values) else None

    def _value(self, name: str, metrics: Metrics) -> float | None:
        if name != LN_TIME:
            return metrics.get(name)
        reference = self.reference
        assert reference is not None, "ln_time_to_target has no reference"
        loss, speed = metrics.get(reference.metric), metrics.get(SPEED)
        if loss is None or not speed:
            return None
        quality = (loss - reference.loss) / -reference.slope
        return quality + math.log(reference.tokens_per_s / speed)

    def violations(self, metrics: Metrics) -> dict[str, float]:
        """How far each bound is exceeded, as a fraction of it; 0 or below if it is kept.

        Bounds on metrics that were not measured are left out.
        """
        violations = {}
        for metric, bound in self.bounds.items():
            value = metrics.get(metric)
            limit = bound.at_most if bound.at_most is not None else bound.at_least
            if value is None or limit is None:
                continue
            excess = value - limit if bound.at_most is not None else limit - value
            violations[metric] = excess / (abs(limit) or 1.0)
        return violations


def directions(names: Sequence[str]) -> list[str]:
    """Optuna's `minimize` or `maximize` for each objective."""
    return ["maximize" if harm(name) < 0 else "minimize" for name in names]


def harm(name: str) -> int:
    """+1 if a larger value is worse, -1 if it is better."""
    return 1 if name == LN_TIME else METRICS[name].harm


def unit(name: str) -> str:
    """The unit of an objective's differences."""
    return "ln(time)" if name == LN_TIME else METRICS[name].unit


def require_reported(names: Sequence[str], metrics: Metrics, where: str) -> None:
    """Raises StudyFileError if the base's run lacks a metric of an objective or a bound."""
    missing = [name for name in names if metrics.get(name) is None]
    if missing:
        reported = ", ".join(name for name, value in metrics.items() if value is not None)
        expected = "metrics that a run of the base reports: " + (reported or "none")
        hint = "Choose another objective or bound, or let the base measure it."
        raise StudyFileError(where, expected, ", ".join(missing), hint)


def required_metrics(search: SearchFile, slope_metric: str | None) -> list[str]:
    """Every metric that a run has to report for this search."""
    names = [name for name in search.objectives if name != LN_TIME]
    if LN_TIME in search.objectives:
        names += [slope_metric or "val_bpb", SPEED]
    return list(dict.fromkeys([*names, *search.constraints]))


def measured_slope(
    store: Store, search: SearchFile, base: Identity, where: str
) -> tuple[str, float] | None:
    """(metric, slope) from the study that `slope_from` names; None if it names none.

    Raises StoreError for an unknown study, and StudyFileError if it measured no falling loss, or
    did so on other data or with another protocol.
    """
    if search.slope_from is None:
        return None
    study = store.study(search.slope_from)
    found = attribute(study, store.records()).slope
    theirs: dict[str, Any] = msgspec.structs.asdict(study.arm("base").identity)
    other = [field for field in ("data_id", "protocol") if theirs[field] != getattr(base, field)]
    if other or found is None or found.slope is None or found.slope >= 0:
        missing = found.missing if found is not None else "no horizons"
        got = f"a different {other[0]}" if other else missing or "no falling loss"
        expected = "a study whose base improved with longer training, on the same data"
        hint = "First run a study with `horizons: default` on this base."
        raise StudyFileError(f"{where}: slope_from", expected, f"{search.slope_from}: {got}", hint)
    return found.metric, found.slope
