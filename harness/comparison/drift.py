"""Finds the session since which runs of one configuration are slower or worse.

A gate compares a change with its base; drift that no single change shows (ten small harms, a
driver, an aging machine) appears over weeks. Records of one configuration and one seed form a
series, one value a session, such as a nightly run. Each metric of a series is cut where its level
moved:

    cost of a cut series = sum of squared distances to each segment's mean + penalty * cuts

and the cheapest segmentation is found exactly (PELT, by `ruptures`). The penalty is in units of the
noise, which is estimated from differences of consecutive sessions (their median, so that steps do
not count), and is what the best single cut of pure noise of that length exceeds with probability
ALPHA: it is simulated, with a fixed seed, through the same steps. A single bad session is
winsorized to three SDs of its neighbours first; a level has to last MIN_SESSIONS.

Correlated sessions, as on a machine that warms up over days, raise many more alarms than ALPHA
(`benchmarks/statistics/drift.py`: consecutive sessions correlated by 0.3 over a year, 19 % of
looks); an A/A gate of the same sessions shows whether the machine is the cause. Pure.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from harness.comparison.margins import default_margin, stated_margin
from harness.errors import HarnessError
from harness.format import plural
from harness.metrics import COMPARED, LOSSES, Metric, duplicates
from harness.results.record import Record

Floats = npt.NDArray[np.float64]

ALPHA = 0.001  # one look at one metric: every session looks anew, at several metrics
MIN_SESSIONS = 3  # a shorter level cannot be distinguished from a few bad sessions
LEAST_SESSIONS = 12  # of fewer the noise is hardly known
MAX_SESSIONS = 365  # the newest; older ones differ too much from the present
RECENT_SESSIONS = 14  # a step further back has been seen
POWER = 0.9
INTERVAL_Z = 1.9600  # of .975
SIMULATED, SIMULATED_STEPS = 10_000, 500  # series of noise; of noise with a step
_SEED = 20_250_101
_NORMAL_MAD = 1.4826  # SD of a normal distribution over its median absolute deviation
_WINSORIZED_SDS = 3.0
_WINDOW = 5  # sessions of the running median, the session itself included


class DriftStep(msgspec.Struct, frozen=True, kw_only=True):
    """One move of a level. Sizes are after minus before, of logarithms where the metric's are."""

    session: int  # the first of the new level, counted from 0
    at: float  # when that run started, Unix seconds
    size: float
    low: float  # 95 % interval, given that the level moved there
    high: float
    n: tuple[int, int]  # sessions of the level before and of the new one
    changed: list[str]  # what differs between the records before and after


class MetricDrift(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one series. `missing`: why it was not searched for steps."""

    metric: str
    sessions: int
    noise: float | None = None  # SD of one session
    steps: list[DriftStep] = []
    detectable: float | None = None  # a step before the last week that 9 of 10 looks would see
    margin: float | None = None  # None: shown, never an alarm
    missing: str | None = None


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one configuration and seed, and what was found in them."""

    config_id: str
    seed: int
    trainer: str
    device: str
    sessions: int
    failed: int  # runs that did not complete, over the same time
    since: float
    until: float
    metrics: list[MetricDrift]


def watch(records: Iterable[Record], margins: Mapping[str, float] | None = None) -> list[Series]:
    """Every series among records, the longest first. Raises HarnessError without `ruptures`."""
    together: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda one: one.started_at):
        together[_key(record)].append(record)
    found = [_series(series, margins or {}) for series in together.values()]
    return sorted(found, key=lambda one: -one.sessions)


def alarms(
    found: Iterable[Series], recent: int = RECENT_SESSIONS
) -> list[tuple[MetricDrift, DriftStep]]:
    """Steps of the last `recent` sessions that are worse and whose interval reaches the margin."""
    return [
        (one, step)
        for series in found
        for one in series.metrics
        for step in one.steps
        if one.sessions - step.session <= recent and _alarming(one, step)
    ]


def is_worse(metric: str, step: DriftStep) -> bool:
    """Whether a step goes in the direction of harm."""
    return step.size * COMPARED[metric].harm > 0


def steps_in(values: Sequence[float]) -> list[int]:
    """Where a series of at least LEAST_SESSIONS values moves to another level."""
    winsorized, sd = _winsorized(np.asarray(values, dtype=np.float64))
    if sd == 0.0:
        return []
    detector = _ruptures().KernelCPD(kernel="linear", min_size=MIN_SESSIONS)
    ends = detector.fit((winsorized / sd).reshape(-1, 1)).predict(pen=penalty(len(winsorized)))
    return [int(end) for end in ends[:-1]]


@lru_cache
def penalty(sessions: int) -> float:
    """The least saving of a cut, in squared SDs of a session; noise exceeds it at rate ALPHA."""
    random = np.random.default_rng(_SEED)
    drawn = random.standard_normal((SIMULATED, sessions))
    return float(np.quantile(_best_cut(*_winsorized(drawn)), 1.0 - ALPHA))


@lru_cache
def detectable_sds(sessions: int, lasted: int = 7) -> float:
    """The step, `lasted` sessions before the end, that nine of ten looks detect; simulated."""
    noise = np.random.default_rng(_SEED + 1).standard_normal((SIMULATED_STEPS, sessions))
    low, high = 0.0, 64.0
    while high - low > 0.02:
        size = (low + high) / 2
        stepped = noise + size * (np.arange(sessions) >= sessions - lasted)
        seen = float(np.mean(_best_cut(*_winsorized(stepped)) > penalty(sessions)))
        low, high = (low, size) if seen >= POWER else (size, high)
    return high


def _key(record: Record) -> tuple[Any, ...]:
    """What two sessions must share to be compared; code and environment may differ."""
    identity = record.identity
    gpus = record.environment.get("gpus")
    device = _device(record) if gpus else ""
    recipe = (identity.config_id, identity.data_id, identity.protocol, record.seed)
    return (record.trainer, *recipe, device, record.gpus, record.concurrent_runs)


def _series(records: list[Record], margins: Mapping[str, float]) -> Series:
    done = [one for one in records if one.status == "completed"][-MAX_SESSIONS:]
    since = done[0].started_at if done else records[0].started_at
    names = [name for name in COMPARED if any(one.metrics.get(name) is not None for one in done)]
    limits = {name: _margin(name, margins) for name in names}
    informational = duplicates(names, lambda name: limits[name] is not None)
    return Series(
        config_id=records[0].identity.config_id,
        seed=records[0].seed,
        trainer=records[0].trainer,
        device=_device(records[-1]),
        sessions=len(done),
        failed=sum(one.status != "completed" and one.started_at >= since for one in records),
        since=since,
        until=records[-1].started_at,
        metrics=[
            _metric_drift(COMPARED[name], done, limits[name])
            for name in names
            if name not in informational
        ],
    )


def _metric_drift(metric: Metric, records: list[Record], margin: float | None) -> MetricDrift:
    kept = [one for one in records if _usable(metric, one.metrics.get(metric.name))]
    found = MetricDrift(metric=metric.name, sessions=len(kept), margin=margin)
    if len(kept) < LEAST_SESSIONS:
        missing = f"{plural(len(kept), 'session')}, {LEAST_SESSIONS} are needed"
        return msgspec.structs.replace(found, missing=missing)
    values = np.array([one.metrics[metric.name] for one in kept], dtype=np.float64)
    values = np.log(values) if metric.scale == "log" else values
    winsorized, sd = _winsorized(values)
    cuts = [0, *steps_in(values.tolist()), len(kept)]
    steps = [
        _step(winsorized, float(sd), kept, start, cut, end)
        for start, cut, end in zip(cuts, cuts[1:], cuts[2:], strict=False)
    ]
    detectable = float(sd) * detectable_sds(len(kept))
    return msgspec.structs.replace(found, noise=float(sd), steps=steps, detectable=detectable)


def _step(
    winsorized: Floats, sd: float, kept: list[Record], start: int, cut: int, end: int
) -> DriftStep:
    size = float(winsorized[cut:end].mean() - winsorized[start:cut].mean())
    half = INTERVAL_Z * sd * math.sqrt(1 / (cut - start) + 1 / (end - cut))
    return DriftStep(
        session=cut,
        at=kept[cut].started_at,
        size=size,
        low=size - half,
        high=size + half,
        n=(cut - start, end - cut),
        changed=_changed(kept[cut - 1], kept[cut]),
    )


def _winsorized(values: Floats) -> tuple[Floats, Any]:
    """Series along the last axis with single bad sessions winsorized, and the SD of a session."""
    from scipy.ndimage import median_filter

    moves = np.abs(np.diff(values, axis=-1))
    sd = _NORMAL_MAD * np.median(moves, axis=-1) / math.sqrt(2)
    # where most sessions are equal to the last digit the median is 0, and the mean is used
    sd = np.where(sd > 0, sd, np.sqrt(np.mean(moves**2, axis=-1) / 2))
    around = median_filter(values, size=(*(1,) * (values.ndim - 1), _WINDOW), mode="reflect")
    reach = _WINSORIZED_SDS * sd[..., None]
    return np.clip(values, around - reach, around + reach), sd


def _best_cut(winsorized: Floats, sd: Floats) -> Floats:
    """The saving of the best single cut of each series, in squared SDs."""
    sessions = winsorized.shape[-1]
    sums = np.cumsum(winsorized - winsorized.mean(axis=-1, keepdims=True), axis=-1)
    cut = np.arange(MIN_SESSIONS, sessions - MIN_SESSIONS + 1)
    saved = sums[..., cut - 1] ** 2 * sessions / (cut * (sessions - cut))
    best: Floats = saved.max(axis=-1) / sd**2
    return best


def _alarming(one: MetricDrift, step: DriftStep) -> bool:
    if one.margin is None:
        return False
    harm = [end * COMPARED[one.metric].harm for end in (step.low, step.high)]
    return min(harm) > 0 and max(harm) >= one.margin


def _margin(name: str, given: Mapping[str, float]) -> float | None:
    """As in a comparison; a loss without a default margin raises an alarm at any certain harm."""
    if name in given:
        return stated_margin(name, given[name]).value
    default = default_margin(name, None, False)
    if default is not None:
        return default.value
    return 0.0 if name in LOSSES else None


def _usable(metric: Metric, value: float | None) -> bool:
    return value is not None and math.isfinite(value) and (metric.scale != "log" or value > 0)


def _changed(before: Record, after: Record) -> list[str]:
    """The differences between two records in code, environment and boot."""
    changes = []
    if before.identity.code_id != after.identity.code_id:
        changes.append(f"code {before.identity.code_id[:12]} -> {after.identity.code_id[:12]}")
    names = sorted(set(before.environment) | set(after.environment))
    for name in names:
        old, new = before.environment.get(name), after.environment.get(name)
        plain = all(isinstance(one, str | int | bool | None) for one in (old, new))
        if plain and old != new and name != "environment_id":
            changes.append(f"{name} {old} -> {new}")
    if before.environment_id != after.environment_id:
        changes.append(f"environment {before.environment_id[:12]} -> {after.environment_id[:12]}")
    if before.boot_id != after.boot_id:
        changes.append("the machine was restarted")
    return changes


def _device(record: Record) -> str:
    gpus = record.environment.get("gpus")
    if not isinstance(gpus, list) or not gpus:
        return "CPU"
    first = gpus[0]
    return str(first.get("name", "GPU")) if isinstance(first, dict) else str(first)


def _ruptures() -> Any:
    try:
        import ruptures
    except ImportError:
        raise HarnessError(
            "drift",
            "the package `ruptures`, which finds change points",
            "none",
            "Install it with `pip install 'speedrun-harness[ci]'`.",
        ) from None
    return ruptures
