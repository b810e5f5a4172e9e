"""Runs that stand out: losses that blew up, and values far from the other runs of their side.

A loss may blow up without becoming NaN; such a run diverged. Any other run that is more than 5 SD
from the median of its side is named, and the result without it is shown beside the result, never in
its place: leaving out what does not fit is no analysis. Pure.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import msgspec
import numpy as np

from harness.comparison.comparability import SIDES, Runs
from harness.comparison.sessions import environment_of
from harness.metrics import LOSSES, METRICS, SPEEDS
from harness.results.logs.run_log import LoggedRun

LIMIT_SDS = 5.0
LEAST_RUNS = 3  # of two runs, either may be the odd one
LEAST_RESIDUALS = 3  # for an SD from the runs themselves
SMALL_SAMPLE = 4.0  # benchmarks/statistics/outlier_rates.py: names a run in 1 of 100 cases or fewer
MAD_TO_SD = 1.4826  # of a normal distribution

RISE_SHARE, RISE = 0.1, 1.05  # of what the run had gained before, and over its lowest loss
FAR_ABOVE, FAR_SPREADS = 1.25, 10.0  # times the median of the others, and their range above it


class Outlier(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is `sds` SDs from the median of its side in a metric; `hint`: a likely cause."""

    side: str
    source: str
    metric: str
    value: float
    sds: float
    hint: str = ""


# --- losses that blew up --------------------------------------------------------------------------


def mark_blow_ups(side: Runs) -> list[LoggedRun]:
    """The runs of a side; those whose loss blew up have diverged, with the reason."""
    marked = []
    whole = [run for run in side if not run.ending]
    ends = {
        name: sorted(run.metrics[name] for run in whole if name in run.metrics) for name in LOSSES
    }
    for run in side:
        reason = None if run.ending else _blow_up(run, ends)
        if reason:
            run = msgspec.structs.replace(run, ending=reason, diverged=True, metrics={})
        marked.append(run)
    return marked


def _blow_up(run: LoggedRun, ends: Mapping[str, Sequence[float]]) -> str | None:
    """Why a loss counts as blown up: it rose again, or ended far above all others.

    `ends`: the sorted final losses of all runs of its side, this one included, by name.
    """
    name = next((name for name in LOSSES if name in run.metrics), None)
    if name is None:
        return None
    final = run.metrics[name]
    curve = [(at.metrics[name], at.step) for at in run.evaluations if name in at.metrics]
    if len(curve) > 2:
        (start, _), (low, step) = curve[0], min(curve)
        if final > max(low + RISE_SHARE * (start - low), RISE * low):
            return f"its loss blew up: {final:.2f}, after {low:.2f} at step {step:,}"
    others = ends[name][:-1]  # if it is above all others, as the rule requires
    if len(others) > 1 and final > others[-1]:
        middle, spread = float(np.median(others)), others[-1] - others[0]
        if final > max(FAR_ABOVE * middle, middle + FAR_SPREADS * spread):
            return f"its loss blew up: {final:.2f}, and others of its side end at {middle:.2f}"
    return None


# --- runs far from their side ---------------------------------------------------------------------


def find_outliers(a: Runs, b: Runs, known: Mapping[str, float | None]) -> list[Outlier]:
    """The runs beyond 5 SD of their side's median.

    `known`: the losses and speeds to look at, with the noise model's SD of one run, of logarithms
    for speeds. Where it is None, the SD is that of all runs about their medians, by the median
    absolute deviation. Speeds are compared inside one environment.
    """
    found = []
    for name, known_sd in known.items():
        groups = _groups(name, (a, b))
        sd = _sd([residuals for _, residuals, _ in groups], known_sd)
        for label, residuals, runs in groups:
            if sd is None or not sd > 0:
                continue
            for residual, run in zip(residuals, runs, strict=True):
                if abs(residual) > LIMIT_SDS * sd:
                    hint = _slow_start(run, runs) if name in SPEEDS else ""
                    found.append(
                        Outlier(
                            side=label,
                            source=run.source,
                            metric=name,
                            value=run.metrics[name],
                            sds=residual / sd,
                            hint=hint,
                        )
                    )
    return found


_Group = tuple[str, list[float], list[LoggedRun]]  # side, residuals, runs


def _groups(name: str, sides: Sequence[Runs]) -> list[_Group]:
    """The runs of each side that have a metric, by environment for speeds, about their median."""
    speed = name in SPEEDS
    groups: dict[tuple[str, Hashable], list[LoggedRun]] = defaultdict(list)
    for label, side in zip(SIDES, sides, strict=True):
        for run in side:
            if run.metrics.get(name, 0.0) > 0:
                groups[label, environment_of(run) if speed else None].append(run)
    found = []
    for (label, _), runs in groups.items():
        if len(runs) >= LEAST_RUNS:
            values = [run.metrics[name] for run in runs]
            values = [math.log(value) for value in values] if speed else values
            median = float(np.median(values))
            found.append((label, [value - median for value in values], runs))
    return found


def _sd(residuals: Sequence[Sequence[float]], known: float | None) -> float | None:
    """The SD of one run: the known one, or the runs' own where that is larger or none is known."""
    # one residual of each group is 0, or the twin of another one, by the definition of a median
    sizes = [size for group in residuals for size in sorted(map(abs, group))[1:]]
    own = MAD_TO_SD * float(np.median(sizes)) if len(sizes) >= LEAST_RESIDUALS else None
    if known is not None:
        return max(known, own or 0.0)
    return None if own is None else own * (1 + SMALL_SAMPLE / len(sizes))


def _slow_start(run: LoggedRun, runs: Runs) -> str:
    """A hint where most of what a run is slower by was lost before its first evaluation."""
    name = "train_time_s"
    times = [
        [(at.step, at.metrics[name]) for at in other.evaluations if at.step and name in at.metrics]
        for other in (run, *runs)
    ]
    if not all(times) or len({other[0][0] for other in times}) > 1:
        return ""
    early, whole = (times[0][at][1] - np.median([t[at][1] for t in times[1:]]) for at in (0, -1))
    return "a cold compile or another slow start" if whole > 0 and early > whole / 2 else ""


def describe(outlier: Outlier) -> str:
    """'c.txt of A stands out in training time: 89.71, 44 SD above the median of its side'."""
    metric = METRICS[outlier.metric]
    hint = f": {outlier.hint}" if outlier.hint else ""
    return (
        f"{outlier.source} of {outlier.side} stands out in {metric.title}: "
        f"{metric.value(outlier.value)}, {abs(outlier.sds):.0f} SD "
        f"{'above' if outlier.sds > 0 else 'below'} the median of its side{hint}"
    )
