"""One `MetricResult` in words and numbers, for every report: estimate, interval, margin, outcome.

Every report prints a result through these functions, so that two reports of one result agree.
Units, decimals and scale come from the registry of metrics.
"""

import math

from harness import format
from harness.comparison.result import MetricResult, Replicate
from harness.metrics import metric_named

OUTSIDE_RANGE = "outside the measured range"
_UNITS: dict[Replicate, tuple[str, str, str]] = {
    "run": ("run", "runs", " a side"),
    "candidate run": ("run", "runs", " of B"),
    "launch": ("launch", "launches", ""),
}
"""One, several, and on which side more of them are made."""


def means(result: MetricResult) -> list[str]:
    """The mean of each side."""
    return [metric_named(result.metric).value(mean) for mean in result.means]


def number(result: MetricResult, value: float) -> str:
    """A difference with its sign, in the unit and with the decimals of the result's interval."""
    half = None
    if result.low is not None and result.high is not None:
        half = (result.high - result.low) / 2
    return metric_named(result.metric).change(value, half)


def estimate(result: MetricResult) -> str:
    """'+0.0342', '+6.2 %', '> +41 %, outside the measured range' or a dash."""
    if result.beyond is not None:
        return f"{limit(result)}, {OUTSIDE_RANGE}"
    return limit(result)


def limit(result: MetricResult) -> str:
    """The estimate, or the limit that it exceeds."""
    if result.beyond is not None:
        sign = ">" if result.beyond > 0 else "<"
        return f"{sign} {format.percent(math.expm1(result.beyond), 0, sign=True)}"
    if result.estimate is None:
        return format.DASH
    if result.low is None and result.unit in ("bpb", "nats/token"):
        return format.signed(f"{result.estimate:+.6f}")  # no interval to round by
    return number(result, result.estimate)


def interval(result: MetricResult) -> str:
    """'[+0.0327, +0.0357]', in the unit of the estimate; '' without one, or without noise."""
    if result.low is None or result.high is None or result.low == result.high:
        return ""
    return format.interval(number(result, result.low), number(result, result.high))


def detectable(result: MetricResult) -> str:
    """The smallest detectable effect, '±0.0022', or a dash."""
    if result.minimum_detectable is None:
        return format.DASH
    return "±" + number(result, result.minimum_detectable).lstrip("+")


def no_interval(result: MetricResult) -> str:
    """'(one run: a second seed gives an interval)', or ''."""
    return f"({result.no_interval})" if result.no_interval else ""


def full(result: MetricResult) -> str:
    """Estimate and interval in one line; the reason where there is none."""
    if result.missing:
        return f"{format.DASH} ({result.missing})"
    return f"{estimate(result)} {interval(result) or no_interval(result)}".strip()


def margin(result: MetricResult) -> str:
    """The margin, or a dash."""
    return metric_named(result.metric).size(result.margin)


def outcome(result: MetricResult) -> str:
    """'pass', 'pass, better', 'inconclusive, ~5 more runs a side', 'informational'."""
    if result.better is None:
        return "informational, direction unknown"
    if result.outcome is None:
        return "informational"
    if result.outcome == "pass" and result.small_harm:
        return "pass, small harm within margin"
    if result.outcome == "pass" and result.improved:
        return "pass, better"
    if result.outcome != "inconclusive":
        return result.outcome
    if result.reason:
        return f"inconclusive, {result.reason.partition(':')[0]}"
    one, several, where = _UNITS[result.replicate]
    if result.more_runs is None:
        return f"inconclusive, no feasible number of {several} settles it"
    more = one if result.more_runs == 1 else several
    return f"inconclusive, ~{result.more_runs} more {more}{where}"


def noise(result: MetricResult) -> str:
    """'SD of one run 0.0014 (605 df, the shipped noise model, ...)', or of one launch; or ''."""
    if result.sd is None or math.isnan(result.sd) or not result.df:
        return ""
    size = f"{result.sd:.2g}"
    if result.scale == "log":
        size = f"{100 * result.sd:.2g} %"
    elif result.unit == "bytes":
        size = format.mebibytes(result.sd)
    df = "" if math.isinf(result.df) else f"{result.df:.3g} df, "
    return f"SD of one {_UNITS[result.replicate][0]} {size} ({df}{result.noise_from})"
