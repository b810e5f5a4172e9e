"""Forecasts what a full run will reach, from runs of the same recipe at three sizes or more.

val_bpb is fitted over the training FLOPs of whole runs: one dial sets size and horizon together, so
the runs of one recipe lie on a line through sizes and horizons, and any measure along it would do.
CORE is fitted over val_bpb, because it varies less between recipes that way, and inherits the
uncertainty of the target's val_bpb. core_soft is fitted likewise and reported beside CORE.

Intervals are for one run at the target's size (`scaling_law`). With four sizes or more, the largest
is also forecast from the others and shown beside its measured value: the one check that is possible
before anything is spent. Pure functions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from harness.comparison.noise_model import NoiseModel
from harness.format import percent
from harness.full.proxies import (
    MIN_SIZES,
    Proxy,
    Scale,
    by_size,
    check_comparable,
    check_repetition,
)
from harness.full.scaling_law import (
    NONLINEAR_NAMES,
    Fit,
    Floats,
    Law,
    LossLaw,
    Points,
    Profile,
    Residual,
    ScoreLaw,
    fit,
    lack_of_fit,
)
from harness.stats.decision import KnownSd
from harness.stats.inference import pool

LEVEL = 0.9  # of every interval: each end is a one-sided limit at 5 %, as in all comparisons
FAR = 100.0  # times the FLOPs of the largest proxy: beyond what has been checked
TARGET_SDS = np.linspace(-3, 3, 25)  # normal scores of the target's val_bpb for CORE's forecast
CURVE_POINTS = 17
SOFT_RESIDUAL = Residual(sd=0.003, df=1.0)  # core_soft varies about half as much as CORE

MetricName = Literal["val_bpb", "core", "core_soft"]
SCORES: tuple[MetricName, ...] = ("core", "core_soft")
FORMULAS: dict[type[Law], str] = {
    LossLaw: "{} = E + exp(a + b ln FLOPs)",
    ScoreLaw: "{} = a + b (1 - exp(-g (val_bpb - c))) / g",
}


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its interval."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL

    def contains(self, value: float) -> bool:
        """Whether a value lies inside the interval."""
        return self.low <= value <= self.high


class FittedLaw(msgspec.Struct, frozen=True, kw_only=True):
    """The scaling law of one metric.

    `x`, `means`, `residuals` and `runs` are by size, smallest first; `x` and `target_x` are FLOPs
    for val_bpb, and val_bpb for scores. `residual_sd` and `replicate_sd` are relative to the metric
    for val_bpb. `curve` is the forecast of one run, from the first size to the target. `held_out`
    is the forecast of the largest size from the others, and its measured mean.
    """

    metric: MetricName
    law: str
    coefficients: dict[str, Estimate]
    sizes: list[str]
    runs: list[int]
    x: list[float]
    means: list[float]
    residuals: list[float]
    residual_sd: Estimate
    replicate_sd: float | None
    replicate_df: float | None  # None: stated, or unknown
    replicate_source: str
    lack_of_fit_p: float | None
    target_x: float
    variance_shares: dict[str, float]
    curve: list[tuple[float, Estimate]]
    held_out: tuple[Estimate, float] | None


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What one run at the target reaches. `p_core`: P(CORE > `core_target`)."""

    target: Scale
    val_bpb: Estimate
    core: Estimate | None
    core_soft: Estimate | None
    core_target: float | None
    p_core: float | None
    fits: list[FittedLaw]
    notes: list[str]  # what it is based on and what is unknown, one sentence each


class ForecastNoise(msgspec.Struct, frozen=True, kw_only=True):
    """SD of one run about the mean of its scale, in the metric's unit, and its source."""

    sd: float
    df: float
    source: str


def replicate_noise(
    noise_model: NoiseModel, scale: str | None, gpu: str | None
) -> dict[str, ForecastNoise]:
    """Noise of one run at a scale, by metric, as far as the noise model has it.

    CORE varies alike in every full-scale recipe with replicates, so where this recipe has none, the
    rows of all recipes are pooled.
    """
    result: dict[str, ForecastNoise] = {}
    for name in ("val_bpb", *SCORES):
        rows = (noise_model.find(scale, name, gpu, source) for source in ("seed", "nondeterminism"))
        row = next((row for row in rows if row is not None), None)
        if row is not None:
            source = f"the {row.origin} noise model, {row.scale}, {row.source}"
            result[name] = ForecastNoise(sd=row.sd, df=row.known.df, source=source)
    others = [row for row in noise_model.rows if row.metric == "core" and row.df > 0]
    if "core" not in result and others:
        df = sum(row.df for row in others)
        sd = math.sqrt(sum(row.df * row.sd**2 for row in others) / df)
        source = f"{len(others)} CORE rows of other recipes in the noise model, pooled"
        result["core"] = ForecastNoise(sd=sd, df=df, source=source)
    return result


# --- the forecast ---------------------------------------------------------------------------------


def forecast(
    proxies: Sequence[Proxy],
    target: Scale,
    *,
    recipe: Mapping[str, str] | None = None,
    noise: Mapping[str, ForecastNoise] | None = None,
    core_target: float | None = None,
    text_tokens: int | None = None,
) -> Forecast:
    """Forecasts one run at `target`.

    `recipe`: the target's, compared in the fields that both have. `noise`: SDs of one run at the
    target's scale by metric (`replicate_noise`); other metrics use the proxies' own replicates.
    `text_tokens`: size of the training text that all runs share. Raises ForecastError: fewer than
    three sizes, several recipes, another horizon, text that is read more than twice.
    """
    check_comparable(proxies, target, recipe)
    if text_tokens is not None:
        check_repetition(target, text_tokens)
    metrics = _fit_metrics(proxies, noise or {})
    x = math.log(target.flops)
    bpb = metrics["val_bpb"].run([x])
    candidates = _candidates(bpb)
    runs = {name: metrics[name].run(*candidates) for name in SCORES if name in metrics}
    core = runs.get("core")
    fits = [
        metric.summary([x], None) if name == "val_bpb" else metric.summary(*candidates)
        for name, metric in metrics.items()
    ]
    return Forecast(
        target=target,
        val_bpb=estimate(bpb),
        core=estimate(core) if core else None,
        core_soft=estimate(runs["core_soft"]) if "core_soft" in runs else None,
        core_target=core_target,
        p_core=1 - core.below(core_target) if core and core_target is not None else None,
        fits=fits,
        notes=_notes(by_size(proxies), target, fits, text_tokens),
    )


def forecast_metric(name: MetricName, proxies: Sequence[Proxy], target: Scale) -> Profile:
    """The distribution of one metric of one run at `target`, without any check."""
    metrics = _fit_metrics(proxies, {})
    bpb = metrics["val_bpb"].run([math.log(target.flops)])
    return bpb if name == "val_bpb" else metrics[name].run(*_candidates(bpb))


def estimate(profile: Profile, level: float = LEVEL) -> Estimate:
    """The best fit, with an interval that has equal tails."""
    return _interval(profile.quantile, level)


def _interval(quantile: Callable[[float], float], level: float = LEVEL) -> Estimate:
    tail = (1 - level) / 2
    low, middle, high = (quantile(p) for p in (tail, 0.5, 1 - tail))
    return Estimate(estimate=min(max(middle, low), high), low=low, high=high, level=level)


def _candidates(bpb: Profile) -> tuple[list[float], Floats]:
    """Values of the target's val_bpb, and the deviance of each."""
    from scipy import special

    return [bpb.quantile(float(p)) for p in special.ndtr(TARGET_SDS)], TARGET_SDS**2


def _fit_metrics(
    proxies: Sequence[Proxy], noise: Mapping[str, ForecastNoise]
) -> dict[MetricName, "_Metric"]:
    """val_bpb, and the scores that at least three sizes have evaluated."""
    sizes = by_size(proxies)
    result: dict[MetricName, _Metric] = {"val_bpb": _Metric("val_bpb", sizes, noise.get("val_bpb"))}
    for name in SCORES:
        evaluated = [[p for p in runs if getattr(p, name) is not None] for runs in sizes]
        evaluated = [runs for runs in evaluated if runs]
        if len(evaluated) >= MIN_SIZES:
            result[name] = _Metric(name, evaluated, noise.get(name))
    return result


class _Metric:
    """One metric over sizes, and its fitted law."""

    def __init__(
        self, name: MetricName, sizes: list[list[Proxy]], at_target: ForecastNoise | None
    ) -> None:
        self.name, self.sizes = name, sizes
        bpb = [_mean("val_bpb", runs) for runs in sizes]
        x = [math.log(runs[0].scale.flops) for runs in sizes] if name == "val_bpb" else bpb
        self.points = Points(
            x=np.array(x),
            y=np.array([_mean(name, runs) for runs in sizes]),
            n=np.array([float(len(runs)) for runs in sizes]),
        )
        law = _law(name, float(np.mean(bpb)))
        self.replicate, self.replicate_source = _replicate(name, sizes, at_target, law)
        known = KnownSd(sd=at_target.sd, df=at_target.df) if at_target else None
        self.fit: Fit = fit(law, self.points, self.replicate, known)
        self.run = self.fit.run

    def summary(self, target: Sequence[float], deviance: Floats | None) -> FittedLaw:
        """The fit in numbers; `target`: candidates for the target's x, with their deviance."""
        fitted, points, law = self.fit, self.points, self.fit.law
        middle = target[len(target) // 2]
        along = np.linspace(points.x[0], middle, CURVE_POINTS)
        df = self.replicate.df if self.replicate else math.inf
        return FittedLaw(
            metric=self.name,
            law=FORMULAS[type(law)].format(self.name),
            coefficients={
                NONLINEAR_NAMES[type(law)]: _interval(fitted.nonlinear),
                "b": _interval(fitted.slope),
            },
            sizes=[runs[0].scale.size for runs in self.sizes],
            runs=[len(runs) for runs in self.sizes],
            x=[self._x(x) for x in points.x],
            means=[float(y) for y in points.y],
            residuals=[float(off) for off in points.y - fitted.line(points.x)],
            residual_sd=_interval(fitted.residual_sd),
            replicate_sd=self.replicate.sd if self.replicate else None,
            replicate_df=df if math.isfinite(df) else None,
            replicate_source=self.replicate_source,
            lack_of_fit_p=lack_of_fit(points, fitted, self.replicate),
            target_x=self._x(middle),
            variance_shares=fitted.shares(target, deviance),
            curve=[(self._x(x), estimate(self.run([x]))) for x in along],
            held_out=self._held_out(),
        )

    def _x(self, x: float) -> float:
        return math.exp(x) if self.name == "val_bpb" else float(x)

    def _held_out(self) -> tuple[Estimate, float] | None:
        """The largest size from the others; None where fewer than three would be left."""
        if len(self.sizes) <= MIN_SIZES:
            return None
        others = _Metric(self.name, self.sizes[:-1], None)
        expected = estimate(others.run([float(self.points.x[-1])]))
        return expected, float(self.points.y[-1])


def _law(name: MetricName, centre: float) -> Law:
    if name == "val_bpb":
        return LossLaw()
    if name == "core_soft":
        return ScoreLaw(centre=centre, residual=SOFT_RESIDUAL)
    return ScoreLaw(centre=centre)


def _mean(name: MetricName, runs: Sequence[Proxy]) -> float:
    return float(np.mean([getattr(proxy, name) for proxy in runs]))


def _replicate(
    name: MetricName, sizes: Sequence[Sequence[Proxy]], at_target: ForecastNoise | None, law: Law
) -> tuple[KnownSd | None, str]:
    """SD of one proxy about its size's mean, relative as the residual SD is, and its source."""
    groups = [[float(getattr(proxy, name)) for proxy in runs] for runs in sizes]
    scales = [float(law.scale(np.array(np.mean(group)))) for group in groups]
    pooled = pool([[v / s for v in group] for group, s in zip(groups, scales, strict=True)])
    if pooled.df > 0:
        return KnownSd(sd=pooled.sd, df=pooled.df), "the proxies' own replicates"
    if at_target is not None:
        relative = KnownSd(sd=at_target.sd / min(scales), df=at_target.df)
        return relative, at_target.source
    return None, "unknown: one run per size, so the residual SD includes it"


# --- what it is based on --------------------------------------------------------------------------


def _notes(
    sizes: Sequence[Sequence[Proxy]],
    target: Scale,
    fits: Sequence[FittedLaw],
    text_tokens: int | None,
) -> list[str]:
    runs = sum(map(len, sizes))
    times = target.flops / sizes[-1][0].scale.flops
    names = ", ".join(group[0].scale.size for group in sizes)
    notes = [f"{runs} runs at {names}; the target has {times:.3g} times the FLOPs of the largest"]
    if times > FAR:
        notes.append(
            f"such forecasts have been checked up to {FAR:g} times the FLOPs: add a larger proxy"
        )
    if text_tokens is not None and target.tokens > text_tokens:
        readings = target.tokens / text_tokens
        notes.append(f"the text is read {readings:.2f} times; the forecast treats it as fresh text")
    if len(sizes) == MIN_SIZES:
        notes.append("three sizes fit any law: the interval depends mostly on published laws")
    for fitted in fits:
        notes += _metric_notes(fitted)
    if not any(fitted.metric == "core" for fitted in fits):
        notes.append(f"no forecast of CORE: it needs at least {MIN_SIZES} sizes with CORE")
    return notes


def _metric_notes(fitted: FittedLaw) -> list[str]:
    shares = fitted.variance_shares
    largest = max(shares, key=lambda name: shares[name])
    notes = [f"{fitted.metric}: {percent(shares[largest], 0)} of the variance is from: {largest}"]
    if fitted.replicate_sd is None:
        notes.append(f"{fitted.metric}: run-to-run noise {fitted.replicate_source}")
    if fitted.lack_of_fit_p is not None and fitted.lack_of_fit_p < 0.05:
        notes.append(
            f"{fitted.metric}: sizes deviate from the law by more than seeds do "
            f"(p {fitted.lack_of_fit_p:.2g}); the interval includes this"
        )
    if fitted.held_out is not None:
        expected, measured = fitted.held_out
        where = "inside" if expected.contains(measured) else "OUTSIDE"
        notes.append(
            f"{fitted.metric} of {fitted.sizes[-1]} forecast from the smaller sizes: "
            f"{expected.low:.4f} to {expected.high:.4f}; measured {measured:.4f}: {where}"
        )
    return notes
