"""The comparison engine: from a difference and its noise to limits, a decision and a result.

`compare`, studies, gates, a search's confirmation and the check of a full job all decide through
`conclude`; they differ in where the difference comes from and in the rule that they pass.
"""

import math

import msgspec

from harness.comparison.margins import Margin
from harness.comparison.result import MetricResult, Replicate
from harness.comparison.rules import Rule
from harness.metrics import METRICS, Metric
from harness.stats import power
from harness.stats.decision import Difference, decide
from harness.stats.inference import Contrast, detectable

KNOWN_SD = ("noise_model", "stated")
OWN_NOISE = "the runs' own"
NO_SPREAD = "no decision: the runs of each side are equal, so they show no noise to compare with"


def draft(
    metric: Metric,
    n: tuple[int, int],
    means: tuple[float | None, float | None] = (None, None),
    *,
    margin: Margin | None = None,
    reason: str | None = None,
    notes: list[str] | None = None,
    replicate: Replicate = "run",
) -> MetricResult:
    """The result of a metric before its difference is known.

    A metric without a margin, or of unknown direction, is informational.
    """
    judged = margin is not None and metric.better is not None
    return MetricResult(
        metric=metric.name,
        title=metric.title,
        unit=metric.unit,
        scale=metric.scale,
        better=metric.better,
        n=n,
        means=means,
        margin=margin.value if margin else None,
        margin_from=margin.why if margin else "",
        outcome="inconclusive" if judged else None,
        reason=reason,
        notes=notes or [],
        replicate=replicate,
    )


def conclude(
    start: MetricResult, difference: Difference, rule: Rule, noise_from: str = OWN_NOISE
) -> MetricResult:
    """`start` with estimate, limits and decision. `start.reason` prevents a decision only."""
    contrast = difference.contrast
    notes = [
        f"side {'AB'[side]} varies more than the noise model's SD allows: Welch's limits"
        for side in difference.excess_variance
    ]
    result = msgspec.structs.replace(
        start,
        estimate=contrast.estimate,
        rule=rule.phrase,
        method=difference.method,
        notes=[*start.notes, *notes],
    )
    if not contrast.df > 0:
        return msgspec.structs.replace(result, reason=start.reason or _no_noise(start))
    if contrast.se == 0 and not _is_exact(start.metric):
        return msgspec.structs.replace(result, reason=start.reason or NO_SPREAD)
    result = msgspec.structs.replace(
        result,
        se=contrast.se,
        df=contrast.df,
        sd=difference.sd,
        noise_from=OWN_NOISE if difference.method == "welch" else noise_from,
    )
    critical = rule.critical(contrast, difference.method in KNOWN_SD, _spread(start, difference))
    if math.isnan(critical):
        return msgspec.structs.replace(result, reason=start.reason or rule.phrase)
    result = _with_limits(result, contrast, critical)
    if start.outcome is None or start.reason:
        return result
    return _decided(result, difference, rule, critical)


def _is_exact(name: str) -> bool:
    """Whether equal values are measurements and not copies: an allocator repeats its count."""
    return name in METRICS and METRICS[name].kind == "memory"


def _spread(start: MetricResult, difference: Difference) -> float:
    """The size of effect that an always-valid rule is tuned for: the margin, or the SD."""
    return start.margin or difference.sd or 0.0


def _decided(
    result: MetricResult, difference: Difference, rule: Rule, critical: float
) -> MetricResult:
    contrast, known = difference.contrast, difference.method in KNOWN_SD
    assert result.margin is not None, f"{result.metric} is judged and has no margin"
    harm = Contrast(estimate=result.harm(contrast.estimate), se=contrast.se, df=contrast.df)
    decision = decide(harm, result.margin, rule.alpha, critical)
    more_runs = None
    if decision.outcome == "inconclusive" and difference.run_sd is not None:
        more_runs = power.more_runs(
            harm.estimate,
            difference.run_sd,
            result.margin,
            result.n,
            rule.advice_alpha(contrast, known, _spread(result, difference)),
            df=contrast.df if known else None,
        )
    return msgspec.structs.replace(
        result,
        outcome=decision.outcome,
        small_harm=decision.small_harm and result.resolves(contrast.estimate),
        more_runs=more_runs,
    )


def _with_limits(result: MetricResult, contrast: Contrast, critical: float) -> MetricResult:
    low = contrast.estimate - critical * contrast.se
    high = contrast.estimate + critical * contrast.se
    return msgspec.structs.replace(
        result,
        low=low,
        high=high,
        outside=result.resolves(contrast.estimate) and not low <= 0 <= high,
        minimum_detectable=detectable(critical, contrast.df, contrast.se, power.BETA),
    )


def _no_noise(start: MetricResult) -> str:
    """Why there is no interval."""
    if start.replicate == "launch":
        return "one launch and no known SD: a second launch gives an interval"
    n = start.n
    runs = "one run a side" if max(n) == 1 else f"{n[0]} and {n[1]} runs"
    return f"{runs} and no known SD: a second run a side gives an interval, or --sd NAME=SD"


def finite(result: MetricResult) -> MetricResult:
    """The same with None for every number that is not finite, as JSON has no other."""
    names = ("estimate", "low", "high", "se", "df", "sd", "minimum_detectable")
    unknown = {
        name: None
        for name in names
        if (value := getattr(result, name)) is not None and not math.isfinite(value)
    }
    return msgspec.structs.replace(result, **unknown) if unknown else result
