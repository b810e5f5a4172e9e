"""The charts of report.html, as plotly figures. Needs the extra `report`.

Backgrounds are transparent and greys are neutral; the page sets the colour of text and grid to the
reader's light or dark theme. Every colour has a second mark beside it (order, sign, dash, name).
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from harness.report.study import phrases
from harness.report.study.content import Content
from harness.report.study.curves import ArmCurve
from harness.report.study.panels import BASE, MEANINGS, Bar, Panel, arm_style

GRID = "rgba(128,128,128,0.25)"
ZERO = "rgba(128,128,128,0.9)"
MOST_VISIBLE = 9  # more arms than this start hidden; a click in the legend shows them


def bars(panels: list[Panel]) -> go.Figure:
    """One panel a metric, one bar an arm, whiskers for the intervals."""
    titles = [panel.title for panel in panels]
    figure = make_subplots(
        rows=1, cols=len(panels), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04
    )
    for column, panel in enumerate(panels, start=1):
        drawn = [bar for bar in panel.bars if bar.value is not None]
        figure.add_trace(_bar_trace(drawn, panel.unit), row=1, col=column)
        for bar in panel.bars:
            if bar.value is None or bar.at_least:
                _note(figure, bar, column)
        figure.update_xaxes(title_text=panel.unit, zeroline=True, row=1, col=column)
        if panel.margin is not None:
            figure.add_vrect(
                x0=-panel.margin,
                x1=panel.margin,
                fillcolor="rgba(128,128,128,0.15)",
                line_width=0,
                layer="below",
                row=1,
                col=column,
            )
    for colour, meaning in MEANINGS.items():
        mark = {"color": colour, "symbol": "square", "size": 10}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=mark, name=meaning))
    figure.update_yaxes(
        autorange="reversed",
        categoryorder="array",
        automargin=True,
        showgrid=False,
        categoryarray=[bar.label for bar in panels[0].bars],
    )
    figure = styled(figure, height=200 + 38 * len(panels[0].bars))
    figure.update_layout(legend={"yanchor": "top", "y": -70 / (60 + 38 * len(panels[0].bars))})
    return figure


def _bar_trace(drawn: list[Bar], unit: str) -> go.Bar:
    known = [bar.low is not None for bar in drawn]
    return go.Bar(
        orientation="h",
        x=[bar.value for bar in drawn],
        y=[bar.label for bar in drawn],
        marker_line_width=0,
        marker_color=[bar.colour for bar in drawn],
        marker_pattern_shape=["/" if bar.at_least else "" for bar in drawn],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [_arm_of_whisker(bar.high, bar.value) for bar in drawn],
            "arrayminus": [_arm_of_whisker(bar.value, bar.low) for bar in drawn],
            "visible": any(known),
            "thickness": 1.5,
            "width": 5,
            "color": "rgba(110,110,110,1)",
        },
        customdata=[bar.text for bar in drawn],
        hovertemplate="%{y}: %{customdata}<extra></extra>",
        showlegend=False,
        width=0.62,
    )


def _arm_of_whisker(upper: float | None, lower: float | None) -> float | None:
    return None if upper is None or lower is None else upper - lower


def _note(figure: go.Figure, bar: Bar, column: int) -> None:
    """The words that stand where a bar cannot, or beside one that is only a limit."""
    words = phrases.OUTSIDE_RANGE if bar.at_least else bar.reason
    figure.add_annotation(
        x=0,
        y=bar.label,
        text=words,
        showarrow=False,
        xanchor="left",
        xshift=4,
        font_size=11,
        hovertext=bar.text,
        row=1,
        col=column,
        bgcolor="rgba(255,255,255,0.85)",
        font_color="#1d1f23",
    )


def curves(curves: list[ArmCurve], base: str, axis: str) -> go.Figure:
    """Training loss against `tokens` or `train_time_s`, with validation losses as markers."""
    figure = go.Figure()
    for index, curve in enumerate(curves):
        x = getattr(curve, axis)
        line = _line(curve.arm, base, index - 1)
        shown: bool | str = True if index < MOST_VISIBLE else "legendonly"
        _add_band(figure, curve, x, curve.low, curve.high, line, shown)
        figure.add_trace(
            go.Scatter(
                x=x,
                y=curve.loss,
                mode="lines",
                name=_legend(curve),
                line=line,
                legendgroup=curve.arm,
                visible=shown,
                hovertemplate="%{y:.4f}<extra>" + curve.arm + "</extra>",
            )
        )
        if curve.validation:
            position = 0 if axis == "tokens" else 1
            figure.add_trace(
                go.Scatter(
                    x=[point[position] for point in curve.validation],
                    y=[point[2] for point in curve.validation],
                    mode="markers",
                    marker={"color": line["color"], "size": 7, "symbol": "diamond"},
                    legendgroup=curve.arm,
                    showlegend=False,
                    visible=shown,
                    hovertemplate="validation %{y:.4f}<extra>" + curve.arm + "</extra>",
                )
            )
    figure.update_yaxes(title_text="loss (nats per token)", range=_late_range(curves))
    titles = {"tokens": "training tokens", "train_time_s": "training time (s)"}
    figure.update_xaxes(title_text=titles[axis], rangemode="tozero")
    return styled(figure, height=430)


def differences(curves: list[ArmCurve], base: str) -> go.Figure | None:
    """Training loss minus the base's at the same tokens; None without the base's curve."""
    reference = next((curve for curve in curves if curve.arm == base), None)
    if reference is None or len(curves) < 2:
        return None
    figure = go.Figure()
    values = []
    for index, curve in enumerate(curves):
        if curve is reference:
            continue
        inside = curve.tokens <= reference.tokens[-1] * 1.001
        x = curve.tokens[inside]
        at_base = np.interp(x, reference.tokens, reference.loss)
        shown: bool | str = True if index < MOST_VISIBLE else "legendonly"
        difference = curve.loss[inside] - at_base
        values.append(difference[len(x) // 4 :])
        figure.add_trace(
            go.Scatter(
                x=x,
                y=difference,
                mode="lines",
                name=_legend(curve),
                visible=shown,
                line=_line(curve.arm, base, index - 1),
                hovertemplate="%{y:+.4f}<extra>" + curve.arm + "</extra>",
            )
        )
    late = np.concatenate(values)
    low, high = min(float(late.min()), 0.0), max(float(late.max()), 0.0)
    room = 0.08 * (high - low) or 0.001
    figure.update_yaxes(
        title_text="loss minus the base's (nats per token)", range=[low - room, high + room]
    )
    figure.update_xaxes(title_text="training tokens", rangemode="tozero")
    figure.add_hline(y=0, line_color=ZERO, line_width=1)
    return styled(figure, height=380)


def throughput(content: Content) -> go.Figure | None:
    """Tokens/s of every run, arms on the x axis, one mark a block; None when none measured it."""
    speed = content.found.speed
    order = [content.found.base, *(arm.name for arm in content.ranked)]
    rows = [
        row
        for row in content.found.runs
        if row.block is not None and row.status == "completed" and row.metrics.get(speed)
    ]
    if not rows:
        return None
    figure = go.Figure()
    for index, block in enumerate(sorted({row.block for row in rows if row.block is not None})):
        speeds = {row.arm: row.metrics[speed] for row in rows if row.block == block}
        arms = [arm for arm in order if arm in speeds]
        colour, dash = arm_style(index)
        figure.add_trace(
            go.Scatter(
                x=arms,
                y=[speeds[arm] for arm in arms],
                mode="markers+lines",
                name=f"block of seed {block}",
                marker={"size": 9, "color": colour},
                line={"color": colour, "width": 1, "dash": "dot" if dash == "solid" else dash},
                hovertemplate="%{x}: %{y:,.0f} tokens/s<extra>seed " + str(block) + "</extra>",
            )
        )
    figure.update_yaxes(title_text="tokens/s")
    figure.update_xaxes(categoryorder="array", categoryarray=order, automargin=True)
    return styled(figure, height=380)


def _add_band(
    figure: go.Figure,
    curve: ArmCurve,
    x: Any,
    low: Any,
    high: Any,
    line: dict[str, Any],
    shown: bool | str,
) -> None:
    if curve.seeds < 2:
        return
    shared = {"legendgroup": curve.arm, "showlegend": False, "visible": shown, "hoverinfo": "skip"}
    figure.add_trace(go.Scatter(x=x, y=high, mode="lines", line={"width": 0}, **shared))
    figure.add_trace(
        go.Scatter(
            x=x,
            y=low,
            mode="lines",
            line={"width": 0},
            fill="tonexty",
            fillcolor=_faint(line["color"]),
            **shared,
        )
    )


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _line(arm: str, base: str, index: int) -> dict[str, Any]:
    if arm == base:
        return {"color": BASE, "width": 3, "dash": "solid"}
    colour, dash = arm_style(index)
    return {"color": colour, "width": 1.8, "dash": dash}


def _legend(curve: ArmCurve) -> str:
    return f"{curve.arm} ({curve.seeds} seed{'s' * (curve.seeds != 1)})"


def _late_range(curves: list[ArmCurve]) -> list[float] | None:
    """The loss after the first tenth of training, so that the start does not flatten the rest."""
    late = [values[len(values) // 10 :] for c in curves for values in (c.low, c.high)]
    if not late:
        return None
    low, high = min(float(v.min()) for v in late), max(float(v.max()) for v in late)
    room = 0.04 * (high - low) or 0.01
    return [low - room, high + room]


def styled(figure: go.Figure, height: int) -> go.Figure:
    """A figure in the look of the page, without colours of its own for paper and text."""
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 60},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#555"},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.06, "x": 0},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#888", "activecolor": "#0072B2"},
        hovermode="closest",
        bargap=0.3,
    )
    figure.update_xaxes(gridcolor=GRID, zerolinecolor=ZERO, exponentformat="SI")
    figure.update_yaxes(gridcolor=GRID, zeroline=False)
    return figure
