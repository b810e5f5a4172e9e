"""The attribution bars as a PNG, for a README or a comment. Needs matplotlib (extra `report`).

The same panels as the chart of the HTML, on white, with the first line of the report in the picture
itself: it will be seen without the report around it.
"""

import io
from typing import TYPE_CHECKING

from harness.report.study import phrases
from harness.report.study.content import Content
from harness.report.study.panels import MEANINGS, Panel, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
PANEL_INCHES = 3.6


def draw(content: Content) -> bytes:
    """The picture's bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    found, drawn = content.found, panels(content)
    rows = len(drawn[0].bars)
    height = 2.1 + 0.42 * rows
    figure = Figure(figsize=(2.0 + PANEL_INCHES * len(drawn), height), layout="constrained")
    FigureCanvasAgg(figure)
    for index, panel in enumerate(drawn):
        axes = figure.add_subplot(1, len(drawn), index + 1)
        _panel(axes, panel, labelled=index == 0)
    figure.suptitle(f"{phrases.effects_title(found)} ({found.study})", fontsize=13, weight="bold")
    figure.legend(
        handles=[Patch(color=colour, label=meaning) for colour, meaning in MEANINGS.items()],
        loc="outside lower center",
        ncols=len(MEANINGS),
        frameon=False,
        fontsize=9,
        title="\n".join([*found.headlines, _caption(content)]),
        title_fontsize=9,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def _caption(content: Content) -> str:
    found = content.found
    return (
        f"{found.base_completed} runs of the base; whiskers: {100 * (1 - found.alpha):g} % "
        f"intervals, {phrases.rule(found)}."
    )


def _panel(axes: "Axes", panel: Panel, *, labelled: bool) -> None:
    for position, bar in enumerate(panel.bars):
        if bar.value is None:
            axes.text(0, position, f" {bar.reason}", va="center", fontsize=8, color="#666")
            continue
        hatch = "//" if bar.at_least else None
        axes.barh(position, bar.value, height=0.62, color=bar.colour, hatch=hatch)
        if bar.low is not None and bar.high is not None:
            whisker = [[bar.value - bar.low], [bar.high - bar.value]]
            axes.errorbar(bar.value, position, xerr=whisker, color="#222", capsize=3, linewidth=1.3)
        if bar.at_least:
            words = f" {phrases.OUTSIDE_RANGE}"
            axes.text(0, position, words, va="center", fontsize=8, color="white")
    axes.axvline(0, color="#444", linewidth=0.8)
    if panel.margin is not None:
        axes.axvspan(-panel.margin, panel.margin, color="#e4e4e4", linewidth=0, zorder=0)
    axes.set_ylim(len(panel.bars) - 0.4, -0.6)
    labels = [bar.label for bar in panel.bars] if labelled else []
    axes.set_yticks(range(len(labels)), labels)
    axes.locator_params(axis="x", nbins=6)
    axes.set_title(panel.title, fontsize=11)
    axes.set_xlabel(panel.unit, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
