"""The charts of a search's report, as plotly figures. Needs the extra `report`.

Drawn here and not by Optuna: the base and its noise belong into them, and five thousand trials have
to be drawn in a second. Every colour has a second mark beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from harness.report.search.terminal import setting, short_names
from harness.report.study.charts import ZERO, styled
from harness.report.study.panels import BASE, HELPS, HURTS, NOISE
from harness.search.objective import harm, unit
from harness.search.results import SearchResult, TrialRow

SHADES = ("#08306B", "#2171B5", "#6BAED6", "#9ECAE1", "#C6DBEF")  # best fifth to worst
IDLE = "idle"  # a parameter of a trick that was off
FAINT = "rgba(128,128,128,0.15)"


def history(found: SearchResult) -> go.Figure:
    """The first objective of every trial, the best so far, and the base with one SD about it."""
    name = found.objectives[0]
    figure = go.Figure()
    noise = found.noise
    figure.add_hrect(
        y0=noise.mean[name] - noise.sd[name],
        y1=noise.mean[name] + noise.sd[name],
        fillcolor=FAINT,
        line_width=0,
    )
    figure.add_hline(y=noise.mean[name], line_color=ZERO, line_width=1)
    kept = found.eligible()
    broken = [row for row in found.trials if row.outcome == "completed" and not row.feasible]
    _dots(figure, kept, "trial", HELPS, "circle")
    _dots(figure, broken, "beyond a bound", HURTS, "x")
    best, steps = _best_so_far(found)
    figure.add_trace(
        go.Scatter(x=steps, y=best, mode="lines", name="best so far", line={"shape": "hv"})
    )
    for claim in found.survivors:
        figure.add_vline(x=claim.pick.number, line_color=HELPS, line_dash="dot", line_width=1)
    figure.update_xaxes(title_text="trial")
    figure.update_yaxes(title_text=_titled(name))
    return styled(figure, height=400)


def _dots(figure: go.Figure, rows: list[TrialRow], name: str, colour: str, symbol: str) -> None:
    if rows:
        figure.add_trace(
            go.Scatter(
                x=[row.number for row in rows],
                y=[(row.values or [0.0])[0] for row in rows],
                mode="markers",
                name=name,
                marker={"color": colour, "symbol": symbol, "size": 7},
                hovertemplate="trial %{x}: %{y:.5f}<extra></extra>",
            )
        )


def _best_so_far(found: SearchResult) -> tuple[list[float], list[int]]:
    sign = harm(found.objectives[0])
    best: list[float] = []
    steps: list[int] = []
    for row in found.eligible():
        value = (row.values or [0.0])[0]
        if not best or sign * value < sign * best[-1]:
            best.append(value)
            steps.append(row.number)
    if best:
        best.append(best[-1])
        steps.append(found.trials[-1].number)
    return best, steps


def _titled(name: str) -> str:
    return f"{name} ({unit(name)})" if unit(name) else name


def front(found: SearchResult) -> go.Figure:
    """Two objectives against each other: all trials, those that nothing dominates, the base."""
    first, second = found.objectives[:2]
    rows = [row for row in found.eligible() if row.values]
    best = [row for row in rows if not any(_dominates(found, other, row) for other in rows)]
    figure = go.Figure()
    for name, group, colour, symbol in (
        ("trial", [row for row in rows if row not in best], NOISE, "circle"),
        ("on the front", best, HELPS, "diamond"),
    ):
        figure.add_trace(
            go.Scatter(
                x=[(row.values or [])[0] for row in group],
                y=[(row.values or [])[1] for row in group],
                mode="markers",
                name=name,
                marker={"color": colour, "symbol": symbol, "size": 9},
                text=[f"trial {row.number}" for row in group],
                hovertemplate="%{text}: %{x:.5g}, %{y:.5g}<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[found.noise.mean[first]],
            y=[found.noise.mean[second]],
            error_x={"array": [found.noise.sd[first]]},
            error_y={"array": [found.noise.sd[second]]},
            mode="markers",
            name="base",
            marker={"color": BASE, "symbol": "square", "size": 10},
        )
    )
    figure.update_xaxes(title_text=_titled(first))
    figure.update_yaxes(title_text=_titled(second))
    return styled(figure, height=430)


def _dominates(found: SearchResult, other: TrialRow, row: TrialRow) -> bool:
    worse = [
        harm(name) * (theirs - ours)
        for name, ours, theirs in zip(
            found.objectives, row.values or [], other.values or [], strict=True
        )
    ]
    return max(worse) <= 0 and min(worse) < 0


def importance(found: SearchResult) -> go.Figure:
    """The share of each parameter, the largest on top."""
    shares = sorted(found.importances.items(), key=lambda entry: entry[1])
    figure = go.Figure(
        go.Bar(
            orientation="h",
            x=[100 * share for _, share in shares],
            y=[name for name, _ in shares],
            marker_color=HELPS,
            marker_line_width=0,
            hovertemplate="%{y}: %{x:.0f} %<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="share (%)")
    figure.update_yaxes(automargin=True, showgrid=False)
    return styled(figure, height=140 + 34 * len(shares))


def parallel(found: SearchResult) -> go.Figure:
    """Every trial with a value as a line across its parameters; the better, the darker.

    Lines of one shade are one trace: thousands of traces would take minutes, and plotly's own kind
    of this chart needs WebGL, which a printed page and a machine without a GPU do not have.
    """
    rows = found.eligible()
    shown = short_names(found.names)
    objective = [(row.values or [0.0])[0] for row in rows]
    axes = [_numbers(found.objectives[0], objective, False)]
    for name in _parameters(rows):
        given = [row.point.get(name) for row in rows]
        named = any(isinstance(value, (str, bool)) for value in given)
        logarithmic = name in found.logarithmic
        axes.append(
            _kinds(shown[name], given) if named else _numbers(shown[name], given, logarithmic)
        )
    figure = go.Figure()
    best_first = sorted(range(len(rows)), key=lambda at: harm(found.objectives[0]) * objective[at])
    share = math.ceil(len(rows) / len(SHADES))
    for shade in reversed(range(len(SHADES))):  # the best on top
        here = best_first[shade * share : (shade + 1) * share]
        figure.add_trace(_lines(axes, here, [rows[at].number for at in here], shade))
    for at, axis in enumerate(axes):
        figure.add_vline(x=at, line_color=ZERO, line_width=1)
        for place, text in axis.ticks:
            figure.add_annotation(
                x=at, y=place, text=text, showarrow=False, xanchor="left", xshift=3, font_size=11
            )
    labels = [axis.label for axis in axes]
    figure.update_xaxes(tickvals=list(range(len(axes))), ticktext=labels, showgrid=False)
    figure.update_yaxes(visible=False, range=[-0.06, 1.06])
    figure = styled(figure, height=430)
    return figure.update_xaxes(range=[-0.1, len(axes) - 0.6], zeroline=False)


@dataclass(frozen=True)
class _Axis:
    """One axis of the parallel coordinates: each trial's place between 0 and 1, and its ticks."""

    label: str
    places: list[float]
    ticks: list[tuple[float, str]]


def _numbers(label: str, given: Sequence[Any], logarithmic: bool) -> _Axis:
    """Numbers; trials in which the parameter does not count lie at the bottom, at a tick."""
    known = [value for value in given if value is not None]
    idle = len(known) < len(given)
    scaled = [math.log10(value) if logarithmic else float(value) for value in known]
    low, high = min(scaled, default=0.0), max(scaled, default=1.0)
    bottom, spread = 0.12 * idle, (high - low) or 1.0
    place = iter([bottom + (1 - bottom) * (value - low) / spread for value in scaled])
    ticks = [(0.0, IDLE)] * idle
    for part in (0.0, 0.5, 1.0) if high > low else (0.0,):
        at = low + part * spread
        ticks.append((bottom + (1 - bottom) * part, setting(10**at if logarithmic else at)))
    return _Axis(label, [0.0 if value is None else next(place) for value in given], ticks)


def _kinds(label: str, given: Sequence[Any]) -> _Axis:
    """Choices, evenly spaced."""
    words = [IDLE if value is None else setting(value) for value in given]
    kinds = sorted(set(words), key=lambda word: (word != IDLE, word))
    step = 1 / max(1, len(kinds) - 1)
    places = {word: number * step for number, word in enumerate(kinds)}
    return _Axis(label, [places[word] for word in words], [(p, w) for w, p in places.items()])


def _lines(axes: list[_Axis], here: list[int], numbers: list[int], shade: int) -> go.Scatter:
    """The lines of some trials in one shade, with a gap after each."""
    x: list[float | None] = []
    y: list[float | None] = []
    told: list[str | None] = []
    for at, number in zip(here, numbers, strict=True):
        x += [*range(len(axes)), None]
        y += [*(axis.places[at] for axis in axes), None]
        told += [f"trial {number}"] * len(axes) + [None]
    return go.Scatter(
        x=x,
        y=y,
        text=told,
        mode="lines",
        line={"color": SHADES[shade], "width": 1.8 - 0.15 * shade},
        name=f"{100 * shade // len(SHADES)} to {100 * (shade + 1) // len(SHADES)} %",
        hovertemplate="%{text}<extra></extra>",
    )


def _parameters(rows: list[TrialRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.point))


def slices(found: SearchResult) -> go.Figure:
    """The first objective against each parameter alone; later trials are darker."""
    rows, shown = found.eligible(), short_names(found.names)
    names = _parameters(rows)
    figure = make_subplots(rows=1, cols=len(names), shared_yaxes=True, horizontal_spacing=0.03)
    for column, name in enumerate(names, start=1):
        here = [row for row in rows if name in row.point]
        figure.add_trace(
            go.Scatter(
                x=[_place(row.point[name]) for row in here],
                y=[(row.values or [0.0])[0] for row in here],
                mode="markers",
                showlegend=False,
                marker={
                    "color": [row.number for row in here],
                    "colorscale": "Blues",
                    "cmin": -0.3 * len(found.trials),  # so that the first are seen too
                    "cmax": len(found.trials),
                    "line": {"color": "#7A7A7A", "width": 0.6},
                    "size": 7,
                },
                customdata=[row.number for row in here],
                hovertemplate="%{x}: %{y:.5f}<extra>trial %{customdata}</extra>",
            ),
            row=1,
            col=column,
        )
        scale = "log" if name in found.logarithmic else "-"
        figure.update_xaxes(title_text=shown[name], type=scale, row=1, col=column)
    figure.update_yaxes(title_text=_titled(found.objectives[0]), row=1, col=1)
    return styled(figure, height=400)


def _place(value: Any) -> Any:
    return setting(value) if isinstance(value, bool) else value
