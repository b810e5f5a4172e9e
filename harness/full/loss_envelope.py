"""The loss envelope: where the training loss of a full run should be along the way.

At a given fraction of its schedule a run of one recipe follows a scaling law as its end does, so
the proxies' curves are forecast at planned checkpoints of the run, from the mean loss over a window
that ends there. Two quantities are forecast, and a run has to stay inside both:

    level     the loss itself, by the law of the final loss. Wide, because the law beyond the
              proxies is uncertain; it detects a run that is wrong as a whole
    change    the loss over that of the previous checkpoint, almost constant in ln FLOPs: curves of
              one recipe fall together at any size (Qiu et al., arXiv 2507.02119). Narrow, because a
              run that starts high stays high; it detects what goes wrong along the way

ALPHA is the false alarm rate of a whole run: it is split over all checkpoints and both quantities
(Bonferroni), which is conservative because the checkpoints of one run correlate;
`benchmarks/statistics/forecast.py` measures by how much. Pure functions.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from harness.full.forecast import Estimate, estimate
from harness.full.proxies import MIN_SIZES, ForecastError, Scale, scale_of
from harness.full.scaling_law import Law, LossLaw, Penalty, Points, Residual, ScoreLaw, fit
from harness.results.record import Record
from harness.stats.decision import KnownSd
from harness.stats.inference import pool

if TYPE_CHECKING:
    import pyarrow as pa

ALPHA = 0.02  # false alarms over a whole run
FRACTIONS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WINDOW = 0.04  # of the run: long enough to average out single batches
AFTER_WARMUP = 3.0  # the first look is at this many times the proxies' longest warm-up
LEVEL_RESIDUAL = Residual(sd=0.005, df=6.0)
CHANGE_RESIDUAL = Residual(sd=0.0007, df=6.0)
CHANGE_SLOPE = Penalty(mean=0.0, sd=0.006)  # per e-fold of FLOPs; Hoffmann: 0.004 early, 0.001 late
CHANGE_CURVATURE = Penalty(mean=0.0, sd=0.08, low=-0.15, high=0.15)  # per e-fold of FLOPs

What = Literal["level", "change"]


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Training loss of a run: (fraction of its steps, nats per token), in order.

    `nats_per_bpb`: nats per token of one bit per byte, which depends on the tokenizer. `warmup`:
    fraction of the steps in which the learning rate rises.
    """

    name: str
    scale: Scale
    points: list[tuple[float, float]]
    nats_per_bpb: float
    warmup: float = 0.0


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One planned look at the mean loss over the window that ends at `fraction`.

    `change` is the ratio to the previous look; None for the first.
    """

    fraction: float
    loss: Estimate
    change: Estimate | None


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """A look at which the loss or its change was outside its interval."""

    look: Look
    what: What
    expected: Estimate
    got: float


class LossEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """All planned looks of a run."""

    looks: list[Look]
    window: float
    alpha: float

    def at(self, fraction: float) -> Look | None:
        """The last look due at a fraction; None before the first."""
        due = [look for look in self.looks if look.fraction <= fraction]
        return due[-1] if due else None

    def outside(self, points: Sequence[tuple[float, float]]) -> list[Outside]:
        """The looks at which the run so far was outside; `points` as in Curve."""
        outside: list[Outside] = []
        before: float | None = None
        for look in self.looks:
            got = window_mean(points, look.fraction, self.window)
            if got is None:  # not reached yet, or not logged
                before = None
                continue
            if not look.loss.contains(got):
                outside.append(Outside(look=look, what="level", expected=look.loss, got=got))
            if look.change is not None and before is not None:
                change = got / before
                if not look.change.contains(change):
                    outside.append(
                        Outside(look=look, what="change", expected=look.change, got=change)
                    )
            before = got
        return outside


def window_mean(
    points: Sequence[tuple[float, float]], fraction: float, window: float = WINDOW
) -> float | None:
    """Mean loss over the window that ends at `fraction`; None before its end, or if it is empty.

    A loss that is not finite gives such a mean, which is outside any interval.
    """
    if not points or points[-1][0] < fraction - 1e-9:
        return None
    inside = [loss for at, loss in points if fraction - window - 1e-9 < at <= fraction + 1e-9]
    return sum(inside) / len(inside) if inside else None


def curve_of(record: Record, table: "pa.Table") -> Curve:
    """The curve of a completed record, from its stored table. Raises ForecastError."""
    rows = table.select(["step", "train_loss"]).drop_null().to_pydict()
    loss, bpb = record.metrics.get("val_loss"), record.metrics.get("val_bpb")
    if not rows["step"] or not record.steps or not loss or not bpb:
        expected = "training losses, val_loss and val_bpb"
        got = f"{len(rows['step'])} steps, val_loss {loss}, val_bpb {bpb}"
        hint = "Run it again: its curve is stored with its record."
        raise ForecastError(f"{record.plan_id}: curve", expected, got, hint)
    points = zip(rows["step"], rows["train_loss"], strict=True)
    return Curve(
        name=record.plan_id,
        scale=scale_of(record.derived),
        points=[(step / record.steps, value) for step, value in points],
        nats_per_bpb=loss / bpb,
        warmup=float(record.derived.get("warmup_steps") or 0) / record.steps,
    )


def plan_envelope(
    curves: Sequence[Curve],
    target: Scale,
    *,
    fractions: Sequence[float] = FRACTIONS,
) -> LossEnvelope:
    """The envelope of the target's run. Raises ForecastError for fewer than three sizes.

    Looks at which a proxy has no loss are left out, and so are looks soon after the warm-up, which
    is a number of steps and not a fraction of a run.
    """
    sizes = _sizes(curves)
    first = AFTER_WARMUP * max(curve.warmup for curve in curves)
    losses = _losses(sizes, [at for at in fractions if at >= first - 1e-9])
    x = [math.log(runs[0].scale.flops) for runs in sizes]
    place = (x, math.log(target.flops), 1 - ALPHA / (2 * len(losses) - 1))
    level_law = _level_law(float(np.mean([curve.nats_per_bpb for curve in curves])))
    change_law = ScoreLaw(
        centre=float(np.mean(x)),
        nonlinear=CHANGE_CURVATURE,
        slope=CHANGE_SLOPE,
        residual=CHANGE_RESIDUAL,
    )
    ratios = [_ratios(later, earlier) for earlier, later in pairwise(losses.values())]
    levels = _along(level_law, list(losses.values()), *place)
    looks = zip(losses, levels, [None, *_along(change_law, ratios, *place)], strict=True)
    return LossEnvelope(
        looks=[Look(fraction=at, loss=level, change=change) for at, level, change in looks],
        window=WINDOW,
        alpha=ALPHA,
    )


def _level_law(nats_per_bpb: float) -> LossLaw:
    """The law of the final loss, in nats per token."""
    bpb = LossLaw().nonlinear
    in_nats = Penalty(
        mean=bpb.mean * nats_per_bpb,
        sd=bpb.sd * nats_per_bpb,
        low=bpb.low,
        high=bpb.high * nats_per_bpb,
    )
    return LossLaw(nonlinear=in_nats, residual=LEVEL_RESIDUAL)


Groups = list[list[float]]  # values of the runs, by size


def _losses(sizes: Sequence[Sequence[Curve]], fractions: Sequence[float]) -> dict[float, Groups]:
    """Window means of all proxies, by look; at least one look."""
    losses = {}
    for at in fractions:
        means = [[window_mean(curve.points, at) for curve in runs] for runs in sizes]
        if all(None not in runs for runs in means):
            losses[at] = [[mean for mean in runs if mean is not None] for runs in means]
    if not losses:
        fewest = min(len(curve.points) for runs in sizes for curve in runs)
        expected = "runs with enough steps for one look"
        hint = "Run longer proxies, or run the job without a loss envelope."
        raise ForecastError("proxies: curves", expected, f"{fewest} steps with a loss", hint)
    return losses


def _sizes(curves: Sequence[Curve]) -> list[list[Curve]]:
    groups = defaultdict(list)
    for curve in curves:
        groups[curve.scale.flops].append(curve)
    if len(groups) < MIN_SIZES:
        expected = f"curves at {MIN_SIZES} or more sizes"
        hint = "Run the other proxies, or run the job without a loss envelope."
        raise ForecastError("proxies: curves", expected, f"{len(groups)}", hint)
    return [groups[flops] for flops in sorted(groups)]


def _ratios(later: Groups, earlier: Groups) -> Groups:
    pairs = zip(later, earlier, strict=True)
    return [[b / a for b, a in zip(one, other, strict=True)] for one, other in pairs]


def _along(
    law: Law, looks: Sequence[Groups], x: list[float], at: float, level: float
) -> list[Estimate]:
    """Forecasts one quantity of the target at every look.

    Replicate noise is pooled over each look and the two next to it, because two runs per size
    estimate it too poorly for the tails, and adjacent looks have about the same noise.
    """
    result = []
    for number, groups in enumerate(looks):
        near = [
            _relative(law, group) for one in looks[max(0, number - 1) : number + 2] for group in one
        ]
        pooled = pool(near)
        points = Points(
            x=np.array(x),
            y=np.array([np.mean(group) for group in groups]),
            n=np.array([float(len(group)) for group in groups]),
        )
        replicate = KnownSd(sd=pooled.sd, df=pooled.df) if pooled.df else None
        result.append(estimate(fit(law, points, replicate).run([at]), level))
    return result


def _relative(law: Law, group: Sequence[float]) -> list[float]:
    scale = float(law.scale(np.array(np.mean(group))))
    return [value / scale for value in group]
