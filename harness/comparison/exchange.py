"""Loss and training time in one figure: the change of the training time to an equal loss.

Most changes trade one for the other. Near the end of a schedule, training longer lowers the loss at
a known rate; at that rate a difference in loss is worth a difference in time:

    d ln T = d ln(training time) + d loss / (-rate),  rate = d loss / d ln(training time) < 0

The rate is stated by the user, measured by the horizons of a study, or shipped for one recipe. The
interval is by the delta method, with the errors of both differences and of the rate. The figure is
informational: it neither passes nor fails. Pure.
"""

import math
from collections.abc import Sequence

import msgspec

from harness.comparison import engine
from harness.comparison.result import MetricResult
from harness.metrics import METRICS, SPEEDS
from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast
from harness.stats.regression import add_contrasts

NAME = "equal_loss_time"
TIME = "train_time_s"


class ExchangeRate(msgspec.Struct, frozen=True, kw_only=True):
    """What training longer buys. `rate`: change of `metric` per unit of ln(training time), below 0.

    `se` and `df` are those of the rate; 0 and infinite where it is taken as exact. `reach`: the
    largest |d ln T| over which it was measured.
    """

    metric: str
    rate: float
    source: str
    se: float = 0.0
    df: float = math.inf
    reach: float | None = None


def per_percent(nats: float, source: str) -> ExchangeRate:
    """The rate at which 1 % more training time changes the loss by so many nats, of either sign."""
    return ExchangeRate(metric="val_loss", rate=-abs(nats) / math.log(1.01), source=source)


SHIPPED = {
    "gpt2-small": per_percent(
        0.0019, "shipped: 0.0019 nats for 1 % of time near the end of the modded-nanogpt schedule"
    )
}
"""By scale. From the validation curves of replicated modded-nanogpt records, 2024 to 2026."""


def equal_loss_time(
    results: Sequence[MetricResult], rate: ExchangeRate, tail: float
) -> MetricResult | None:
    """The combined figure of one comparison; None where it lacks a loss or a comparable time.

    `tail`: one-sided error rate of each limit.
    """
    known = {one.metric: one for one in results if one.low is not None}
    speeds = [one for name, one in known.items() if name in SPEEDS]
    loss, time = known.get(rate.metric), known.get(TIME) or next(iter(speeds), None)
    if loss is None or time is None:
        return None
    longer = time.harm(1.0)  # -1 for a throughput
    quality = _as_time(_contrast(loss), rate)
    total = add_contrasts(quality, _contrast(time, longer))
    notes = [f"{time.metric} and {loss.metric}; exchange rate {rate.source}"]
    notes += [f"{one.metric}: {one.reason}" for one in (loss, time) if one.reason]
    start = engine.draft(METRICS[NAME], loss.n, notes=notes)
    if rate.reach is not None and abs(quality.estimate) > rate.reach:
        return msgspec.structs.replace(start, beyond=math.copysign(rate.reach, quality.estimate))
    critical = t_quantile(1 - tail, total.df)
    low, high = total.estimate - critical * total.se, total.estimate + critical * total.se
    return msgspec.structs.replace(
        start,
        estimate=total.estimate,
        low=low,
        high=high,
        se=total.se,
        df=total.df,
        method="delta",
        outside=not low <= 0 <= high,
    )


def _contrast(result: MetricResult, sign: float = 1.0) -> Contrast:
    assert result.estimate is not None
    assert result.se is not None
    return Contrast(estimate=sign * result.estimate, se=result.se, df=result.df or 0.0)


def _as_time(loss: Contrast, rate: ExchangeRate) -> Contrast:
    """A difference in loss as one in ln(time), with the error of the rate."""
    quality = Contrast(estimate=loss.estimate / -rate.rate, se=loss.se / abs(rate.rate), df=loss.df)
    of_rate = Contrast(estimate=0.0, se=abs(loss.estimate) * rate.se / rate.rate**2, df=rate.df)
    return add_contrasts(quality, of_rate)
