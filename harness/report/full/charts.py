"""The charts of a full job, as plotly figures. Needs the extra `report`.

A law with its interval, the sizes that it was fitted to and the target; the loss of the run inside
the band that was planned for it. Every colour has a second mark beside it.
"""

from collections.abc import Sequence

import plotly.graph_objects as go

from harness.full.forecast import Estimate, Fitted
from harness.full.loss_envelope import LossEnvelope
from harness.report.chart import BASE, HELPS, HURTS
from harness.report.study.markup import ZERO, styled

FAINT = "rgba(0,114,178,0.18)"  # HELPS, thin


def law(fitted: Fitted, target: Estimate, reached: float | None = None) -> go.Figure:
    """One metric over sizes, to the target; `reached` is what the run came to."""
    figure = go.Figure()
    _fan(figure, [x for x, _ in fitted.curve], [at for _, at in fitted.curve], "one run")
    figure.add_trace(
        go.Scatter(
            x=fitted.at,
            y=fitted.means,
            mode="markers+text",
            text=fitted.sizes,
            textposition="top center",
            name="proxies",
            marker={"color": BASE, "symbol": "circle", "size": 9},
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[fitted.target_at],
            y=[target.estimate],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [target.high - target.estimate],
                "arrayminus": [target.estimate - target.low],
            },
            mode="markers",
            name=f"forecast, {target.level:.0%} interval",
            marker={"color": HELPS, "symbol": "diamond", "size": 11},
        )
    )
    if reached is not None:
        mark = {"color": HURTS, "symbol": "x", "size": 11}
        figure.add_trace(
            go.Scatter(
                x=[fitted.target_at], y=[reached], mode="markers", name="the run", marker=mark
            )
        )
    of_flops = fitted.metric == "val_bpb"
    figure.update_xaxes(
        title_text="FLOPs of the run" if of_flops else "val_bpb",
        type="log" if of_flops else "linear",
        autorange=True if of_flops else "reversed",
    )
    figure.update_yaxes(title_text=fitted.metric)
    return styled(figure, height=420)


def loss(band: LossEnvelope, points: Sequence[tuple[float, float]]) -> go.Figure:
    """The loss of a run so far inside its band."""
    figure = go.Figure()
    _fan(figure, [look.fraction for look in band.looks], [look.loss for look in band.looks], "band")
    figure.add_trace(
        go.Scatter(
            x=[at for at, _ in points],
            y=[value for _, value in points],
            mode="lines",
            name="the run",
            line={"color": HURTS, "width": 1},
        )
    )
    figure.update_xaxes(title_text="fraction of the run", range=[0, 1])
    levels = [look.loss for look in band.looks]
    figure.update_yaxes(
        title_text="training loss (nats a token)",
        range=[0.97 * min(one.low for one in levels), 1.03 * max(one.high for one in levels)],
    )
    return styled(figure, height=420)


def _fan(figure: go.Figure, x: Sequence[float], estimates: Sequence[Estimate], name: str) -> None:
    """An interval along x, with its middle."""
    ends = [one.low for one in estimates], [one.high for one in estimates]
    line = {"width": 0, "color": ZERO}
    for y, fill in ((ends[0], None), (ends[1], "tonexty")):
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                line=line,
                fill=fill,
                fillcolor=FAINT,
                name=f"{name}, {estimates[0].level:.3g} of the time",
                showlegend=fill is not None,
                hoverinfo="skip",
            )
        )
    middle = {"color": HELPS, "dash": "dash", "width": 2}
    figure.add_trace(
        go.Scatter(x=x, y=[one.estimate for one in estimates], mode="lines", name=name, line=middle)
    )
