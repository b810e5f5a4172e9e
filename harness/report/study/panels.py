"""The attribution bars as numbers: panels, the order of the arms, and the length of each bar."""

from dataclasses import dataclass

from harness.comparison.result import MetricResult
from harness.report.chart import HELPS, HURTS, NOISE
from harness.report.study import phrases
from harness.report.study.content import Content
from harness.study.effects import ArmResult

MEANINGS = {
    HELPS: "the trick helps",
    HURTS: "the trick hurts",
    NOISE: "within the noise, or no interval",
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One arm in one panel, in the panel's unit."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    colour: str
    reason: str | None  # why there is no bar, in a word or two
    at_least: bool = False  # the bar shows a limit that the effect exceeds


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One metric: a title, its unit and a bar for each arm, the most helpful trick first."""

    title: str
    unit: str
    margin: float | None
    bars: list[Bar]


def panels(content: Content) -> list[Panel]:
    """Time-to-target where the study has it, then its two parts: loss and speed."""
    result = content.attribution
    labels = phrases.short_labels(result)
    names = [*(["time_to_target"] if content.has_time else []), result.primary, result.speed]
    made = []
    for name in names:
        effects = {arm.name: _effect(arm, name) for arm in content.ranked}
        relative = any(effect.scale == "log" for effect in effects.values())
        factor, margin = 100.0 if relative else 1.0, result.margin.get(name)
        made.append(
            Panel(
                title=phrases.title(name).capitalize(),
                unit="% change" if relative else f"change in {phrases.unit(name)}",
                margin=None if margin is None else factor * margin,
                bars=[_bar(labels[arm.name], arm, effects[arm.name]) for arm in content.ranked],
            )
        )
    return made


def _effect(arm: ArmResult, name: str) -> MetricResult:
    if name == "time_to_target":
        assert arm.time_to_target is not None, f"{arm.name} has no time-to-target"
        return arm.time_to_target.total
    return arm.effects[name]


def _bar(label: str, arm: ArmResult, effect: MetricResult) -> Bar:
    factor = 100.0 if effect.scale == "log" else 1.0

    def shown(number: float | None) -> float | None:
        fraction = effect.fraction(number)
        return None if fraction is None else factor * fraction

    value = effect.estimate if effect.beyond is None else effect.beyond
    return Bar(
        label=label,
        value=shown(value),
        low=shown(effect.low),
        high=shown(effect.high),
        colour=_colour(arm, effect, value),
        reason=_short_reason(arm) if effect.missing else None,
        at_least=effect.beyond is not None,
    )


def _colour(arm: ArmResult, effect: MetricResult, value: float | None) -> str:
    if value is None or not (effect.outside or effect.beyond is not None):
        return NOISE
    sign = 1 if arm.change == "removed" else -1
    return HELPS if effect.harm(value) * sign > 0 else HURTS


def _short_reason(arm: ArmResult) -> str:
    if arm.completed:
        return "not compared"
    return "diverged" if arm.statuses.get("diverged") else "no completed run"
