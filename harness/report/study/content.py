"""The content of a study's report: the study, its attribution and CORE, read from the store once.

Every format is made from one `Content`, which also fixes the order of the arms: the trick that
helps most first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.metrics import COSTS, SCORES
from harness.redact import redact_text
from harness.report.study.core import StudyCore, core_of
from harness.results.store import Store
from harness.results.study_plan import Arm, ResolvedStudy
from harness.study.attribution import attribute
from harness.study.effects import ArmResult, Attribution


@dataclass(frozen=True, kw_only=True)
class Content:
    """One analysed study. `store` is read again for curves only."""

    store: Store
    study: ResolvedStudy
    attribution: Attribution
    core: StudyCore | None = None  # None where no run evaluated CORE

    @property
    def base(self) -> Arm:
        """The arm that all others are compared with."""
        return self.study.arm(self.attribution.base)

    @property
    def ranked(self) -> list[ArmResult]:
        """Arms by how much their trick helps the primary metric; those without a number last."""
        return ranked(self.attribution)

    @property
    def metrics(self) -> list[str]:
        """The metrics shown: the primary one, and those in which at least one arm has an effect."""
        result = self.attribution
        rest = (result.speed, *SCORES, *COSTS)
        shown = [name for name in rest if any(_has(arm, name) for arm in result.arms)]
        return [result.primary, *shown]

    @property
    def has_time(self) -> bool:
        """Whether the study measures time-to-target."""
        return self.attribution.slope is not None


def _has(arm: ArmResult, metric: str) -> bool:
    effect = arm.effects.get(metric)
    return effect is not None and (effect.estimate is not None or metric.startswith("tokens"))


def load(store: Store, name: str) -> Content:
    """Reads and analyses a stored study. Raises StoreError where there is none of that name."""
    study = store.study(name)
    result = attribute(study, store.records())
    core = core_of(store, result, ranked(result))
    return Content(store=store, study=study, attribution=result, core=core)


def ranked(result: Attribution) -> list[ArmResult]:
    """See `Content.ranked`."""

    def key(arm: ArmResult) -> tuple[bool, float]:
        helps = arm.helps(result.primary)
        return helps is None, -(helps or 0.0)

    return sorted(result.arms, key=key)


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
    """How an arm differs, as phrases: overrides and other code, pinned, retuned, untuned fields."""
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


def own_settings(base: Arm, arm: Arm) -> list[str]:
    """`settings` as lines, without the overrides that the base has too."""
    shared = settings(base)["overrides"] if arm is not base else ()
    return [
        text if kind == "overrides" else f"{kind}: {text}"
        for kind, texts in settings(arm).items()
        for text in texts
        if kind != "overrides" or text not in shared
    ]


def _short(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else redact_text(str(value))
