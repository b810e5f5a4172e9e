"""The attribution bars as numbers: which panels, which arms in which order, how long each bar is.

Both drawings of them, the plotly chart and the PNG, take this, so that they show the same. Pure.
"""

from dataclasses import dataclass

from harness.compare.result import MetricResult
from harness.metrics import METRICS
from harness.report.study import phrases
from harness.report.study.content import Content
from harness.study.effects import ArmResult

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the faint yellow.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
DASHES = ("solid", "dash", "dot", "dashdot")
HELPS, HURTS, NOISE, BASE = "#0072B2", "#D55E00", "#9A9A9A", "#7A7A7A"
MEANINGS = {
    HELPS: "the trick helps",
    HURTS: "the trick hurts",
    NOISE: "inside the noise, or no interval",
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One arm in one panel, in the panel's unit. `text` is the effect in words."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    colour: str
    text: str
    reason: str | None  # why there is no bar, in a word or two
    at_least: bool = False  # the bar shows a limit that the effect exceeds


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One metric: a title with its unit and a bar for each arm, the most helpful trick first."""

    title: str
    unit: str
    margin: float | None
    bars: list[Bar]


def panels(content: Content) -> list[Panel]:
    """Time to target where the study has it, then its sources: loss and speed."""
    found = content.found
    labels = phrases.short_labels(found)
    names = (["time_to_target"] if content.has_time else []) + [found.primary, found.speed]
    made = []
    for name in names:
        bars = [_bar(labels[arm.name], arm, name) for arm in content.ranked]
        relative = any(_effect(arm, name).scale == "log" for arm in found.arms)
        factor = 100.0 if relative else 1.0
        margin = found.margin.get(name)
        unit = "% change" if relative else f"change in {phrases.unit(name)}"
        made.append(
            Panel(
                title=phrases.title(name).capitalize(),
                unit=unit,
                margin=None if margin is None else factor * margin,
                bars=bars,
            )
        )
    return made


def _effect(arm: ArmResult, name: str) -> MetricResult:
    if name == "time_to_target":
        assert arm.time_to_target is not None, f"{arm.name} has no time to target"
        return arm.time_to_target.total
    return arm.effects[name]


def _bar(label: str, arm: ArmResult, name: str) -> Bar:
    effect = _effect(arm, name)
    factor = 100.0 if effect.scale == "log" else 1.0
    value = effect.estimate if effect.beyond is None else effect.beyond

    def shown(number: float | None) -> float | None:
        fraction = effect.fraction(number)
        return None if fraction is None else factor * fraction

    return Bar(
        label=label,
        value=shown(value),
        low=shown(effect.low),
        high=shown(effect.high),
        colour=_colour(arm, name, effect),
        text=phrases.full(effect),
        reason=_short_reason(arm) if effect.missing else None,
        at_least=effect.beyond is not None,
    )


def _colour(arm: ArmResult, name: str, effect: MetricResult) -> str:
    value = effect.estimate if effect.beyond is None else effect.beyond
    if value is None or not (effect.outside or effect.beyond is not None):
        return NOISE
    sign = 1 if arm.change == "removed" else -1
    return HELPS if value * METRICS[effect.metric].harm * sign > 0 else HURTS


def _short_reason(arm: ArmResult) -> str:
    if arm.completed:
        return "not compared"
    return "diverged" if arm.statuses.get("diverged") else "no completed run"


def arm_style(index: int) -> tuple[str, str]:
    """Colour and dash of the index-th arm's line; the base has its own grey."""
    return PALETTE[index % len(PALETTE)], DASHES[index // len(PALETTE) % len(DASHES)]
