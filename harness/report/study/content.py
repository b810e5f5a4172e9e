"""What a report is made from: the study, its attribution and its curves, read from the store once.

After `tasks`; the terminal, HTML, tables and picture all take a `Content`. The order
of the arms is decided here, so that every part shows them alike: the trick that helps most first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.metrics import CORE_SCORES, COSTS
from harness.report.study.core_tasks import StudyCore, core_of
from harness.results.store import Store
from harness.results.study_plan import Arm, ResolvedStudy
from harness.study.attribution import attribute
from harness.study.effects import ArmResult, Attribution


@dataclass(frozen=True, kw_only=True)
class Content:
    """One study, analysed. `store` is asked again for curves only."""

    store: Store
    study: ResolvedStudy
    found: Attribution
    core: StudyCore | None = None  # where the runs evaluated CORE

    @property
    def base(self) -> Arm:
        """The arm everything is compared with."""
        return self.study.arm(self.found.base)

    @property
    def ranked(self) -> list[ArmResult]:
        """Arms by how much their trick helps the primary metric; those without a number last."""
        return ranked(self.found)

    @property
    def metrics(self) -> list[str]:
        """The columns of the effects table: metrics in which at least one arm has an effect."""
        return [
            metric
            for metric in (self.found.primary, self.found.speed, *CORE_SCORES, *COSTS)
            if metric == self.found.primary or any(_has(arm, metric) for arm in self.found.arms)
        ]

    @property
    def has_time(self) -> bool:
        """Whether the study has a time-to-target column."""
        return self.found.slope is not None


def _has(arm: ArmResult, metric: str) -> bool:
    effect = arm.effects.get(metric)
    return effect is not None and (effect.estimate is not None or metric.startswith("tokens"))


def load(store: Store, name: str) -> Content:
    """Reads and analyses a stored study. Raises StoreError where there is none of that name."""
    study = store.study(name)
    found = attribute(study, store.records())
    core = core_of(store, found, ranked(found))
    return Content(store=store, study=study, found=found, core=core)


def ranked(found: Attribution) -> list[ArmResult]:
    """See `Content.ranked`."""

    def key(arm: ArmResult) -> tuple[bool, float]:
        helps = arm.helps(found.primary)
        return helps is None, -(helps or 0.0)

    return sorted(found.arms, key=key)


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """A nested configuration as dotted path -> value; empty mappings and lists stay values."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(flatten(inner, f"{path}.{key}" if path else str(key)))
    return flat


def difference(base: Arm, arm: Arm) -> list[tuple[str, Any, Any]]:
    """Where two configurations differ: (dotted path, base's value, arm's value)."""
    ours, theirs = flatten(base.config), flatten(arm.config)
    paths = sorted(ours.keys() | theirs.keys())
    return [
        (path, ours.get(path), theirs.get(path))
        for path in paths
        if ours.get(path) != theirs.get(path)
    ]


def settings(arm: Arm) -> dict[str, Sequence[str]]:
    """What sets an arm apart, in words: overrides, pinned, retuned, untuned fields, other code."""
    code = [f"ref {arm.ref}"] if arm.ref else [f"patch {arm.patch}"] if arm.patch else []
    return {
        "overrides": [f"{path} = {_short(value)}" for path, value in arm.set.items()] + code,
        "pinned": [
            f"{path} = {_short(pin.base)} (own rule: {_short(pin.own)})"
            for path, pin in arm.pinned.items()
        ],
        "retuned": [
            f"{path} = {_short(tuned.value)}" + (", at the edge of its sweep" * tuned.at_edge)
            for path, tuned in arm.retuned.items()
        ],
        "untuned": list(arm.untuned),
    }


def _short(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
