"""The charts of a study's report, as matplotlib figures (extra `report`).

Every colour has a second mark beside it: the sign of a bar, the dash of a line, a name. Bars are
computed as numbers first: panels, the order of the arms, and the length of each bar.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.comparison.result import MetricResult
from harness.format import plural
from harness.report.chart import (
    BASE,
    HELPS,
    HURTS,
    INK,
    NOISE,
    count_axis,
    legend,
    line_style,
    new_axes,
    new_figure,
    style,
)
from harness.report.metric_text import OUTSIDE_RANGE
from harness.report.study import phrases
from harness.report.study.content import Content
from harness.report.study.curves import ArmCurve
from harness.study.effects import ArmResult, RunRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEANINGS = {
    HELPS: "the trick helps",
    HURTS: "the trick hurts",
    NOISE: "within the noise, or no interval",
}
PANEL_INCHES = 3.4
CURVE_INCHES = (9.5, 4.2)
MOST_BLOCKS = 24  # lines of one chart that differ in colour or dash


# --- the attribution as numbers -------------------------------------------------------------------


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


# --- the charts -----------------------------------------------------------------------------------


def bars(content: Content, *, captioned: bool = False) -> "Figure":
    """One panel per metric, one bar per arm, whiskers for the intervals.

    `captioned`: with a title and what the intervals are, for a picture that is shown alone.
    """
    from matplotlib.patches import Patch

    result, drawn = content.attribution, panels(content)
    height = 1.5 + 0.42 * len(drawn[0].bars) + 0.6 * captioned
    figure = new_figure(2.0 + PANEL_INCHES * len(drawn), height)
    for index, panel in enumerate(drawn):
        _draw_panel(figure.add_subplot(1, len(drawn), index + 1), panel, labelled=index == 0)
    caption = "\n".join([*result.headlines, _caption(content)])
    if captioned:
        title = f"{phrases.effects_title(result)} ({result.study})"
        figure.suptitle(title, fontsize=13, weight="bold", color=INK)
    figure.legend(
        handles=[Patch(color=colour, label=meaning) for colour, meaning in MEANINGS.items()],
        loc="outside lower center",
        ncols=len(MEANINGS),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        title=caption if captioned else None,
        title_fontsize=9,
    )
    return figure


def _caption(content: Content) -> str:
    result = content.attribution
    return (
        f"{plural(result.base_completed, 'run')} of the base; whiskers: intervals by "
        f"{phrases.rule(result)}."
    )


def _draw_panel(axes: "Axes", panel: Panel, *, labelled: bool) -> None:
    for position, bar in enumerate(panel.bars):
        if bar.value is None:
            axes.text(0, position, f" {bar.reason}", va="center", fontsize=8, color=INK)
            continue
        hatch = "//" if bar.at_least else None
        axes.barh(position, bar.value, height=0.62, color=bar.colour, hatch=hatch)
        if bar.low is not None and bar.high is not None:
            whisker = [[bar.value - bar.low], [bar.high - bar.value]]
            axes.errorbar(bar.value, position, xerr=whisker, color=INK, capsize=3, linewidth=1.3)
        if bar.at_least:
            text = f" {OUTSIDE_RANGE}"
            axes.text(0, position, text, va="center", fontsize=8, color="white")
    axes.axvline(0, color=INK, linewidth=0.8)
    if panel.margin is not None:
        axes.axvspan(-panel.margin, panel.margin, color="#88888833", linewidth=0, zorder=0)
    axes.set_ylim(len(panel.bars) - 0.4, -0.6)
    labels = [bar.label for bar in panel.bars] if labelled else []
    axes.set_yticks(range(len(labels)), labels)
    axes.locator_params(axis="x", nbins=6)
    style(axes, title=panel.title, x=panel.unit, grid="x")
    axes.spines["left"].set_visible(False)


def loss_curves(curves: Sequence[ArmCurve], base: str, axis: str) -> "Figure":
    """Training loss against `tokens` or `train_time_s`, with validation losses as diamonds."""
    figure, axes = new_axes(*CURVE_INCHES)
    for index, curve in enumerate(curves):
        x, look = getattr(curve, axis), _line(curve, base, index)
        axes.plot(x, curve.loss, **look)
        if curve.seeds > 1:
            axes.fill_between(x, curve.low, curve.high, color=look["color"], alpha=0.18, lw=0)
        if curve.validation:
            tokens, times, losses = zip(*curve.validation, strict=True)
            at = tokens if axis == "tokens" else times
            axes.plot(at, losses, "D", color=look["color"], markersize=4)
    _limit_y(axes, [values for c in curves for values in (c.low, c.high)], 10, 0.04)
    titles = {"tokens": "training tokens", "train_time_s": "training time (s)"}
    style(axes, x=titles[axis], y="loss (nats per token)")
    if axis == "tokens":
        count_axis(axes)
    axes.set_xlim(left=0)
    legend(axes, columns=1 + len(curves) // 6)
    return figure


def loss_differences(curves: Sequence[ArmCurve], base: str) -> "Figure":
    """Training loss minus the base's at the same number of tokens; the base is the first curve."""
    reference = curves[0]
    figure, axes = new_axes(*CURVE_INCHES)
    drawn = []
    for index, curve in enumerate(curves[1:], start=1):
        inside = curve.tokens <= reference.tokens[-1] * 1.001
        x = curve.tokens[inside]
        values = curve.loss[inside] - np.interp(x, reference.tokens, reference.loss)
        drawn.append(values)
        axes.plot(x, values, **_line(curve, base, index))
    axes.axhline(0, color=INK, linewidth=0.8)
    _limit_y(axes, [*drawn, np.zeros(1)], 4, 0.08)
    style(axes, x="training tokens", y="loss minus the base's (nats per token)")
    count_axis(axes)
    axes.set_xlim(left=0)
    legend(axes, columns=1 + len(curves) // 6)
    return figure


def throughput(content: Content) -> "Figure":
    """Tokens/s of every run in a block, one line per block, of the first `MOST_BLOCKS` blocks."""
    speed = content.attribution.speed
    blocks: dict[int, dict[str, float]] = {}
    for row in throughput_rows(content):
        if row.block is not None:
            blocks.setdefault(row.block, {})[row.arm] = row.metrics[speed] or 0.0
    order = [content.attribution.base, *(arm.name for arm in content.ranked)]
    figure, axes = new_axes(max(6.0, 2.0 + 0.7 * len(order)), 3.8)
    for index, (block, speeds) in enumerate(sorted(blocks.items())[:MOST_BLOCKS]):
        at = [position for position, arm in enumerate(order) if arm in speeds]
        colour, dash = line_style(index)
        axes.plot(
            at,
            [speeds[order[position]] for position in at],
            marker="o",
            color=colour,
            linestyle="dotted" if dash == "solid" else dash,
            linewidth=1,
            label=f"block of seed {block}",
        )
    axes.set_xticks(range(len(order)), order, rotation=30, ha="right")
    some = f"the first {MOST_BLOCKS} of {len(blocks):,} blocks"
    style(axes, y="tokens/s", title=some if len(blocks) > MOST_BLOCKS else "")
    legend(axes)
    return figure


def throughput_rows(content: Content) -> list[RunRow]:
    """The completed runs of blocks that measured their speed."""
    speed = content.attribution.speed
    return [
        row
        for row in content.attribution.runs
        if row.block is not None and row.status == "completed" and row.metrics.get(speed)
    ]


def _line(curve: ArmCurve, base: str, index: int) -> dict[str, Any]:
    label = f"{curve.arm} ({plural(curve.seeds, 'seed')})"
    if curve.arm == base:
        return {"color": BASE, "linewidth": 2.6, "linestyle": "solid", "label": label}
    colour, dash = line_style(index - 1)
    return {"color": colour, "linewidth": 1.6, "linestyle": dash, "label": label}


def _limit_y(axes: "Axes", series: Sequence[Any], early: int, room: float) -> None:
    """Fits the y axis to the values after the first 1/`early` of training, which is steep."""
    late = np.concatenate([values[len(values) // early :] for values in series])
    low, high = float(late.min()), float(late.max())
    space = room * (high - low) or 0.01
    axes.set_ylim(low - space, high + space)
