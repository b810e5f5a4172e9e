"""Where the training loss of a full run should be on its way: the early warning.

A fraction of the way through its schedule, a run of one recipe stands on a law over sizes as its
end does, so the proxies' curves are forecast look by look, each look being the mean loss over a
window of the run that ends there. Two things are forecast of a look, and both have to hold:

    level    the loss itself, by the law of the end (`laws.PowerLaw`): wide, because the law beyond
             the proxies is not known; it catches a run that is wrong as a whole
    change   the loss over that of the look before, a line over ln FLOPs that hardly slopes: curves
             of one recipe fall together whatever the size (Qiu et al., arXiv 2507.02119). Narrow,
             because a run that starts high stays high; it catches what goes wrong on the way

Looks are planned before the run. The rate of a false alarm is that of the whole run: ALPHA is split
over all looks and both bands, so that looking more often does not alarm more often. As looks of one
run hang together this is on the safe side; `benchmarks/forecast.py` shows by how much, on curves of
a formula with the noise of real ones.

In the flow: after `forecast`; the job's watch asks it. Pure.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from harness.full.forecast import Estimate, estimate
from harness.full.laws import MOST_FLOOR_BPB, BentLine, Law, Points, PowerLaw
from harness.full.proxies import LEAST_SIZES, ForecastError, Scale, scale_of
from harness.full.scaling_law import fit
from harness.results.record import Record
from harness.stats.decision import KnownSd
from harness.stats.inference import pool

if TYPE_CHECKING:
    import pyarrow as pa

ALPHA = 0.02  # of a false alarm over a whole run
FRACTIONS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WINDOW = 0.04  # of the run: long enough that the batch of one step does not matter
AFTER_WARMUP = 3.0  # looks begin at so many times the longest warm-up of the proxies
CHANGE_SLOPE = (0.0, 0.006)  # an e-fold of FLOPs: Hoffmann's law has 0.004 early, 0.001 late
CHANGE_SCATTER = (0.0007, 0.5)  # of a size about the law of a change
CHANGE_BENDS = (-0.15, 0.15)  # an e-fold of FLOPs: 1.6 times as steep or flat after three of them

What = Literal["level", "change"]


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """The training loss of a run: (fraction of its steps done, nats a token), in order.

    `nats_per_bpb`: what one bit a byte is in nats a token, which the tokenizer decides. `warmup`:
    the fraction of its steps in which the learning rate rises.
    """

    name: str
    scale: Scale
    points: list[tuple[float, float]]
    nats_per_bpb: float
    warmup: float = 0.0


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One planned look at the mean loss over the window that ends at `fraction`.

    `change` is the ratio to the look before; the first look has none.
    """

    fraction: float
    loss: Estimate
    change: Estimate | None


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """A look at which the loss, or its change, was not where it should be."""

    look: Look
    what: What
    expected: Estimate
    got: float


class LossEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """All looks of a run, planned before it starts."""

    looks: list[Look]
    window: float
    alpha: float

    def at(self, fraction: float) -> Look | None:
        """The newest look that is due at a fraction; None before the first."""
        return max(
            (x for x in self.looks if x.fraction <= fraction), key=_by_fraction, default=None
        )

    def outside(self, points: Sequence[tuple[float, float]]) -> list[Outside]:
        """The looks that the run so far fails; `points` as those of a Curve."""
        found: list[Outside] = []
        before: float | None = None
        for look in self.looks:
            got = window_mean(points, look.fraction, self.window)
            if got is None:  # not there yet, or not written down
                before = None
                continue
            if not look.loss.holds(got):
                found.append(Outside(look=look, what="level", expected=look.loss, got=got))
            if look.change is not None and before is not None:
                change = got / before
                if not look.change.holds(change):
                    found.append(
                        Outside(look=look, what="change", expected=look.change, got=change)
                    )
            before = got
        return found


def _by_fraction(look: Look) -> float:
    return look.fraction


def window_mean(
    points: Sequence[tuple[float, float]], fraction: float, window: float = WINDOW
) -> float | None:
    """The mean loss over the window that ends at `fraction`; None until it is over, or if empty.

    A loss that is not finite makes the mean so, which is inside no band.
    """
    if not points or points[-1][0] < fraction - 1e-9:
        return None
    inside = [loss for at, loss in points if fraction - window - 1e-9 < at <= fraction + 1e-9]
    return sum(inside) / len(inside) if inside else None


def curve_of(record: Record, table: "pa.Table") -> Curve:
    """The curve of a completed record, from the table that its store keeps. ForecastError."""
    rows = table.select(["step", "train_loss"]).drop_null().to_pydict()
    loss, bpb = record.metrics.get("val_loss"), record.metrics.get("val_bpb")
    if not rows["step"] or not record.steps or not loss or not bpb:
        raise ForecastError(
            f"{record.plan_id}: curve",
            "a training loss at every step, and val_loss beside val_bpb",
            f"{len(rows['step'])} steps, val_loss {loss}, val_bpb {bpb}",
            "Make the run again; its curve is kept with its record.",
        )
    points = zip(rows["step"], rows["train_loss"], strict=True)
    return Curve(
        name=record.plan_id,
        scale=scale_of(record.derived),
        points=[(step / record.steps, value) for step, value in points],
        nats_per_bpb=loss / bpb,
        warmup=float(record.derived.get("warmup_steps") or 0) / record.steps,
    )


def band(
    curves: Sequence[Curve],
    target: Scale,
    *,
    alpha: float = ALPHA,
    fractions: Sequence[float] = FRACTIONS,
) -> LossEnvelope:
    """The band of the target's run. Raises ForecastError for fewer than three sizes.

    Looks at which a proxy has no loss, as with few steps, are left out, and so are those so soon
    after the warm-up that it still shows: it is so many steps, and no fraction of a run.
    """
    sizes = _sizes(curves)
    first = AFTER_WARMUP * max(curve.warmup for curve in curves)
    losses = _losses(sizes, [at for at in fractions if at >= first - 1e-9])
    x = [math.log(runs[0].scale.flops) for runs in sizes]
    place = (x, math.log(target.flops), 1 - alpha / (2 * len(losses) - 1))
    floor = MOST_FLOOR_BPB * float(np.mean([curve.nats_per_bpb for curve in curves]))
    line = BentLine(
        centre=float(np.mean(x)), bends=CHANGE_BENDS, slope=CHANGE_SLOPE, scatter=CHANGE_SCATTER
    )
    ratios = [_ratios(later, earlier) for earlier, later in pairwise(losses.values())]
    levels = _along(PowerLaw(most_floor=floor), list(losses.values()), *place)
    looks = zip(losses, levels, [None, *_along(line, ratios, *place)], strict=True)
    return LossEnvelope(
        looks=[Look(fraction=at, loss=level, change=change) for at, level, change in looks],
        window=WINDOW,
        alpha=alpha,
    )


Groups = list[list[float]]  # values of the runs, by size


def _losses(sizes: Sequence[Sequence[Curve]], fractions: Sequence[float]) -> dict[float, Groups]:
    """The windows' means of all proxies, by look; at least one look."""
    found = {}
    for at in fractions:
        means = [[window_mean(curve.points, at) for curve in runs] for runs in sizes]
        if all(None not in runs for runs in means):
            found[at] = [[mean for mean in runs if mean is not None] for runs in means]
    if not found:
        fewest = min(len(curve.points) for runs in sizes for curve in runs)
        raise ForecastError(
            "proxies: curves",
            "runs of enough steps for a look",
            f"{fewest} steps with a loss",
            "Make longer proxies, or watch the run without a band.",
        )
    return found


def _sizes(curves: Sequence[Curve]) -> list[list[Curve]]:
    found = defaultdict(list)
    for curve in curves:
        found[curve.scale.flops].append(curve)
    if len(found) < LEAST_SIZES:
        raise ForecastError(
            "proxies: curves",
            f"curves of {LEAST_SIZES} sizes or more",
            f"{len(found)}",
            "Make the other proxies, or watch the run without a band.",
        )
    return [found[flops] for flops in sorted(found)]


def _ratios(later: Groups, earlier: Groups) -> Groups:
    pairs = zip(later, earlier, strict=True)
    return [[b / a for b, a in zip(one, other, strict=True)] for one, other in pairs]


def _along(
    law: Law, looks: Sequence[Groups], x: list[float], at: float, level: float
) -> list[Estimate]:
    """One quantity look by look: where the target's will be.

    The noise of a run is pooled over each look and its neighbours: two runs a size say too little
    about the far ends of an interval, and looks that are near are alike.
    """
    found = []
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
        found.append(estimate(fit(law, points, replicate).run([at]), level))
    return found


def _relative(law: Law, group: Sequence[float]) -> list[float]:
    scale = float(law.scale(np.array(np.mean(group))))
    return [value / scale for value in group]
