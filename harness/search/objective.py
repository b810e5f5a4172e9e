"""What a search seeks, and what a trial may not exceed: a record in, numbers out.

Metrics of the whole run only. `ln_time_to_target` is the change of ln(training time to the base's
loss): the loss difference over the slope that a study measured, plus the change of ln(seconds per
token). Pure but for `slope_of`, which reads the study.
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


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What `ln_time_to_target` is relative to: the base's loss and speed, and loss by ln(time)."""

    metric: str
    slope: float  # below 0
    loss: float
    tokens_per_s: float


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """One or several quantities of a finished run, and the bounds it has to keep."""

    names: list[str]
    bounds: dict[str, BoundFile] = {}
    reference: Reference | None = None

    @property
    def directions(self) -> list[str]:
        """`minimize` or `maximize`, as Optuna has it, for each name."""
        return ["maximize" if harm(name) < 0 else "minimize" for name in self.names]

    @property
    def watched(self) -> str | None:
        """The loss that an evaluation in the middle of a run tells; None where it tells nothing."""
        if len(self.names) > 1:
            return None  # Optuna prunes by one value
        name = self.names[0]
        if name == LN_TIME and self.reference is not None:
            return self.reference.metric
        return name if name in LOSSES else None

    def values(self, metrics: Metrics) -> list[float] | None:
        """One number for each name; None where the run did not measure one of them."""
        found = [self._value(name, metrics) for name in self.names]
        known = [value for value in found if value is not None]
        return known if len(known) == len(found) else None

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
        """How far each bound is exceeded, relative to it; kept at 0 or below. Unknown: left out."""
        found = {}
        for metric, bound in self.bounds.items():
            value = metrics.get(metric)
            limit = bound.at_most if bound.at_most is not None else bound.at_least
            if value is None or limit is None:
                continue
            beyond = value - limit if bound.at_most is not None else limit - value
            found[metric] = beyond / (abs(limit) or 1.0)
        return found


def harm(name: str) -> int:
    """+1 where more is worse."""
    return 1 if name == LN_TIME else METRICS[name].harm


def unit(name: str) -> str:
    """The unit of an objective's differences."""
    return "ln(time)" if name == LN_TIME else METRICS[name].unit


def refuse_unreported(names: Sequence[str], metrics: Metrics, where: str) -> None:
    """Raises StudyFileError where the base's run does not report what is sought or bounded."""
    lacking = [name for name in names if metrics.get(name) is None]
    if lacking:
        told = ", ".join(name for name, value in metrics.items() if value is not None)
        raise StudyFileError(
            where,
            "what a run of the base reports: " + (told or "nothing"),
            ", ".join(lacking),
            "Name another objective or bound, or have the base measure it.",
        )


def needed(search: SearchFile, slope_metric: str | None) -> list[str]:
    """Every metric that a run has to report for this search."""
    names = [name for name in search.objectives if name != LN_TIME]
    if LN_TIME in search.objectives:
        names += [slope_metric or "val_bpb", SPEED]
    return list(dict.fromkeys([*names, *search.constraints]))


def slope_of(
    store: Store, search: SearchFile, base: Identity, where: str
) -> tuple[str, float] | None:
    """(metric, slope) of the study that `slope_from` names; None where none is asked for.

    Raises StoreError for an unknown study, and StudyFileError where it measured no slope or
    measured it on other data or by another protocol.
    """
    if search.slope_from is None:
        return None
    study = store.study(search.slope_from)
    found = attribute(study, store.records()).slope
    own: dict[str, Any] = msgspec.structs.asdict(study.arm("base").identity)
    other = [field for field in ("data_id", "protocol") if own[field] != getattr(base, field)]
    if other or found is None or found.slope is None or found.slope >= 0:
        missing = found.missing if found is not None else "no horizons"
        raise StudyFileError(
            f"{where}: slope_from",
            "a study whose base got better with longer training, on the same data",
            f"{search.slope_from}: "
            + (f"another {other[0]}" if other else missing or "no falling loss"),
            "Run one with `horizons: default` on this base first.",
        )
    return found.metric, found.slope
