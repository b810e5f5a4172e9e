"""Compares two sides of runs, metric by metric. Takes runs, a rule and a noise model.

Quality is compared over all whole runs of a side. Speed is compared only between runs of one
environment, as far as the logs show it: across environments it is refused, with the field that
differs; where a log does not tell its environment the difference is shown and decides nothing.
What a side lacks counts too: runs of B that diverged are a regression, and runs that broke off
leave the whole inconclusive, because those that went well are not a fair sample.

In the flow: after readers, noise model and margins; before `summary`. Never reads disk, never
prints.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from harness import errors
from harness.compare.comparability import (
    SIDES,
    Place,
    Runs,
    place,
    refuse_foreign,
    refuse_unlike_core,
    remarks,
    same_environment,
    source_of_variance,
    stopped_by_design,
)
from harness.compare.core import PairedCore
from harness.compare.margins import Margin, default_margin, stated_margin
from harness.compare.noise_model import NoiseModel, NoiseRow
from harness.metrics import (
    COMPARED,
    CORE_SCORES,
    SPEEDS,
    Direction,
    Metric,
    Scale,
    duplicates,
    metric_named,
    preferred,
)
from harness.results.logs.run_log import LogError
from harness.stats import power
from harness.stats.decision import Difference, Known, Noise, Outcome, decide, difference
from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast, detectable
from harness.stats.regression import fit_blocks

EXIT_CODES: dict[Outcome, int] = {
    "pass": errors.PASS,
    "inconclusive": errors.INCONCLUSIVE,
    "regression": errors.REGRESSION,
}


DIRECTION_UNKNOWN = (
    "direction unknown: not judged; --higher-better {name} or --lower-better {name} states it"
)
Replicate = Literal["run", "launch"]  # what n counts


class CompareOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line fixes: error rate, margins, stated SDs, metrics, their direction."""

    alpha: float = 0.05
    margins: Mapping[str, float] = {}
    sds: Mapping[str, float] = {}
    metrics: Sequence[str] = ()  # none: all that both sides have
    higher_better: Sequence[str] = ()
    lower_better: Sequence[str] = ()
    also: Sequence[str] = ()  # metrics that were read on request, and are shown whatever they are
    replicate: Replicate = "run"


class MetricResult(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. Differences are B minus A, of natural logarithms where `scale` says so.

    `low` and `high` are the one-sided limits at alpha each; None without degrees of freedom.
    `outcome` is None for a metric that is only shown; `reason` says why there is no verdict.
    """

    metric: str
    title: str
    unit: str
    scale: Scale
    better: Direction | None  # None: the direction is unknown, and the metric is not judged
    n: tuple[int, int]
    means: tuple[float, float]
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    df: float | None = None
    sd: float | None = None
    noise: Noise | Literal["stated"] | None = None
    noise_from: str = ""
    margin: float | None = None
    margin_from: str = ""
    minimum_detectable: float | None = None
    outcome: Outcome | None = None
    small_harm: bool = False
    more_runs: int | None = None  # a side, were the difference seen the truth
    reason: str | None = None
    notes: list[str] = []
    replicate: Replicate = "run"

    @property
    def improved(self) -> bool:
        """Even the worse end of the interval is better than no change."""
        ends = [self.harm(end) for end in (self.low, self.high) if end is not None]
        return bool(ends) and max(ends) < 0 and resolves(self.metric, self.estimate or 0.0)

    def harm(self, value: float) -> float:
        """A difference in the direction that is worse."""
        return {"lower": value, "higher": -value, None: 0.0}[self.better]


def resolves(metric: str, estimate: float) -> bool:
    """Whether a difference is worth a mark; of a metric that nobody knows, any is."""
    return metric not in COMPARED or COMPARED[metric].resolves(estimate)


class ComparedSide(msgspec.Struct, frozen=True, kw_only=True):
    """What a side is made of."""

    name: str
    runs: int
    whole: int
    family: str
    steps: int
    scale: str | None
    gpus: list[str]
    sources: list[str]
    broken: list[str]  # why runs are not whole


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is said of two sides."""

    sides: tuple[ComparedSide, ComparedSide]
    outcome: Outcome
    reason: str
    alpha: float
    metrics: list[MetricResult]
    notes: list[str]
    core: PairedCore | None = None  # the same two sides on the examples of CORE

    @property
    def exit_code(self) -> int:
        """That of the worst metric."""
        return EXIT_CODES[self.outcome]


def compare(a: Runs, b: Runs, asked: CompareOptions, noise_model: NoiseModel) -> Comparison:
    """The comparison of side B with side A. Raises LogError where they may not be compared."""
    refuse_foreign(a, b)
    if not asked.metrics or any(name in CORE_SCORES for name in asked.metrics):
        refuse_unlike_core(a, b)
    a, b = stopped_by_design(a), stopped_by_design(b)
    sides = (_side("A", a), _side("B", b))
    whole = tuple([run for run in side if run.ending is None] for side in (a, b))
    if not whole[0]:
        raise LogError(
            "side A",
            "at least one run that reached its end",
            "; ".join(sides[0].broken[:3]),
            "Without a whole baseline there is nothing to compare with: make it again.",
        )
    metrics = _judgements(whole[0], whole[1], asked, noise_model) if whole[1] else []
    outcome, reason = _overall(metrics, sides, a, b)
    return Comparison(
        sides=sides,
        outcome=outcome,
        reason=reason,
        alpha=asked.alpha,
        metrics=metrics,
        notes=remarks(a, b),
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


def _judgements(
    a: Runs, b: Runs, asked: CompareOptions, noise_model: NoiseModel
) -> list[MetricResult]:
    there = {
        name: None
        for run in a
        for name in run.metrics
        if any(name in other.metrics for other in b)
        and (name in COMPARED or _is_asked(name, asked))
    }
    _refuse_unknown(asked, a, b)
    names = preferred(there)
    if not names:
        raise LogError(
            "metrics",
            "at least one metric that both sides have",
            f"{_names(a)} against {_names(b)}",
            "Read a number that both logs hold, with --regex NAME=PATTERN.",
        )
    told = duplicates(names, lambda name: _margin(name, a, b, asked, noise_model) is not None)
    return [
        _judge(name, a, b, asked, noise_model, shown_only=name in told)
        for name in names
        if not asked.metrics or name in asked.metrics
    ]


def _is_asked(name: str, asked: CompareOptions) -> bool:
    return name in (*asked.metrics, *asked.margins, *asked.also)


def _refuse_unknown(asked: CompareOptions, a: Runs, b: Runs) -> None:
    known = {name for run in (*a, *b) for name in run.metrics}
    for option, names in (
        ("--metric", asked.metrics),
        ("--margin", asked.margins),
        ("--sd", asked.sds),
    ):
        for name in names:
            if name not in known:
                raise errors.UsageError(
                    f"{option} {name}",
                    "a metric that the logs have",
                    f"{name!r}",
                    f"They have: {', '.join(sorted(known))}.",
                )
    for name in asked.margins:
        if metric_named(name, asked.higher_better, asked.lower_better).better is None:
            raise errors.UsageError(
                f"--margin {name}",
                "a metric whose direction is known",
                f"{name}, which is not in the registry of metrics",
                f"Add --higher-better {name} or --lower-better {name}.",
            )
    _refuse_wrong_directions(asked)


def _refuse_wrong_directions(asked: CompareOptions) -> None:
    for better, names in (("higher", asked.higher_better), ("lower", asked.lower_better)):
        for name in names:
            entry = COMPARED.get(name)
            both = name in asked.higher_better and name in asked.lower_better
            if both or (entry is not None and entry.better != better):
                raise errors.UsageError(
                    f"--{better}-better {name}",
                    f"{entry.better} is better for {name}" if entry else "one direction",
                    "both directions" if both else f"{better} is better",
                    "Leave the option out: the direction of registered metrics is known."
                    if entry
                    else "Give one of --higher-better and --lower-better.",
                )


def _names(side: Runs) -> str:
    return ", ".join(sorted({name for run in side for name in run.metrics})) or "none"


def _judge(
    name: str, a: Runs, b: Runs, asked: CompareOptions, noise_model: NoiseModel, *, shown_only: bool
) -> MetricResult:
    metric = metric_named(name, asked.higher_better, asked.lower_better)
    usable, reason, notes = same_environment(name, a, b) if name in SPEEDS else ((a, b), None, [])
    sides = _with_values(metric, usable or (a, b))
    for label, side, whole in zip(SIDES, sides, (a, b), strict=True):
        if len(side) < len(whole):
            notes.append(f"{len(side)} of {len(whole)} runs of {label}")
    margin = _margin(name, a, b, asked, noise_model)
    if shown_only and name not in asked.margins:
        margin = None
    if metric.better is None:
        notes.append(DIRECTION_UNKNOWN.format(name=name))
    if margin is None and metric.margin.noise_sds is not None and not shown_only:
        where = f"{a[0].scale or 'its recipe'}, {name}, {source_of_variance(name, a, b)}"
        notes.append(
            f"no margin: the noise model has no row for {where}; --margin {name}=M sets one"
        )
    empty = _empty(metric, sides, margin, reason, notes, asked.replicate)
    if usable is None:
        return empty
    row = _row(name, sides[0], sides[1], noise_model)
    found, source = _difference(metric, sides, asked, row)
    return _judged(empty, found, source, margin, asked.alpha)


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


def _empty(
    metric: Metric,
    sides: tuple[Runs, Runs],
    margin: Margin | None,
    reason: str | None,
    notes: list[str],
    replicate: Replicate,
) -> MetricResult:
    """All that is known before the difference is taken."""
    a, b = ([run.metrics[metric.name] for run in side] for side in sides)
    return MetricResult(
        metric=metric.name,
        title=metric.title,
        unit=metric.unit,
        scale=metric.scale,
        better=metric.better,
        n=(len(a), len(b)),
        means=(float(np.mean(a)), float(np.mean(b))),
        margin=margin.value if margin else None,
        margin_from=margin.why if margin else "",
        outcome="inconclusive" if margin else None,
        reason=reason,
        notes=notes,
        replicate=replicate,
    )


def _margin(
    name: str, a: Runs, b: Runs, asked: CompareOptions, noise_model: NoiseModel
) -> Margin | None:
    if name in asked.margins:
        return stated_margin(name, asked.margins[name])
    return default_margin(name, _row(name, a, b, noise_model), a[0].full_scale)


def _row(name: str, a: Runs, b: Runs, noise_model: NoiseModel) -> NoiseRow | None:
    """The noise model's row for the baseline, unless the change is known to be of another scale."""
    scales, gpus = {run.scale for run in a}, {run.gpu for run in (*a, *b)}
    if len(scales) > 1 or any(run.scale not in (None, a[0].scale) for run in b):
        return None
    gpu = gpus.pop() if len(gpus) == 1 else None
    return noise_model.find(a[0].scale, name, gpu, source_of_variance(name, a, b))


def _difference(
    metric: Metric, sides: tuple[Runs, Runs], asked: CompareOptions, row: NoiseRow | None
) -> tuple[Difference, str]:
    """The difference and where its noise is from."""
    name = metric.name
    a, b = ([run.metrics[name] for run in side] for side in sides)
    if metric.scale == "log":
        a, b = [math.log(value) for value in a], [math.log(value) for value in b]
    places = [[place(run) for run in side] for side in sides]
    if name in SPEEDS and len({*places[0], *places[1]}) > 1:
        return _blocks((a, b), places), "the runs' own, inside environments"
    if name in asked.sds:
        known = Known(sd=asked.sds[name], df=math.inf)
        return difference(a, b, known), "stated on the command line"
    if row is not None:
        words = f"the {row.origin} noise model, {row.scale}, {row.gpu}, {row.source}"
        return difference(a, b, row.known), f"{words}, {row.runs} runs"
    return difference(a, b), "the runs' own"


def _blocks(values: Sequence[Sequence[float]], places: Sequence[Sequence[Place]]) -> Difference:
    """B minus A inside environments: each environment has its own level."""
    numbers = {where: index for index, where in enumerate(dict.fromkeys(places[0]))}
    fit = fit_blocks(
        np.array([*values[0], *values[1]], dtype=np.float64),
        np.array([numbers[where] for side in places for where in side], dtype=np.intp),
        np.array([0] * len(values[0]) + [1] * len(values[1]), dtype=np.intp),
    )
    return Difference(contrast=fit.contrast(0), noise="pooled", sd=fit.sd)


def _judged(
    empty: MetricResult, found: Difference, source: str, margin: Margin | None, alpha: float
) -> MetricResult:
    contrast, notes = found.contrast, list(empty.notes)
    for side in found.excess_variance:
        notes.append(
            f"side {SIDES[side]} varies more than the noise model's SD allows: Welch's limits"
        )
    if not contrast.df > 0:
        why = _no_noise(empty)
        return msgspec.structs.replace(
            empty, estimate=contrast.estimate, reason=empty.reason or why, notes=notes
        )
    critical = t_quantile(1 - alpha, contrast.df)
    noise = (
        "stated" if source.startswith("stated") and found.noise == "noise_model" else found.noise
    )
    shown = msgspec.structs.replace(
        empty,
        estimate=contrast.estimate,
        low=contrast.estimate - critical * contrast.se,
        high=contrast.estimate + critical * contrast.se,
        df=contrast.df,
        sd=found.sd,
        noise=noise,
        noise_from="the runs' own" if noise == "welch" else source,
        minimum_detectable=detectable(critical, contrast.df, contrast.se, power.BETA),
        notes=notes,
    )
    if margin is None or empty.reason:
        return shown
    harm = Contrast(estimate=empty.harm(contrast.estimate), se=contrast.se, df=contrast.df)
    verdict = decide(harm, margin.value, alpha)
    more = None
    if verdict.outcome == "inconclusive":
        df = contrast.df if noise in ("noise_model", "stated") else None
        more = power.more_runs(harm.estimate, found.sd, margin.value, empty.n, alpha, df=df)
    if verdict.outcome == "regression" and empty.metric in SPEEDS:
        notes.append("unconfirmed: one session; a slowdown counts once a second session shows it")
    return msgspec.structs.replace(
        shown,
        outcome=verdict.outcome,
        small_harm=verdict.small_harm and resolves(empty.metric, contrast.estimate),
        more_runs=more,
    )


def _no_noise(empty: MetricResult) -> str:
    """Why there is no interval."""
    if empty.replicate == "launch":
        return "one launch and no SD to go by: a second one gives an interval"
    n = empty.n
    lone = "one run a side" if max(n) == 1 else f"{n[0]} and {n[1]} runs"
    return f"{lone} and no SD to go by: a second run a side gives an interval, or --sd NAME=SD"


# --- the whole ------------------------------------------------------------------------------------


def _overall(
    metrics: Sequence[MetricResult], sides: tuple[ComparedSide, ComparedSide], a: Runs, b: Runs
) -> tuple[Outcome, str]:
    shares = [sum(run.diverged for run in side) / len(side) for side in (a, b)]
    if shares[1] > shares[0]:
        number = sum(run.diverged for run in b)
        return "regression", f"{number} of {len(b)} runs of B diverged or ran out of memory"
    of = {
        outcome: [judged.title for judged in metrics if judged.outcome == outcome]
        for outcome in EXIT_CODES
    }
    if of["regression"]:
        return "regression", f"worse in {' and '.join(of['regression'])}"
    for side in reversed(sides):
        if side.broken:
            return (
                "inconclusive",
                f"{len(side.broken)} of {side.runs} runs of {side.name} are not whole",
            )
    if of["inconclusive"]:
        return "inconclusive", f"open in {' and '.join(of['inconclusive'])}"
    if of["pass"]:
        return "pass", f"no harm beyond the margin in {' and '.join(of['pass'])}"
    return "inconclusive", "no metric has a margin: give one with --margin NAME=VALUE"
