"""The registry of metrics: one entry for each, and every list of metrics in the harness.

To add a metric, add one entry to `_ENTRIES`: it then appears in comparisons, gates, studies, noise
models, reports and the API. A trainer, or the reader of a log, still has to produce its value.

A metric that has no entry (one that `--regex` reads) has no known direction: `metric_named` gives
it `better=None`, and it is shown with its difference and interval but never judged, until
`--higher-better` or `--lower-better` states its direction.
"""

import math
from collections.abc import Callable, Collection
from typing import Literal

import msgspec

from harness import format

Scale = Literal["difference", "log"]
Direction = Literal["lower", "higher"]
Kind = Literal["quality", "score", "speed", "memory", "time", "other"]

SMALLEST, MOST = 1e-30, 1e30  # size of a measurement that is not 0
SPEEDRUN_LOSS_SD_NATS = 0.0014  # of the GPT-2-small speedrun's final loss, as margins count it


class DefaultMargin(msgspec.Struct, frozen=True, kw_only=True):
    """The margin of a metric where the user gives none; the first that applies is taken.

    `value` is in the unit of the metric, or a fraction for a metric on a log scale;
    `full_scale` replaces it for recipes of full scale. `noise_sds` is in SDs of the noise model,
    because the noise of such a metric depends on the size of the recipe. `gpu_fraction` is a
    fraction of the base's value, in a gate on a GPU only.
    """

    value: float | None = None
    full_scale: float | None = None
    noise_sds: float | None = None
    gpu_fraction: float | None = None


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A measured quantity.

    `better`: which direction is an improvement; None where it is not known. `scale` log: the effect
    is a difference of natural logarithms, printed in percent. `resolution`: an effect smaller than
    this is reported as no effect, however little the metric varies.

    `story`: metrics of one story measure one thing in several ways. Only the first of them that has
    a margin is judged, because several tests of one thing raise the rate of false alarms.
    `fallback_for`: the metric is used only where that one is missing. `compared`: whether
    comparisons, noise models and searches use it. `core`: it is a score of CORE, which is also
    compared example by example. `cold_compile`: only runs with a cold compile cache measure it.
    `decimals`: of a single value as it is printed.
    """

    name: str
    title: str
    unit: str
    kind: Kind
    better: Direction | None
    scale: Scale = "difference"
    resolution: float = 0.0
    margin: DefaultMargin = DefaultMargin()
    story: str = ""
    fallback_for: str = ""
    compared: bool = True
    core: bool = False
    cold_compile: bool = False
    decimals: int = 5

    @property
    def harm(self) -> int:
        """+1 where more is worse, -1 where less is worse, 0 where the direction is unknown."""
        return {"lower": 1, "higher": -1, None: 0}[self.better]

    def resolves(self, estimate: float) -> bool:
        """Whether an effect of this size reaches the metric's resolution."""
        return abs(estimate) >= self.resolution

    def value(self, value: float | None) -> str:
        """A single value: '3.27879', '31,325 MiB', '20,812'."""
        if value is None:
            return format.DASH
        if self.unit == "bytes":
            return format.mebibytes(value)
        return f"{value:,.{self.decimals}f}"

    def change(self, value: float, half_width: float | None = None) -> str:
        """A difference with sign and unit; `half_width` of its interval sets the decimals."""
        if self.scale == "log":
            scaled = None if half_width is None else 100 * half_width
            return format.percent(math.expm1(value), format.decimals(scaled, 1, 2), sign=True)
        if self.unit == "bytes":
            return format.signed(f"{value / 2**20:+,.0f} MiB")
        if self.kind == "time":
            return format.signed(f"{value:+.1f} s")
        return format.signed(f"{value:+.{format.decimals(half_width, 4, 6)}f}")

    def size(self, value: float | None) -> str:
        """A margin or a standard deviation, without sign: '0.002', '0.5 %', '10 MiB'."""
        if value is None:
            return format.DASH
        if self.scale == "log":
            return format.short_percent(math.expm1(value))
        return format.mebibytes(value) if self.unit == "bytes" else f"{value:.3g}"


def _speed(name: str, title: str, unit: str, better: Direction, **more: object) -> Metric:
    """A metric of how fast a trainer trains: compared as a ratio, inside one environment."""
    fields = {"decimals": 2, "margin": DefaultMargin(value=0.005), **more}
    return msgspec.convert(
        {"name": name, "title": title, "unit": unit, "better": better, "kind": "speed"}
        | {"scale": "log", "story": "speed"}
        | fields,
        Metric,
    )


_ENTRIES = (
    Metric(
        name="val_bpb",
        title="validation bits per byte",
        unit="bpb",
        kind="quality",
        better="lower",
        # at proxy scale as many SDs as val_loss has at the scale of the speedrun
        margin=DefaultMargin(full_scale=0.0003, noise_sds=0.002 / SPEEDRUN_LOSS_SD_NATS),
        story="loss",
    ),
    Metric(
        name="val_loss",
        title="validation loss",
        unit="nats/token",
        kind="quality",
        better="lower",
        margin=DefaultMargin(value=0.002),
        story="loss",
    ),
    Metric(name="core", title="CORE", unit="", kind="score", better="higher", core=True),
    Metric(
        name="core_soft",
        title="soft CORE",
        unit="",
        kind="score",
        better="higher",
        margin=DefaultMargin(noise_sds=2.0),
        core=True,
    ),
    _speed("tokens_per_s", "tokens/s", "tokens/s", "higher", decimals=0),
    _speed(
        "tokens_per_s_job",
        "tokens/s over all stages",
        "tokens/s",
        "higher",
        decimals=0,
        margin=DefaultMargin(),
        fallback_for="tokens_per_s",
    ),
    _speed("train_time_s", "training time", "s", "lower"),
    _speed("step_ms", "step time", "ms", "lower"),
    _speed("mfu", "model FLOPs utilization", "", "higher", decimals=4, compared=False),
    Metric(
        name="peak_memory_bytes",
        title="peak memory",
        unit="bytes",
        kind="memory",
        better="lower",
        # An allocator's count often repeats to the byte; a few bytes then lie outside its noise.
        resolution=2**20,
        margin=DefaultMargin(gpu_fraction=0.01),
    ),
    Metric(
        name="compile_s",
        title="compile time",
        unit="s",
        kind="time",
        better="lower",
        decimals=2,
        cold_compile=True,
    ),
    # Of a comparison: a difference in loss at its exchange rate for time, and that in time.
    Metric(
        name="equal_loss_time",
        title="training time at equal loss",
        unit="ln(time)",
        kind="other",
        better="lower",
        scale="log",
        compared=False,
    ),
    *(
        # Parts of a study's time to target; no single run has them.
        Metric(
            name=f"time_{part}",
            title="time to target" if part == "total" else f"time to target, {part}",
            unit="ln(time)",
            kind="other",
            better="lower",
            scale="log",
            compared=False,
        )
        for part in ("quality", "speed", "total")
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ENTRIES}
"""Every metric by name, in the order in which they are shown."""

COMPARED: dict[str, Metric] = {name: one for name, one in METRICS.items() if one.compared}
"""The metrics that runs are compared in."""


def of_kind(*kinds: Kind) -> tuple[str, ...]:
    """The names of the compared metrics of these kinds."""
    return tuple(name for name, metric in COMPARED.items() if metric.kind in kinds)


LOSSES = of_kind("quality")
SCORES = of_kind("score")
QUALITY = of_kind("quality", "score")
SPEEDS = of_kind("speed")
"""Metrics that are compared inside one environment only, as logarithms."""
THROUGHPUTS = tuple(name for name in SPEEDS if METRICS[name].better == "higher")
COSTS = of_kind("memory", "time")
CORE_SCORES = tuple(name for name, metric in COMPARED.items() if metric.core)
ONE_PROCESS = tuple(name for name, metric in METRICS.items() if metric.kind == "speed")
"""Metrics that a run which resumed from a checkpoint does not have: several processes made it."""


def is_measured(name: str, value: float) -> bool:
    """Whether a number can be a measurement: of a size that can be squared and divided by, above
    zero for a loss or bits per byte, and not below for a speed, a time or a memory."""
    sized = value == 0 or SMALLEST <= abs(value) <= MOST  # false for NaN
    kind = METRICS[name].kind if name in METRICS else "other"
    lowest = {"quality": SMALLEST, "speed": 0, "time": 0, "memory": 0}.get(kind, -MOST)
    return sized and value >= lowest


def metric_named(
    name: str, higher_better: Collection[str] = (), lower_better: Collection[str] = ()
) -> Metric:
    """The entry of a metric; one of unknown direction, or of the stated one, without an entry."""
    if name in METRICS:
        return METRICS[name]
    better: Direction | None = None
    if name in higher_better or name in lower_better:
        better = "higher" if name in higher_better else "lower"
    return Metric(name=name, title=name, unit="", kind="other", better=better)


def preferred(names: Collection[str]) -> list[str]:
    """`names` in the order of the registry, without fallbacks for a metric that is among them."""
    known = [name for name in METRICS if name in names and METRICS[name].fallback_for not in names]
    return known + [name for name in names if name not in METRICS]


def duplicates(names: Collection[str], has_margin: Callable[[str], bool]) -> set[str]:
    """The metrics among `names` whose story another one covers: informational, not judged."""
    found: set[str] = set()
    for story in dict.fromkeys(METRICS[name].story for name in names if name in METRICS):
        members = [name for name in METRICS if name in names and METRICS[name].story == story]
        if story:
            judged = next((name for name in members if has_margin(name)), None)
            found |= set(members) - {judged}
    return found
