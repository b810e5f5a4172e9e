"""The charts of a search's report, as plotly figures. Needs the extra `report`.

History, importances and the front are drawn here, because the base and its noise belong into them;
parallel coordinates and slices are Optuna's own. Every colour has a second mark beside it.
"""

import warnings
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from harness.report.charts import ZERO, styled
from harness.report.panels import BASE, HELPS, HURTS, NOISE
from harness.search.found import Found, TrialRow
from harness.search.objective import harm, unit

if TYPE_CHECKING:
    from optuna import Study

FAINT = "rgba(128,128,128,0.15)"


def history(found: Found) -> go.Figure:
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


def _best_so_far(found: Found) -> tuple[list[float], list[int]]:
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


def front(found: Found) -> go.Figure:
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


def _dominates(found: Found, other: TrialRow, row: TrialRow) -> bool:
    worse = [
        harm(name) * (theirs - ours)
        for name, ours, theirs in zip(
            found.objectives, row.values or [], other.values or [], strict=True
        )
    ]
    return max(worse) <= 0 and min(worse) < 0


def importance(found: Found) -> go.Figure:
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


def parallel(study: "Study", name: str) -> go.Figure:
    """Every trial as a line across its parameters (Optuna's)."""
    from optuna.visualization import plot_parallel_coordinate

    figure = _quietly(plot_parallel_coordinate, study, target_name=name, **_target(study))
    return _plain(figure, height=430)


def slices(study: "Study", name: str) -> go.Figure:
    """The objective against each parameter alone (Optuna's)."""
    from optuna.visualization import plot_slice

    return _plain(_quietly(plot_slice, study, target_name=name, **_target(study)), height=400)


def _target(study: "Study") -> dict[str, Any]:
    """With several objectives Optuna wants to know which: the first."""
    return {"target": lambda trial: trial.values[0]} if len(study.directions) > 1 else {}


def _quietly(draw: Any, *given: Any, **named: Any) -> Any:
    """A figure without Optuna's warnings: what it leaves out, such as pruned trials, is told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return draw(*given, **named)


def _plain(figure: Any, height: int) -> go.Figure:
    figure.update_layout(title=None, template="none")
    return styled(figure, height=height).update_layout(margin={"r": 80})  # for the colour bar
