"""What a full run will reach, from runs of the same recipe at three sizes or more.

val_bpb is fitted over the FLOPs of whole runs: one dial sets size and length together, so the runs
of one recipe stand on a line through sizes and lengths, and any measure along it would do. CORE is
fitted over val_bpb, which moves less from recipe to recipe than CORE over FLOPs does, and inherits
all that is not known of the target's val_bpb. core_soft is fitted likewise and stands beside CORE;
it does not help to forecast it, because nothing has shown yet that it would.

The intervals speak of one run at the target's size: `fit` says what they are made of. Where four
sizes or more are there, the largest is forecast from the others too and shown beside what it was:
the one check that a reader can see before anything is spent.

In the flow: after `proxies`, before `cost`, `band` and the job. Pure.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from harness.compare.noise_model import NoiseModel
from harness.full.laws import BentLine, Law, Mixture, Points, PowerLaw
from harness.full.proxies import LEAST_SIZES, Proxy, Scale, by_size, refuse_repeated, refuse_unlike
from harness.full.scaling_law import Posterior, fit, lack_of_fit
from harness.stats.decision import KnownSd
from harness.stats.inference import pool

LEVEL = 0.9  # of every interval: each end is a one-sided limit at 5 %, as everywhere here
FAR = 100.0  # times the FLOPs of the largest proxy: beyond what has been checked
BPB_NODES = 15  # values of the target's val_bpb that CORE is forecast at
CURVE_POINTS = 17
SOFT_SCATTER = (
    0.002,
    1.0,
)  # of a depth about core_soft's law: it varies about half as much as CORE

MetricName = Literal["val_bpb", "core", "core_soft"]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its interval."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL

    def holds(self, value: float) -> bool:
        """Whether a value lies inside."""
        return self.low <= value <= self.high


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """A law as one metric's sizes left it: what a graph and a reader need.

    `at`, `means`, `residuals` and `runs` are by size, smallest first; `at` and `target_at` are
    FLOPs for val_bpb and a val_bpb for scores. `scatter` and `replicate_sd` are relative to the
    metric for val_bpb. `curve` holds what one run would be, from the first size to the target.
    `held_out`: the largest size from the others, and what its mean was.
    """

    metric: MetricName
    law: str
    coefficients: dict[str, Estimate]
    sizes: list[str]
    runs: list[int]
    at: list[float]
    means: list[float]
    residuals: list[float]
    scatter: Estimate
    replicate_sd: float | None
    replicate_df: float | None  # None: stated, or not known
    replicate_from: str
    lack_of_fit_p: float | None
    target_at: float
    shares: dict[str, float]  # of the variance of the forecast
    curve: list[tuple[float, Estimate]]
    held_out: tuple[Estimate, float] | None


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What the target will reach. `p_core`: P(CORE of one run > `core_target`)."""

    target: Scale
    val_bpb: Estimate
    core: Estimate | None
    core_soft: Estimate | None
    core_target: float | None
    p_core: float | None
    fits: list[Fitted]
    notes: list[str]  # what it rests on and what it does not know, a sentence each


class ForecastNoise(msgspec.Struct, frozen=True, kw_only=True):
    """The SD of one run about the mean of its kind, in the metric's unit, and who says so."""

    sd: float
    df: float
    source: str

    @property
    def known(self) -> KnownSd:
        """What a fit needs of it."""
        return KnownSd(sd=self.sd, df=self.df)


def replicate_noise(
    noise_model: NoiseModel, scale: str | None, gpu: str | None
) -> dict[str, ForecastNoise]:
    """How much runs of one scale differ, by metric, as far as the noise model knows.

    CORE varies alike in every recipe of full scale that has replicates, so where this one has none
    the rows of all are taken together.
    """
    found = {}
    for name in ("val_bpb", "core", "core_soft"):
        rows = (noise_model.find(scale, name, gpu, source) for source in ("seed", "nondeterminism"))
        row = next((row for row in rows if row is not None), None)
        if row is not None:
            source = f"the {row.origin} noise model, {row.scale}, {row.source}"
            found[name] = ForecastNoise(sd=row.sd, df=row.df, source=source)
    others = [row for row in noise_model.rows if row.metric == "core" and row.df > 0]
    if "core" not in found and others:
        df = sum(row.df for row in others)
        sd = math.sqrt(sum(row.df * row.sd**2 for row in others) / df)
        source = f"the noise model's {len(others)} rows of CORE together, of other recipes"
        found["core"] = ForecastNoise(sd=sd, df=df, source=source)
    return found


# --- the forecast ---------------------------------------------------------------------------------


def forecast(
    proxies: Sequence[Proxy],
    target: Scale,
    *,
    recipe: Mapping[str, str] | None = None,
    noise: Mapping[str, ForecastNoise] | None = None,
    core_target: float | None = None,
    text_tokens: int | None = None,
    level: float = LEVEL,
) -> Forecast:
    """The forecast of one run at `target`.

    `recipe`: the target's, compared where both tell. `noise`: SDs of one run at the target's scale
    by metric (`replicate_noise`); a metric that it lacks takes the proxies' own. `text_tokens`: of
    the text that all of them read. Raises ForecastError: fewer than three sizes, several recipes,
    another horizon, text that is read again and again.
    """
    refuse_unlike(proxies, target, recipe)
    if text_tokens is not None:
        refuse_repeated(target, text_tokens)
    sizes = by_size(proxies)
    noise = noise or {}
    bpb = _Metric.of("val_bpb", sizes, noise.get("val_bpb"))
    at_target = bpb.posterior.run([math.log(target.flops)])
    nodes = _nodes(at_target)
    scores = {
        name: _Metric.of(name, having, noise.get(name))
        for name in ("core", "core_soft")
        if len(having := _having(name, sizes)) >= LEAST_SIZES
    }
    found = {name: metric.posterior.run(nodes) for name, metric in scores.items()}
    fits = [bpb.told([math.log(target.flops)], level)]
    fits += [metric.told(nodes, level) for metric in scores.values()]
    core = found.get("core")
    return Forecast(
        target=target,
        val_bpb=estimate(at_target, level),
        core=estimate(core, level) if core else None,
        core_soft=estimate(found["core_soft"], level) if "core_soft" in found else None,
        core_target=core_target,
        p_core=1 - core.below(core_target) if core and core_target is not None else None,
        fits=fits,
        notes=_notes(sizes, target, fits, text_tokens),
    )


def metric_at(
    name: MetricName,
    proxies: Sequence[Proxy],
    target: Scale,
    noise: Mapping[str, ForecastNoise] | None = None,
) -> Mixture:
    """One metric of one run at `target`, whatever else might be said of it."""
    sizes, noise = by_size(proxies), noise or {}
    bpb = _Metric.of("val_bpb", sizes, noise.get("val_bpb"))
    found = bpb.posterior.run([math.log(target.flops)])
    if name == "val_bpb":
        return found
    return _Metric.of(name, _having(name, sizes), noise.get(name)).posterior.run(_nodes(found))


def _nodes(found: Mixture) -> list[float]:
    return [float(node) for node in found.nodes(BPB_NODES)]


def estimate(found: Mixture, level: float = LEVEL) -> Estimate:
    """The median and the interval that leaves equal chances on both sides."""
    tail = (1 - level) / 2
    low, middle, high = (found.quantile(p) for p in (tail, 0.5, 1 - tail))
    return Estimate(estimate=middle, low=low, high=high, level=level)


def _having(name: MetricName, sizes: Sequence[Sequence[Proxy]]) -> list[list[Proxy]]:
    kept = [[proxy for proxy in runs if getattr(proxy, name) is not None] for runs in sizes]
    return [runs for runs in kept if runs]


class _Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric over sizes, and the law that was fitted to it."""

    name: MetricName
    sizes: list[list[Proxy]]
    law: Law
    points: Points
    replicate: KnownSd | None
    replicate_from: str
    posterior: Posterior

    @classmethod
    def of(
        cls, name: MetricName, sizes: list[list[Proxy]], at_target: ForecastNoise | None
    ) -> "_Metric":
        law, points = _law(name, sizes), _points(name, sizes)
        replicate, source = _replicate(name, sizes, at_target, law)
        return cls(
            name=name,
            sizes=sizes,
            law=law,
            points=points,
            replicate=replicate,
            replicate_from=source,
            posterior=fit(law, points, replicate, at_target.known if at_target else None),
        )

    def told(self, target: Sequence[float], level: float) -> Fitted:
        """The fit in numbers; `target`: equally likely places of it."""
        posterior, points = self.posterior, self.points
        middle = float(np.median(target))
        lines = [posterior.line([x]).quantile(0.5) for x in points.x]
        places = np.linspace(points.x[0], middle, CURVE_POINTS)
        return Fitted(
            metric=self.name,
            law=_WORDS[self.name],
            coefficients={
                _SHAPE[self.name]: _between(posterior.shape, level),
                "b": _between(posterior.slope, level),
            },
            sizes=[runs[0].scale.size for runs in self.sizes],
            runs=[len(runs) for runs in self.sizes],
            at=[self._unit(x) for x in points.x],
            means=[float(y) for y in points.y],
            residuals=[float(y - line) for y, line in zip(points.y, lines, strict=True)],
            scatter=_between(posterior.scatter, level),
            replicate_sd=self.replicate.sd if self.replicate else None,
            replicate_df=_finite(self.replicate.df) if self.replicate else None,
            replicate_from=self.replicate_from,
            lack_of_fit_p=lack_of_fit(points, posterior, self.replicate),
            target_at=self._unit(middle),
            shares=posterior.shares(target),
            curve=[(self._unit(x), estimate(posterior.run([x]), level)) for x in places],
            held_out=self._held_out(level),
        )

    def _unit(self, x: float) -> float:
        return math.exp(x) if self.name == "val_bpb" else float(x)

    def _held_out(self, level: float) -> tuple[Estimate, float] | None:
        """The largest size from the others; None where fewer than three would be left."""
        if len(self.sizes) <= LEAST_SIZES:
            return None
        others = _Metric.of(self.name, self.sizes[:-1], None)
        found = others.posterior.run([float(self.points.x[-1])])
        return estimate(found, level), float(self.points.y[-1])


_WORDS: dict[MetricName, str] = {
    "val_bpb": "val_bpb = floor + exp(a + b ln FLOPs)",
    "core": "CORE = a + b (1 - exp(-bend (val_bpb - c))) / bend",
    "core_soft": "core_soft = a + b (1 - exp(-bend (val_bpb - c))) / bend",
}
_SHAPE: dict[MetricName, str] = {"val_bpb": "floor", "core": "bend", "core_soft": "bend"}


def _law(name: MetricName, sizes: Sequence[Sequence[Proxy]]) -> Law:
    if name == "val_bpb":
        return PowerLaw()
    centre = float(np.mean([_mean("val_bpb", runs) for runs in sizes]))
    return (
        BentLine(centre=centre, scatter=SOFT_SCATTER)
        if name == "core_soft"
        else BentLine(centre=centre)
    )


def _points(name: MetricName, sizes: Sequence[Sequence[Proxy]]) -> Points:
    if name == "val_bpb":
        x = [math.log(runs[0].scale.flops) for runs in sizes]
    else:
        x = [_mean("val_bpb", runs) for runs in sizes]
    return Points(
        x=np.array(x),
        y=np.array([_mean(name, runs) for runs in sizes]),
        n=np.array([float(len(runs)) for runs in sizes]),
    )


def _mean(name: MetricName, runs: Sequence[Proxy]) -> float:
    return float(np.mean([getattr(proxy, name) for proxy in runs]))


def _replicate(
    name: MetricName, sizes: Sequence[Sequence[Proxy]], at_target: ForecastNoise | None, law: Law
) -> tuple[KnownSd | None, str]:
    """The SD of one proxy about its size's mean, relative as the scatter is; where it is from."""
    groups = [[float(getattr(proxy, name)) for proxy in runs] for runs in sizes]
    scales = [float(law.scale(np.array(np.mean(group)))) for group in groups]
    pooled = pool([[v / s for v in group] for group, s in zip(groups, scales, strict=True)])
    if pooled.df > 0:
        return KnownSd(sd=pooled.sd, df=pooled.df), "the proxies' own replicates"
    if at_target is not None:
        relative = KnownSd(sd=at_target.sd / min(scales), df=at_target.df)
        return relative, at_target.source
    return None, "not known: one run a size, so the scatter of sizes holds it too"


def _between(quantile: Callable[[float], float], level: float) -> Estimate:
    tail = (1 - level) / 2
    return Estimate(
        estimate=quantile(0.5), low=quantile(tail), high=quantile(1 - tail), level=level
    )


def _finite(df: float) -> float | None:
    return df if math.isfinite(df) else None


# --- what it rests on -----------------------------------------------------------------------------


def _notes(
    sizes: Sequence[Sequence[Proxy]],
    target: Scale,
    fits: Sequence[Fitted],
    text_tokens: int | None,
) -> list[str]:
    runs = sum(map(len, sizes))
    times = target.flops / sizes[-1][0].scale.flops
    names = ", ".join(group[0].scale.size for group in sizes)
    notes = [f"{runs} runs at {names}; the target has {times:.3g} times the FLOPs of the largest"]
    if times > FAR:
        notes.append(
            f"{FAR:g} times is as far as such forecasts have been checked: add a larger proxy"
        )
    if text_tokens is not None and target.tokens > text_tokens:
        readings = target.tokens / text_tokens
        notes.append(f"its text is read {readings:.2f} times, taken here for as good as fresh")
    if len(sizes) == LEAST_SIZES:
        notes.append("three sizes meet any law: the interval is mostly what is known of laws")
    for fitted in fits:
        notes += _notes_of(fitted)
    if not any(fitted.metric == "core" for fitted in fits):
        notes.append(f"no forecast of CORE: fewer than {LEAST_SIZES} sizes have evaluated it")
    return notes


def _notes_of(fitted: Fitted) -> list[str]:
    largest = max(fitted.shares, key=lambda name: fitted.shares[name])
    notes = [f"{fitted.metric}: {fitted.shares[largest]:.0%} of the variance is {largest}"]
    if fitted.replicate_sd is None:
        notes.append(f"{fitted.metric}: noise of a run {fitted.replicate_from}")
    if fitted.lack_of_fit_p is not None and fitted.lack_of_fit_p < 0.05:
        notes.append(
            f"{fitted.metric}: sizes lie off the law by more than seeds do "
            f"(p {fitted.lack_of_fit_p:.2g}), which the interval counts"
        )
    if fitted.held_out is not None:
        found, was = fitted.held_out
        word = "inside" if found.holds(was) else "OUTSIDE"
        notes.append(
            f"{fitted.metric} of {fitted.sizes[-1]} from the smaller sizes: {found.low:.4f} to "
            f"{found.high:.4f}, and it was {was:.4f}: {word}"
        )
    return notes
