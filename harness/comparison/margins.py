"""How much worse a metric may become before it matters: stated margins and default ones.

A margin is fixed before anybody looks at results. The defaults stand in the registry of metrics
(`harness.metrics.DefaultMargin`); a metric without a margin is informational.
"""

import math
from dataclasses import dataclass

from harness.comparison.noise_model import NoiseRow
from harness.metrics import METRICS


@dataclass(frozen=True, kw_only=True)
class Margin:
    """`value` on the scale of the effect (of logarithms for speeds), and where it comes from."""

    value: float
    why: str


def default_margin(metric: str, row: NoiseRow | None, full_scale: bool) -> Margin | None:
    """The registry's margin of a metric; None where it has none and is informational.

    `row`: the noise model's row for this metric, if it has one.
    """
    entry = METRICS.get(metric)
    if entry is None:
        return None
    default = entry.margin
    if full_scale and default.full_scale is not None:
        return Margin(value=default.full_scale, why="the default at full scale")
    if default.value is not None:
        loss = f"loss in {entry.unit.partition('/')[0]}"
        what = f"a {loss if entry.kind == 'quality' else entry.kind}"
        return Margin(value=_on_scale(metric, default.value), why=f"the default for {what}")
    if default.noise_sds is not None and row is not None:
        sds = default.noise_sds
        return Margin(value=sds * row.sd, why=f"{sds:.2g} SD of the noise model")
    return None


def stated_margin(metric: str, value: float, why: str = "given") -> Margin:
    """A margin that the user gave; that of a log metric is relative, .005 for half a percent."""
    return Margin(value=_on_scale(metric, value), why=why)


def _on_scale(metric: str, value: float) -> float:
    of_logs = metric in METRICS and METRICS[metric].scale == "log"
    return math.log1p(value) if of_logs else value
