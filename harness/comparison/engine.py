"""The comparison engine: from a difference and its noise to limits, a decision and a result.

`compare`, studies, gates, a search's confirmation and the check of a full job all decide through
`conclude`, or through `conclude_all` where several metrics share an error rate; they differ in
where the difference comes from and in the rule that they pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from harness.comparison.margins import Margin
from harness.comparison.result import MetricResult, Replicate
from harness.comparison.rules import Rule
from harness.metrics import METRICS, Metric
from harness.stats import power
from harness.stats.decision import PAIRED_SHARE, Difference, Method, decide
from harness.stats.inference import Contrast, detectable

KNOWN_SD = ("noise_model", "stated")
OWN_NOISE = "the runs' own"
_NOISE: dict[Method, str] = {
    "welch": OWN_NOISE,
    "paired": "the runs' own, of pairs with one seed",
}


@dataclass(frozen=True, kw_only=True)
class MeasuredMetric:
    """One metric with its difference, and the rule that decides it.

    `unsettled`: why more runs like these would not decide it.
    """

    start: MetricResult
    difference: Difference
    rule: Rule
    noise_from: str = OWN_NOISE
    unsettled: str | None = None

    def conclude(self, share: float = 1.0, family: int = 1) -> MetricResult:
        """See `conclude`."""
        return conclude(
            self.start, self.difference, self.rule, self.noise_from, share=share, family=family
        )

    def settle(self, result: MetricResult) -> MetricResult:
        """`result`, which advises no number of runs where more of them would add nothing."""
        undecided = result.outcome == "inconclusive" and not result.reason
        if self.unsettled is None or self.start.reason or not (result.low is None or undecided):
            return result
        return msgspec.structs.replace(result, reason=self.unsettled, more_runs=None)


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


def conclude_all(parts: Sequence[MeasuredMetric], share: float = 1.0) -> list[MetricResult]:
    """The metrics of one comparison: regressions by Holm's procedure over those that are decided.

    The worst metric is the outcome of the whole, so the error rate of a regression is that of all
    metrics together. A pass is an answer on one metric and keeps the error rate of the rule.
    `share`: of the rate of a regression, where more metrics are decided elsewhere.
    """
    results = [one.conclude() for one in parts]
    open_ = [i for i, one in enumerate(results) if has_limits(one) and not one.reason]
    family = len(open_)
    while open_:
        for index in open_:
            results[index] = parts[index].conclude(share=share / len(open_), family=family)
        worse = [index for index in open_ if min(_ends(results[index])) > 0]
        if not worse:
            break
        open_ = [index for index in open_ if index not in worse]
    return [one.settle(result) for one, result in zip(parts, results, strict=True)]


def conclude(
    start: MetricResult,
    difference: Difference,
    rule: Rule,
    noise_from: str = OWN_NOISE,
    *,
    share: float = 1.0,
    family: int = 1,
) -> MetricResult:
    """`start` with estimate, limits and decision. `start.reason` prevents a decision only.

    `share`: of the rule's error rate for a regression, as one of `family` metrics.
    """
    spread = _spread(start, difference)
    difference, part, criticals = _narrower(difference, rule, spread, share)
    contrast = difference.contrast
    over = f"; regressions by Holm over {family} metrics" if family > 1 else ""
    result = msgspec.structs.replace(
        start,
        estimate=contrast.estimate,
        rule=rule.phrase + over,
        method=difference.method,
        notes=[*start.notes, *_excess_notes(difference)],
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
        noise_from=_NOISE.get(difference.method, noise_from),
    )
    if math.isnan(criticals[0]):
        return msgspec.structs.replace(result, reason=start.reason or rule.phrase)
    result = _with_limits(result, contrast, *criticals)
    if start.outcome is None or start.reason:
        return result
    return _decided(result, difference, rule, criticals, (part, share))


def _excess_notes(difference: Difference) -> list[str]:
    return [
        f"side {'AB'[side]} varies more than the noise model's SD allows: Welch's limits"
        for side in difference.excess_variance
    ]


def _narrower(
    difference: Difference, rule: Rule, spread: float, share: float
) -> tuple[Difference, float, tuple[float, float]]:
    """The difference of both sides or that of their pairs, its part of the error rate, and the
    critical values of its limits: towards more harm, and towards less.

    Each of the two has a part of the error rate, so the narrower one may be taken.
    """

    def criticals(one: Difference, part: float) -> tuple[float, float]:
        known = one.method in KNOWN_SD
        found = rule.critical(one.contrast, known, spread, part)
        other = found if share == 1 else rule.critical(one.contrast, known, spread, part * share)
        return found, other

    if difference.paired is None:
        return difference, 1.0, criticals(difference, 1.0)
    both = [
        (one, part, criticals(one, part))
        for one, part in ((difference, 1 - PAIRED_SHARE), (difference.of_pairs, PAIRED_SHARE))
    ]
    widths = [one.contrast.se * sum(values) for one, _, values in both]
    return both[widths[1] < widths[0]]


def has_limits(result: MetricResult) -> bool:
    """Whether a metric is compared with its margin."""
    return result.outcome is not None and result.low is not None


def _ends(result: MetricResult) -> tuple[float, float]:
    """Both ends of the interval, positive where they are worse."""
    assert result.low is not None
    assert result.high is not None
    return result.harm(result.low), result.harm(result.high)


def _is_exact(name: str) -> bool:
    """Whether equal values are measurements and not copies: an allocator repeats its count."""
    return name in METRICS and METRICS[name].kind == "memory"


def _spread(start: MetricResult, difference: Difference) -> float:
    """The size of effect that an always-valid rule is tuned for: the margin, or the SD."""
    return start.margin or difference.sd or 0.0


def _decided(
    result: MetricResult,
    difference: Difference,
    rule: Rule,
    criticals: tuple[float, float],
    shares: tuple[float, float],
) -> MetricResult:
    """`shares`: the difference's part of the error rate, and that of a regression."""
    contrast, known = difference.contrast, difference.method in KNOWN_SD
    assert result.margin is not None, f"{result.metric} is judged and has no margin"
    harm = Contrast(estimate=result.harm(contrast.estimate), se=contrast.se, df=contrast.df)
    decision = decide(harm, result.margin, rule.alpha, *criticals)
    more_runs = None
    if decision.outcome == "inconclusive" and difference.run_sd is not None:
        more_runs = power.more_runs(
            harm.estimate,
            difference.run_sd,
            result.margin,
            result.n,
            shares[0] * rule.advice_alpha(contrast, known, _spread(result, difference)),
            df=contrast.df if known else None,
            share=shares[1],
            pairs=difference.method == "paired",
            only_b=result.replicate == "candidate run",
        )
    return msgspec.structs.replace(
        result,
        outcome=decision.outcome,
        small_harm=decision.small_harm and result.resolves(contrast.estimate),
        more_runs=more_runs,
    )


def _with_limits(
    result: MetricResult, contrast: Contrast, critical: float, worse: float
) -> MetricResult:
    """The interval: `critical` standard errors towards more harm, `worse` towards less."""
    below, above = (worse, critical) if result.better != "higher" else (critical, worse)
    low = contrast.estimate - below * contrast.se
    high = contrast.estimate + above * contrast.se
    return msgspec.structs.replace(
        result,
        low=low,
        high=high,
        outside=result.resolves(contrast.estimate) and not low <= 0 <= high,
        minimum_detectable=detectable(worse, contrast.df, contrast.se, power.BETA),
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
