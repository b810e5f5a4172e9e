"""Charts of a full job: scaling laws, and the loss inside its envelope (needs matplotlib)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.full.forecast import Estimate, FittedLaw
from harness.full.loss_envelope import LossEnvelope
from harness.report.chart import BASE, HELPS, HURTS, INK, legend, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (7.5, 4.2)


def scaling_law(fitted: FittedLaw, target: Estimate, measured: float | None) -> "Figure":
    """One metric over sizes up to the target, with the forecast and the measured value."""
    figure = new_figure(*SIZE_INCHES)
    axes = figure.add_subplot()
    _interval(axes, [x for x, _ in fitted.curve], [one for _, one in fitted.curve], "one run")
    axes.plot(fitted.x, fitted.means, "o", color=BASE, label="proxies")
    for size, x, mean in zip(fitted.sizes, fitted.x, fitted.means, strict=True):
        axes.annotate(
            size, (x, mean), (0, 6), textcoords="offset points", fontsize=8, color=INK, ha="center"
        )
    axes.errorbar(
        [fitted.target_x],
        [target.estimate],
        yerr=[[target.estimate - target.low], [target.high - target.estimate]],
        fmt="D",
        color=HELPS,
        capsize=4,
        label=f"forecast, {target.level:.0%} interval",
    )
    if measured is not None:
        axes.plot([fitted.target_x], [measured], "x", color=HURTS, markersize=9, label="measured")
    if fitted.metric == "val_bpb":
        axes.set_xscale("log")
        style(axes, x="training FLOPs", y="val_bpb (bits per byte)")
    else:
        axes.invert_xaxis()
        style(axes, x="val_bpb (bits per byte)", y=fitted.metric)
    legend(axes)
    return figure


def loss_envelope(envelope: LossEnvelope, points: Sequence[tuple[float, float]]) -> "Figure":
    """The training loss of a run inside its envelope."""
    figure = new_figure(*SIZE_INCHES)
    axes = figure.add_subplot()
    levels = [look.loss for look in envelope.looks]
    _interval(axes, [look.fraction for look in envelope.looks], levels, "envelope")
    if points:
        axes.plot(*zip(*points, strict=True), color=HURTS, linewidth=0.8, label="run")
    axes.set_xlim(0, 1)
    axes.set_ylim(0.97 * min(one.low for one in levels), 1.03 * max(one.high for one in levels))
    style(axes, x="fraction of the run", y="training loss (nats per token)")
    legend(axes)
    return figure


def _interval(axes: "Axes", x: Sequence[float], estimates: Sequence[Estimate], name: str) -> None:
    """A shaded interval along x, with its middle."""
    low, high = [one.low for one in estimates], [one.high for one in estimates]
    label = f"{name}, {100 * estimates[0].level:.4g} % interval"
    axes.fill_between(x, low, high, color=HELPS, alpha=0.18, linewidth=0, label=label)
    axes.plot(x, [one.estimate for one in estimates], color=HELPS, linestyle="dashed")
