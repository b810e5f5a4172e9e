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
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from harness import errors
from harness.comparison import engine
from harness.comparison.comparability import (
    SIDES,
    Environment,
    Runs,
    accept_planned_stops,
    check_comparable,
    check_same_core_settings,
    environment_of,
    pairs_of,
    remarks,
    runs_of_one_environment,
    source_of_variance,
)
from harness.comparison.engine import MeasuredMetric
from harness.comparison.exchange import SHIPPED, ExchangeRate, equal_loss_time
from harness.comparison.margins import Margin, default_margin, stated_margin
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.comparison.result import (
    EXIT_CODES,
    ComparedSide,
    Comparison,
    MetricResult,
    Replicate,
)
from harness.comparison.rules import OnePair, Rule
from harness.comparison.targets import target_results
from harness.format import plural
from harness.metrics import (
    COMPARED,
    CORE_SCORES,
    METRICS,
    QUALITY,
    SPEEDS,
    Metric,
    duplicates,
    metric_named,
    preferred,
)
from harness.results.logs.run_log import LogError
from harness.stats.decision import Difference, KnownSd, Outcome, difference, of_pairs
from harness.stats.regression import fit_blocks
from harness.stats.spending import Reading

DIRECTION_UNKNOWN = (
    "its direction is unknown, so it gets no outcome: add --higher-better {name} or "
    "--lower-better {name}"
)


class CompareOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user fixes: error rate, margins, known SDs, metrics and their directions.

    `metrics`: only these; empty for all that both sides have. `also`: metrics that were read on
    request, shown although they are not registered. `seen`: earlier readings of the same question,
    which have spent a part of `alpha`. `regression_share`: of the error rate of a regression, where
    more metrics are decided elsewhere. `exchange`: what training longer buys, by default the
    shipped rate of the recipe. `targets`: values that the mean of a side has to be beyond, with a
    p below `target_p`.
    """

    alpha: float = 0.05
    margins: Mapping[str, float] = {}
    sds: Mapping[str, float] = {}
    metrics: Sequence[str] = ()
    higher_better: Sequence[str] = ()
    lower_better: Sequence[str] = ()
    also: Sequence[str] = ()
    replicate: Replicate = "run"
    seen: int = 0
    regression_share: float = 1.0
    exchange: ExchangeRate | None = None
    targets: Mapping[str, float] = {}
    target_p: float = 0.01


def compare(
    a: Runs, b: Runs, options: CompareOptions, noise_model: NoiseModel, rule: Rule | None = None
) -> Comparison:
    """The comparison of side B with side A, by default one pair at `options.alpha`.

    Raises LogError where the sides may not be compared, UsageError for options without meaning.
    """
    check_comparable(a, b)
    if not options.metrics or any(name in CORE_SCORES for name in options.metrics):
        check_same_core_settings(a, b)
    a, b = accept_planned_stops(a), accept_planned_stops(b)
    sides = (_side("A", a), _side("B", b))
    whole = tuple([run for run in side if run.ending is None] for side in (a, b))
    if not whole[0]:
        raise LogError(
            "side A",
            "at least one run that reached its end",
            "; ".join(sides[0].broken[:3]),
            "Run the baseline again: there is nothing to compare with.",
        )
    metrics = []
    if whole[1]:
        rule = rule or OnePair(reading=Reading(alpha=options.alpha, seen=options.seen))
        metrics = _Pair(whole[0], whole[1], options, noise_model, rule).results()
    outcome, reason = _overall(metrics, sides, a, b)
    return Comparison(
        sides=sides,
        outcome=outcome,
        reason=reason,
        alpha=options.alpha,
        seen=options.seen,
        metrics=metrics,
        notes=remarks(a, b),
        targets=target_results(whole, _target_metrics(options), options.target_p),
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

    def results(self) -> list[MetricResult]:
        """One result a metric that both sides have, in the order of the registry."""
        _check_names(self.options, self.a, self.b)
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
        metric = metric_named(name, options.higher_better, options.lower_better)
        usable, reason, notes = (self.a, self.b), None, list[str]()
        if speed:
            found, reason, notes = runs_of_one_environment(name, self.a, self.b)
            refused, usable = found is None, found or usable
        sides = _with_values(metric, usable)
        for label, side, whole in zip(SIDES, sides, (self.a, self.b), strict=True):
            if len(side) < len(whole):
                notes.append(f"{len(side)} of {len(whole)} runs of {label}")
        margin = self._margin(name)
        if informational and name not in options.margins:
            margin = None
        notes += self._margin_notes(metric, margin, informational)
        values = [[run.metrics[name] for run in side] for side in sides]
        start = engine.draft(
            metric,
            (len(values[0]), len(values[1])),
            (float(np.mean(values[0])), float(np.mean(values[1]))),
            margin=margin,
            reason=reason,
            notes=notes,
            replicate=options.replicate,
        )
        if speed and refused:
            return start
        change, noise_from = self._difference(metric, sides, values)
        return MeasuredMetric(start=start, difference=change, rule=self.rule, noise_from=noise_from)

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
        return self.noise_model.find(a[0].scale, name, gpu, source_of_variance(name, a, b))

    def _difference(
        self, metric: Metric, sides: tuple[Runs, Runs], values: Sequence[Sequence[float]]
    ) -> tuple[Difference, str]:
        """The difference, and where its noise comes from."""
        name = metric.name
        a, b = values
        if metric.scale == "log":
            a, b = [math.log(value) for value in a], [math.log(value) for value in b]
        environments = [[environment_of(run) for run in side] for side in sides]
        if name in SPEEDS and len({*environments[0], *environments[1]}) > 1:
            return _blocks((a, b), environments), "the runs' own, inside environments"
        if name in self.options.sds:
            known = KnownSd(sd=self.options.sds[name], df=math.inf)
            return difference(a, b, known, stated=True), "stated on the command line"
        row = self._row(name, *sides)
        if row is not None:
            found, noise = difference(a, b, row.known), f"{row.describe()}, {row.runs} runs"
        else:
            found, noise = difference(a, b), engine.OWN_NOISE
        if name in QUALITY and (pairs := pairs_of(*sides)):
            paired = of_pairs(*zip(*((a[i], b[j]) for i, j in pairs), strict=True))
            found = dataclasses.replace(found, paired=paired)
        return found, noise


def _unconfirmed(result: MetricResult) -> MetricResult:
    """A slowdown with its caveat."""
    if result.outcome != "regression" or result.metric not in SPEEDS:
        return result
    note = "unconfirmed: one session; a slowdown counts once a second session shows it"
    return msgspec.structs.replace(result, notes=[*result.notes, note])


def _check_names(options: CompareOptions, a: Runs, b: Runs) -> None:
    """Raises UsageError for metrics that the logs do not have, and for wrong directions."""
    known = {name for run in (*a, *b) for name in run.metrics}
    for option, names in (
        ("--metric", options.metrics),
        ("--margin", options.margins),
        ("--sd", options.sds),
        ("--target", options.targets),
        ("--higher-better", options.higher_better),
        ("--lower-better", options.lower_better),
    ):
        for name in names:
            if name not in known:
                raise errors.UsageError(
                    f"{option} {name}",
                    "a metric that the logs have",
                    repr(name),
                    f"They have: {', '.join(sorted(known))}.",
                )
    for option, names in (("--margin", options.margins), ("--target", options.targets)):
        for name in names:
            if metric_named(name, options.higher_better, options.lower_better).better is None:
                raise errors.UsageError(
                    f"{option} {name}",
                    "a metric whose direction is known",
                    f"{name}, which is not a registered metric",
                    f"Add --higher-better {name} or --lower-better {name}.",
                )
    _check_direction(options, "higher", options.higher_better)
    _check_direction(options, "lower", options.lower_better)


def _check_direction(options: CompareOptions, better: str, names: Sequence[str]) -> None:
    for name in names:
        if name in METRICS and METRICS[name].better != better:
            raise errors.UsageError(
                f"--{better}-better {name}",
                f"{METRICS[name].better}, the registered direction of {name}",
                better,
                "Leave the option out.",
            )
        if name in options.higher_better and name in options.lower_better:
            raise errors.UsageError(
                name, "one direction", "two", "Give --higher-better or --lower-better."
            )


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


def _blocks(
    values: Sequence[Sequence[float]], environments: Sequence[Sequence[Environment]]
) -> Difference:
    """B minus A inside environments: each environment has its own level."""
    numbers = {where: index for index, where in enumerate(dict.fromkeys(environments[0]))}
    fit = fit_blocks(
        np.array([*values[0], *values[1]], dtype=np.float64),
        np.array([numbers[where] for side in environments for where in side], dtype=np.intp),
        np.array([0] * len(values[0]) + [1] * len(values[1]), dtype=np.intp),
    )
    return Difference(contrast=fit.contrast(0), method="blocks", sd=fit.sd, run_sd=fit.sd)


def _target_metrics(options: CompareOptions) -> list[tuple[Metric, float]]:
    return [
        (metric_named(name, options.higher_better, options.lower_better), target)
        for name, target in options.targets.items()
    ]


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
