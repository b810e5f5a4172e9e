"""The charts of a search, as matplotlib figures (extra `report`).

Drawn here and not by Optuna, because they show the base and its noise. Charts of many trials are
rasterized, so that a page with thousands of trials stays small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.report.chart import BASE, HELPS, HURTS, INK, NOISE, legend, new_axes, new_figure, style
from harness.report.search.wording import setting, short_names
from harness.search.candidates import dominates
from harness.search.objective import harm, unit
from harness.search.results import SearchResult, TrialRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHADES = ("#08306B", "#2171B5", "#6BAED6", "#9ECAE1", "#C6DBEF")  # best fifth to worst
INACTIVE = "inactive"  # a parameter of a trick that was off
RASTERIZED_TRIALS = 300  # from this number on points and lines are pixels
SLICE_COLUMNS = 4


def history(result: SearchResult) -> "Figure":
    """The first objective of every trial, the best so far, and the base with one SD around it."""
    name, noise = result.objectives[0], result.noise
    figure, axes = new_axes(9, 3.6)
    mean, sd = noise.mean[name], noise.sd[name]
    axes.axhspan(mean - sd, mean + sd, color=BASE, alpha=0.2, linewidth=0)
    axes.axhline(mean, color=BASE, linewidth=1, label="base, with one SD")
    beyond = [row for row in result.trials if row.outcome == "completed" and not row.feasible]
    for rows, colour, marker, label in (
        (result.eligible(), HELPS, "o", "trial"),
        (beyond, HURTS, "x", "beyond a bound"),
    ):
        if rows:
            numbers, values = [row.number for row in rows], [_value(row) for row in rows]
            _points(axes, numbers, values, colour, marker, label)
    numbers, best = _best_so_far(result)
    axes.step(numbers, best, where="post", color=HELPS, linewidth=1.2, label="best so far")
    for one in result.confirmed:
        axes.axvline(one.candidate.number, color=HELPS, linestyle="dotted", linewidth=1)
    style(axes, title="History", x="trial", y=_label(name))
    legend(axes, columns=4)
    return figure


def _points(
    axes: "Axes", x: Sequence[float], y: Sequence[float], colour: str, marker: str, label: str
) -> None:
    look = {"color": colour, "marker": marker, "label": label}
    axes.scatter(x, y, s=26, rasterized=_many(x), **look)  # type: ignore[arg-type]


def _value(row: TrialRow) -> float:
    return (row.values or [math.nan])[0]


def _many(rows: Sequence[Any]) -> bool:
    return len(rows) >= RASTERIZED_TRIALS


def _best_so_far(result: SearchResult) -> tuple[list[int], list[float]]:
    sign = harm(result.objectives[0])
    numbers: list[int] = []
    best: list[float] = []
    for row in result.eligible():
        if not best or sign * _value(row) < sign * best[-1]:
            numbers.append(row.number)
            best.append(_value(row))
    if best:
        numbers.append(result.trials[-1].number)
        best.append(best[-1])
    return numbers, best


def _label(name: str) -> str:
    return f"{name} ({unit(name)})" if unit(name) else name


def front(result: SearchResult) -> "Figure":
    """Two objectives of all trials, those on the Pareto front marked, and the base."""
    first, second = result.objectives[:2]
    rows = [(row, row.values) for row in result.eligible() if row.values]
    best = {
        row.number
        for row, values in rows
        if not any(dominates(other, values, result.objectives) for _, other in rows)
    }
    figure, axes = new_axes(9, 4)
    for on_front, colour, marker, label in (
        (False, NOISE, "o", "trial"),
        (True, HELPS, "D", "on the front"),
    ):
        group = [values for row, values in rows if (row.number in best) == on_front]
        x, y = [values[0] for values in group], [values[1] for values in group]
        _points(axes, x, y, colour, marker, label)
    axes.errorbar(
        result.noise.mean[first],
        result.noise.mean[second],
        xerr=result.noise.sd[first],
        yerr=result.noise.sd[second],
        fmt="s",
        color=BASE,
        label="base, with one SD",
    )
    style(axes, title="Pareto front", x=_label(first), y=_label(second))
    legend(axes, columns=3)
    return figure


def importance(result: SearchResult) -> "Figure":
    """The share of each parameter, the largest on top."""
    shares = sorted(result.importances.items(), key=lambda entry: entry[1])
    figure, axes = new_axes(9, 1 + 0.3 * len(shares))
    axes.barh([name for name, _ in shares], [100 * share for _, share in shares], color=HELPS)
    style(axes, title="Importances", x="share (%)", grid="x")
    return figure


def parallel(result: SearchResult) -> "Figure":
    """Every trial with a value as a line across its parameters; the best fifth is the darkest."""
    rows = result.eligible()
    values = [_value(row) for row in rows]
    coordinates = _coordinates(result, rows, values)
    figure, axes = new_axes(9, 4)
    best_first = sorted(range(len(rows)), key=lambda at: harm(result.objectives[0]) * values[at])
    share = math.ceil(len(rows) / len(SHADES))
    for shade in reversed(range(len(SHADES))):  # the best are drawn last, on top
        x: list[float] = []
        y: list[float] = []
        for at in best_first[shade * share : (shade + 1) * share]:
            x += [*range(len(coordinates)), math.nan]
            y += [*(one.places[at] for one in coordinates), math.nan]
        label = f"{100 * shade // len(SHADES)} to {100 * (shade + 1) // len(SHADES)} %"
        axes.plot(
            x,
            y,
            color=SHADES[shade],
            linewidth=1.6 - 0.2 * shade,
            label=label,
            rasterized=_many(rows),
        )
    for at, one in enumerate(coordinates):
        axes.axvline(at, color=NOISE, linewidth=1)
        for place, text in one.ticks:
            axes.text(at + 0.02, place, text, fontsize=8, color=INK, va="center")
    style(axes, title="Parallel coordinates", grid="none")
    axes.set_xticks(range(len(coordinates)), [one.label for one in coordinates])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(coordinates) - 0.6)
    axes.spines["left"].set_visible(False)
    figure.legend(
        loc="outside lower center",
        ncols=5,
        fontsize=9,
        frameon=False,
        labelcolor=INK,
        title="trials, from worst to best",
        title_fontsize=9,
    )
    return figure


@dataclass(frozen=True)
class _Coordinate:
    """One axis of the parallel coordinates: each trial's place between 0 and 1, and its ticks."""

    label: str
    places: list[float]
    ticks: list[tuple[float, str]]


def _coordinates(
    result: SearchResult, rows: list[TrialRow], values: list[float]
) -> list[_Coordinate]:
    shown = short_names(result.parameters)
    coordinates = [_numeric(result.objectives[0], values, log=False)]
    for name in _parameters(rows):
        given = [row.params.get(name) for row in rows]
        if any(isinstance(value, (str, bool)) for value in given):
            coordinates.append(_categorical(shown[name], given))
        else:
            coordinates.append(_numeric(shown[name], given, log=name in result.log_parameters))
    return coordinates


def _numeric(label: str, given: Sequence[Any], *, log: bool) -> _Coordinate:
    """Numbers; trials in which the parameter is inactive have a tick of their own at the bottom."""
    known = [value for value in given if value is not None]
    inactive = len(known) < len(given)
    scaled = [math.log10(value) if log else float(value) for value in known]
    low, high = min(scaled, default=0.0), max(scaled, default=1.0)
    bottom, spread = 0.12 * inactive, (high - low) or 1.0
    place = iter([bottom + (1 - bottom) * (value - low) / spread for value in scaled])
    ticks = [(0.0, INACTIVE)] * inactive
    for part in (0.0, 0.5, 1.0) if high > low else (0.0,):
        at = low + part * spread
        ticks.append((bottom + (1 - bottom) * part, setting(10**at if log else at)))
    return _Coordinate(label, [0.0 if value is None else next(place) for value in given], ticks)


def _categorical(label: str, given: Sequence[Any]) -> _Coordinate:
    """Choices, evenly spaced."""
    texts = [INACTIVE if value is None else setting(value) for value in given]
    kinds = sorted(set(texts), key=lambda text: (text != INACTIVE, text))
    step = 1 / max(1, len(kinds) - 1)
    places = {text: number * step for number, text in enumerate(kinds)}
    return _Coordinate(label, [places[text] for text in texts], [(p, t) for t, p in places.items()])


def _parameters(rows: list[TrialRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.params))


def slices(result: SearchResult) -> "Figure":
    """The first objective against each parameter alone; later trials are darker."""
    rows = result.eligible()
    names, shown = _parameters(rows), short_names(result.parameters)
    columns = min(SLICE_COLUMNS, len(names))
    lines = math.ceil(len(names) / columns)
    figure = new_figure(9, 0.6 + 2.6 * lines)
    figure.suptitle("Slices", fontsize=11, color=INK)
    for at, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, at + 1)
        _slice(axes, result, name, [row for row in rows if name in row.params])
        style(axes, x=shown[name], y=_label(result.objectives[0]) if at % columns == 0 else "")
    return figure


def _slice(axes: "Axes", result: SearchResult, name: str, rows: list[TrialRow]) -> None:
    given = [row.params[name] for row in rows]
    named = any(isinstance(value, (str, bool)) for value in given)
    axes.scatter(
        [setting(value) for value in given] if named else given,
        [_value(row) for row in rows],
        c=[row.number for row in rows],
        cmap="Blues",
        vmin=-0.3 * len(result.trials),  # so that the first trials are visible too
        vmax=len(result.trials),
        edgecolors=NOISE,
        linewidths=0.6,
        s=24,
        rasterized=_many(rows),
    )
    if name in result.log_parameters:
        axes.set_xscale("log")
