"""Compares two sides of runs, metric by metric.

Quality is compared over all runs of a side that reached their end. Speed is compared only between
runs of one environment, as far as the logs identify it: across environments it is refused with the
field that differs; where a log does not identify its environment the difference is informational.
Runs that did not reach their end count too: a larger share of diverged runs in B is a regression,
and any other broken run leaves the comparison inconclusive, because the runs that reached their end
are then not a fair sample. Never reads disk, never prints.
"""

import dataclasses
import math
from collections.abc import Sequence

import msgspec
import numpy as np

from harness.comparison import engine
from harness.comparison.comparability import (
    SIDES,
    Runs,
    check_comparable,
    check_same_core_settings,
    pairs_of,
    remarks,
    source_of_variance,
)
from harness.comparison.engine import MeasuredMetric
from harness.comparison.exchange import SHIPPED, equal_loss_time
from harness.comparison.margins import Margin, default_margin, stated_margin
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.comparison.options import CompareOptions, check_names, check_numbers
from harness.comparison.outliers import Outlier, describe, find_outliers
from harness.comparison.result import (
    EXIT_CODES,
    ComparedSide,
    Comparison,
    MetricResult,
)
from harness.comparison.rules import OnePair, Rule
from harness.comparison.screening import needs_seeds, quality_values, replicate_findings, screen
from harness.comparison.sessions import (
    SpeedRuns,
    environment_of,
    inside_blocks,
    session_finding,
    speed_runs,
    widened,
)
from harness.comparison.targets import target_results
from harness.comparison.variants import check_one_variant
from harness.format import plural
from harness.metrics import (
    COMPARED,
    CORE_SCORES,
    LOSSES,
    METRICS,
    QUALITY,
    SPEEDS,
    Metric,
    duplicates,
    preferred,
)
from harness.results.logs import nanochat
from harness.results.logs.run_log import LogError
from harness.stats.decision import Difference, KnownSd, Outcome, difference, of_pairs
from harness.stats.spending import Reading

# published seeds of a full-scale recipe whose depth is not stated
DEPTH_UNKNOWN = {nanochat.FAMILY: f"{nanochat.FAMILY}, depth not stated"}
ONE_SESSION_NEEDED = "one session needed: run A and B by turns"
SEEDS_NEEDED = "other seeds needed: copies, and runs of one seed, count as one"
DIRECTION_UNKNOWN = (
    "its direction is unknown, so it gets no outcome: add --higher-better {name} or "
    "--lower-better {name}"
)


def compare(
    a: Runs, b: Runs, options: CompareOptions, noise_model: NoiseModel, rule: Rule | None = None
) -> Comparison:
    """The comparison of side B with side A, by default one pair at `options.alpha`.

    Raises LogError where the sides may not be compared, UsageError for options without meaning.
    """
    check_numbers(options)
    for name, side in zip(SIDES, (a, b), strict=True):
        check_one_variant(name, side)
    check_comparable(a, b)
    if not options.metrics or any(name in CORE_SCORES for name in options.metrics):
        check_same_core_settings(a, b)
    a, b, findings = screen(a, b)
    sides = (_side("A", a), _side("B", b))
    whole = tuple([run for run in side if run.ending is None] for side in (a, b))
    if not whole[0]:
        raise LogError(
            "side A",
            "at least one run that reached its end",
            "; ".join(sides[0].broken[:3]),
            "Run the baseline again: there is nothing to compare with.",
        )
    metrics, outliers, without = [], list[Outlier](), None
    if whole[1]:
        rule = rule or OnePair(reading=Reading(alpha=options.alpha, seen=options.seen))
        pair = _Pair(whole[0], whole[1], options, noise_model, rule)
        metrics = pair.results()
        findings = [*pair.findings, *findings]
        outliers, without = pair.without_outliers()
    outcome, reason = _overall(metrics, sides, a, b)
    return Comparison(
        sides=sides,
        outcome=outcome,
        reason=reason,
        alpha=options.alpha,
        seen=options.seen,
        metrics=metrics,
        notes=remarks(a, b),
        targets=target_results(whole, options.target_metrics, options.target_p),
        findings=[*findings, *replicate_findings(*whole), *map(describe, outliers)],
        outliers=outliers,
        without_outliers=without,
    )


def _side(name: str, runs: Runs) -> ComparedSide:
    broken = [f"{run.source}: {run.ending}" for run in runs if run.ending]
    return ComparedSide(
        name=name,
        runs=len(runs),
        whole=len(runs) - len(broken),
        family=runs[0].family,
        steps=max(run.steps for run in runs),
        scale=runs[0].scale,
        gpus=sorted({run.environment.get("GPUs") or run.gpu or "unknown" for run in runs}),
        sources=[run.source for run in runs],
        broken=broken,
    )


# --- one metric -----------------------------------------------------------------------------------


class _Pair:
    """Two sides of whole runs, compared by one rule."""

    def __init__(
        self, a: Runs, b: Runs, options: CompareOptions, noise_model: NoiseModel, rule: Rule
    ) -> None:
        self.a, self.b, self.rule = a, b, rule
        self.options, self.noise_model = options, noise_model
        self.findings: list[str] = []

    def results(self) -> list[MetricResult]:
        """One result a metric that both sides have, in the order of the registry."""
        check_names(self.options, self.a, self.b)
        names = preferred([name for name in self._common() if self._is_shown(name)])
        if not names:
            raise LogError(
                "metrics",
                "at least one metric that both sides have",
                f"{_names(self.a)} against {_names(self.b)}",
                "Read a number that both logs hold, with --regex NAME=PATTERN.",
            )
        informational = duplicates(names, lambda name: self._margin(name) is not None)
        shown = [
            self._measured(name, informational=name in informational)
            for name in names
            if not self.options.metrics or name in self.options.metrics
        ]
        parts = [one for one in shown if isinstance(one, MeasuredMetric)]
        concluded = iter(engine.conclude_all(parts, self.options.regression_share))
        results = [
            one if isinstance(one, MetricResult) else _unconfirmed(next(concluded)) for one in shown
        ]
        return [*results, *self._combined(results)]

    def _combined(self, results: Sequence[MetricResult]) -> list[MetricResult]:
        """Loss and training time in one figure, where the exchange rate is known."""
        rate = self.options.exchange or SHIPPED.get(self.a[0].scale or "")
        found = equal_loss_time(results, rate, self.rule.alpha) if rate else None
        return [found] if found else []

    def without_outliers(self) -> tuple[list[Outlier], list[MetricResult] | None]:
        """The runs that stand out, and the results without them; None without such runs."""
        wanted = [name for name in (*LOSSES, *SPEEDS) if name in self.options.metrics]
        rows = {name: self._row(name, self.a, self.b) for name in wanted or (*LOSSES, *SPEEDS)}
        known = {name: row.sd if row else None for name, row in rows.items()}
        outliers = find_outliers(self.a, self.b, known)
        names = {one.source for one in outliers}
        a, b = ([run for run in side if run.source not in names] for side in (self.a, self.b))
        if not outliers or not a or not b:
            return outliers, None
        return outliers, _Pair(a, b, self.options, self.noise_model, self.rule).results()

    def _common(self) -> list[str]:
        found = dict.fromkeys(name for run in self.a for name in run.metrics)
        return [name for name in found if any(name in run.metrics for run in self.b)]

    def _is_shown(self, name: str) -> bool:
        options = self.options
        requested = (*options.metrics, *options.margins, *options.also)
        return name in COMPARED or name in requested

    def _measured(self, name: str, *, informational: bool) -> MeasuredMetric | MetricResult:
        """The difference in a metric; its result already where it is refused."""
        options, speed = self.options, name in SPEEDS
        metric = options.metric(name)
        found = speed_runs(name, self.a, self.b) if speed else SpeedRuns((self.a, self.b))
        notes, host = list(found.notes), self._host_row(name, found)
        sides = _with_values(metric, found.sides or (self.a, self.b))
        for label, side, whole in zip(SIDES, sides, (self.a, self.b), strict=True):
            if len(side) < len(whole):
                notes.append(f"{len(side)} of {len(whole)} runs of {label}")
        margin = self._margin(name)
        if informational and name not in options.margins:
            margin = None
        notes += self._margin_notes(metric, margin, informational)
        values = quality_values(name, sides)
        start = engine.draft(
            metric,
            (len(values[0]), len(values[1])),
            (float(np.mean(values[0])), float(np.mean(values[1]))),
            margin=margin,
            reason=found.reason,
            notes=notes,
            replicate=options.replicate,
        )
        if found.sides is None:
            return start
        if found.apart and host is None:
            return msgspec.structs.replace(start, reason="refused: not one session")
        return self._widened(start, metric, sides, values, host)

    def _widened(
        self,
        start: MetricResult,
        metric: Metric,
        sides: tuple[Runs, Runs],
        values: Sequence[Sequence[float]],
        host: NoiseRow | None,
    ) -> MeasuredMetric:
        """The difference. `host`: the noise between hosts, for sides of two sessions."""
        change, source = self._difference(metric, sides, values)
        if host is not None:
            change = widened(change, host.sd, host.df)
            source += f", and the SD between hosts {metric.size(host.sd)} ({host.df} df)"
        seeds = needs_seeds(metric.name, sides, values)
        return MeasuredMetric(
            start=start,
            difference=change,
            rule=self.rule,
            noise_from=source,
            unsettled=ONE_SESSION_NEEDED if host else SEEDS_NEEDED if seeds else None,
        )

    def _host_row(self, name: str, found: SpeedRuns) -> NoiseRow | None:
        """The noise between hosts, where the sides are not known to be of one session."""
        if not found.apart:
            return None
        a = self.a[0]
        row = self.noise_model.find(a.scale, name, a.gpu, "host")
        if not self.findings:  # one sentence for all speeds
            sd = METRICS[name].size(row.sd) if row else None
            self.findings.append(session_finding(found.apart, sd))
        return row

    def _margin(self, name: str) -> Margin | None:
        if name in self.options.margins:
            return stated_margin(name, self.options.margins[name])
        return default_margin(name, self._row(name, self.a, self.b), self.a[0].full_scale)

    def _margin_notes(
        self, metric: Metric, margin: Margin | None, informational: bool
    ) -> list[str]:
        name = metric.name
        if metric.better is None:
            return [DIRECTION_UNKNOWN.format(name=name)]
        if margin is not None or metric.margin.noise_sds is None or informational:
            return []
        scale = self.a[0].scale or "this recipe"
        row = f"{scale}, {name}, {source_of_variance(name, self.a, self.b)}"
        return [f"no margin: the noise model has no row for {row}; --margin {name}=M sets one"]

    def _row(self, name: str, a: Runs, b: Runs) -> NoiseRow | None:
        """The noise model's row for A; None where B is known to be of another scale."""
        scales, gpus = {run.scale for run in a}, {run.gpu for run in (*a, *b)}
        if len(scales) > 1 or any(run.scale not in (None, a[0].scale) for run in b):
            return None
        gpu = gpus.pop() if len(gpus) == 1 else None
        source = source_of_variance(name, a, b)
        row = self.noise_model.find(a[0].scale, name, gpu, source)
        if row is None and a[0].full_scale and source == "seed":
            return self.noise_model.find(DEPTH_UNKNOWN.get(a[0].family), name, gpu, source)
        return row

    def _difference(
        self, metric: Metric, sides: tuple[Runs, Runs], values: Sequence[Sequence[float]]
    ) -> tuple[Difference, str]:
        """The difference, and where its noise comes from."""
        name = metric.name
        a, b = values
        if metric.scale == "log":
            a, b = [math.log(value) for value in a], [math.log(value) for value in b]
        if name in SPEEDS and len({environment_of(run) for side in sides for run in side}) > 1:
            return inside_blocks((a, b), sides), "the runs' own, inside environments"
        if name in self.options.sds:
            known = KnownSd(sd=self.options.sds[name], df=math.inf)
            return difference(a, b, known, stated=True), "stated on the command line"
        row = self._row(name, *sides)
        if row is not None:
            found, noise = difference(a, b, row.known), f"{row.describe()}, {row.runs} runs"
        else:
            found, noise = difference(a, b), engine.OWN_NOISE
        whole = all(len(v) == len(side) for v, side in zip(values, sides, strict=True))
        if name in QUALITY and whole and (pairs := pairs_of(*sides)):
            paired = of_pairs([a[i] for i, _ in pairs], [b[j] for _, j in pairs])
            found = dataclasses.replace(found, paired=paired)
        return found, noise


def _unconfirmed(result: MetricResult) -> MetricResult:
    """A slowdown with its caveat."""
    if result.outcome != "regression" or result.metric not in SPEEDS:
        return result
    note = "unconfirmed: one session; a slowdown counts once a second session shows it"
    return msgspec.structs.replace(result, notes=[*result.notes, note])


def _names(side: Runs) -> str:
    return ", ".join(sorted({name for run in side for name in run.metrics})) or "none"


def _with_values(metric: Metric, sides: tuple[Runs, Runs]) -> tuple[Runs, Runs]:
    """The runs of each side that have the metric; above zero where ratios are compared."""
    least = 0.0 if metric.scale == "log" else -math.inf
    a, b = ([run for run in s if run.metrics.get(metric.name, -math.inf) > least] for s in sides)
    if not a or not b:
        raise LogError(
            metric.name,
            "values above zero on both sides: their ratio is compared",
            "zero or less",
            "Leave the metric out: name the others with --metric.",
        )
    return a, b


# --- all metrics ----------------------------------------------------------------------------------


def _overall(
    metrics: Sequence[MetricResult], sides: tuple[ComparedSide, ComparedSide], a: Runs, b: Runs
) -> tuple[Outcome, str]:
    shares = [sum(run.diverged for run in side) / len(side) for side in (a, b)]
    if shares[1] > shares[0]:
        number = sum(run.diverged for run in b)
        return "regression", f"{number} of {len(b)} runs of B diverged or ran out of memory"
    titles = {
        outcome: " and ".join(one.title for one in metrics if one.outcome == outcome)
        for outcome in EXIT_CODES
    }
    if titles["regression"]:
        return "regression", f"worse in {titles['regression']}"
    for side in reversed(sides):
        if side.broken:
            runs = f"{len(side.broken)} of {plural(side.runs, 'run')} of {side.name}"
            return "inconclusive", f"{runs} did not reach their end"
    if titles["inconclusive"]:
        return "inconclusive", f"undecided in {titles['inconclusive']}"
    if titles["pass"]:
        return "pass", f"no harm beyond the margin in {titles['pass']}"
    return "inconclusive", "no metric has a margin: give one with --margin NAME=VALUE"
