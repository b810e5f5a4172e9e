"""Gates of earlier sessions: how they are stored, and what they add to the result of a new one.

    gates/<key>/<number>.json       a GateResult
    gates/<key>/<number>/           configurations, run directories and logs of the launches

The key is a hash of what was compared and by which rule, so that a command finds its own earlier
results. A slowdown counts once two sessions have shown it, and small harms within the margin are
added up from gate to gate; `conclude` does both and decides the outcome of the whole gate.
"""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from harness import files
from harness.gate.ab_interleaved import AbMode
from harness.gate.result import (
    SPEED,
    Evidence,
    GateMetric,
    GateOutcome,
    GateResult,
    SideIdentity,
    speed_of,
    worst,
)
from harness.results import stored_file
from harness.results.recipe import VarianceSource
from harness.results.record import SESSION_GAP_S
from harness.results.store import GATES, Store
from harness.stats.decision import Outcome

KEY_DIGITS = 12
NOISE_SOURCES: dict[AbMode, VarianceSource] = {"interleaved": "launch", "sequential": "sequential"}


# --- storage --------------------------------------------------------------------------------------


def key_of(a: SideIdentity, b: SideIdentity, rule: object) -> str:
    """A hash of what was compared and of the rule: claim, error rate, margins."""
    ids = [[side.code_id, side.config_id, side.baseline] for side in (a, b)]
    return files.digest([ids, rule], KEY_DIGITS)


def create(store: Store, key: str) -> tuple[int, Path]:
    """The number and the folder of a new gate; safe with concurrent gates of the same key."""
    with store.locked():
        folder = store.root / GATES / key
        number = 1
        while (folder / str(number)).exists() or (folder / f"{number}.json").exists():
            number += 1
        with files.disk_errors(folder):
            (folder / str(number)).mkdir(parents=True)
    return number, folder / str(number)


def save(store: Store, result: GateResult) -> Path:
    """Writes a finished gate atomically. Raises DiskError."""
    path = store.root / GATES / result.key / f"{result.number}.json"
    files.write_bytes(path, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def load(store: Store) -> list[GateResult]:
    """Every stored gate, oldest first. Raises StoreError."""
    gates = [
        _read(path)
        for path in (store.root / GATES).glob("*/*.json")
        if not path.name.startswith(".")
    ]
    return sorted(gates, key=lambda result: (result.started_at, result.number))


def _read(path: Path) -> GateResult:
    hint = "The file is damaged: move it away and repeat the gate."
    data = stored_file.read(path, "a gate")
    return stored_file.decode(data, GateResult, path, "a gate", if_damaged=hint)


# --- earlier gates --------------------------------------------------------------------------------


def consumed_runs(stored: Sequence[GateResult]) -> list[str]:
    """The runs that gates have used as evidence, as `plan_id/attempt`."""
    return [name for result in stored for name in result.candidate_runs]


def reserved_memory(
    stored: Sequence[GateResult], config_id: str
) -> tuple[float, float | None] | None:
    """Bytes that a trainer of this configuration reserved in its latest launches, and the device's
    memory; None where it was never launched."""
    for result in reversed(stored):
        ids = result.a.config_id, result.b.config_id
        reserved = [
            size
            for launch in result.launches
            for config, size in zip(ids, launch.reserved_memory_bytes, strict=True)
            if config == config_id and size is not None
        ]
        if reserved:
            return max(reserved), result.launches[0].device_memory_bytes
    return None


def launch_seconds(
    stored: Sequence[GateResult], config_id: str, mode: AbMode = "interleaved"
) -> float | None:
    """Mean duration of the launches of this configuration; None where there are none."""
    times = [
        launch.seconds
        for result in stored
        if config_id in (result.a.config_id, result.b.config_id)
        for launch in result.launches
        if launch.mode == mode
    ]
    return math.fsum(times) / len(times) if times else None


def readings(stored: Sequence[GateResult], key: str, evidence: Evidence) -> int:
    """The earlier gates of a key that left a metric of this evidence undecided.

    A slowdown that waits for a second session is not one of them: that session may not pass, and it
    has to show the slowdown at the same error rate.
    """
    undecided = 0
    for gate in stored:
        found = [one for one in gate.metrics if one.evidence == evidence and gate.key == key]
        undecided += any(one.outcome == "inconclusive" and not one.unconfirmed for one in found)
    return undecided


# --- the outcome of a gate ------------------------------------------------------------------------


def conclude(
    bare: GateResult,
    metrics: Sequence[GateMetric],
    stored: Sequence[GateResult],
    *,
    confirm: bool = True,
    aborted: str | None = None,
    stated: Collection[str] = (),
) -> GateResult:
    """`bare` with its metrics and outcome. `stored`: earlier gates.

    `confirm`: a slowdown counts once a second session shows it. `aborted`: why the candidate could
    not be measured to the end, which is a regression. `stated`: the metrics with a margin of the
    user's, without each of which there is no pass.
    """
    metrics = [_with_history(one, bare, stored, confirm) for one in metrics]
    outcome, reason = overall(metrics, aborted, _not_judged(bare, metrics, stated))
    return msgspec.structs.replace(bare, metrics=metrics, outcome=outcome, reason=reason)


def _with_history(
    metric: GateMetric, now: GateResult, stored: Sequence[GateResult], confirm: bool
) -> GateMetric:
    if metric.result.metric == SPEED and metric.evidence == "launches":
        earlier = [gate for gate in stored if gate.key == now.key]
        metric = confirmed(metric, now, earlier, confirm)
    return with_small_harms(metric, now, stored)


def _not_judged(
    bare: GateResult, metrics: Sequence[GateMetric], stated: Collection[str]
) -> list[str]:
    """The planned metrics without an outcome, and those with a margin of the user's."""
    judged = {one.evidence for one in metrics if one.outcome is not None}
    parts = bare.plan.parts if bare.plan else []
    planned = [part.metric for part in parts if part.evidence not in judged]
    named = {one.result.metric for one in metrics if one.outcome is not None}
    return list(dict.fromkeys([*planned, *(name for name in stated if name not in named)]))


def overall(
    metrics: Sequence[GateMetric], aborted: str | None, not_judged: Sequence[str] = ()
) -> tuple[GateOutcome, str]:
    """The worst metric decides. `not_judged`: planned metrics without an outcome, which rule out a
    pass."""
    if aborted is not None:
        return "regression", aborted
    outcome = worst([one.outcome for one in metrics if one.outcome is not None])
    deciding = [one for one in metrics if one.outcome == outcome]
    titles = " and ".join(one.result.title for one in deciding)
    if outcome == "regression":
        mark = " (unconfirmed)" if any(one.unconfirmed for one in deciding) else ""
        return outcome, f"worse in {titles}{mark}"
    if outcome == "inconclusive":
        if not deciding:
            return outcome, "no metric could be judged: none has both a margin and an interval"
        if any(one.unconfirmed for one in deciding):
            return outcome, "unconfirmed slowdown: a second session has to show it too"
        return outcome, f"undecided in {titles}"
    if not_judged:
        return "inconclusive", f"no result for {' and '.join(not_judged)}; no harm in {titles}"
    return outcome, f"no harm beyond the margin in {titles}"


# --- confirmation in a second session -------------------------------------------------------------


def other_sessions(earlier: Sequence[GateResult], now: GateResult) -> list[GateResult]:
    """The earlier gates of other sessions: another machine or boot, or a gap in between."""
    session_start = now.started_at
    same: list[GateResult] = []
    for result in reversed(earlier):
        here = (result.boot_id, result.environment_id) == (now.boot_id, now.environment_id)
        if here and session_start - result.ended_at <= SESSION_GAP_S:
            session_start = min(session_start, result.started_at)
            same.append(result)
    return [result for result in earlier if not any(result is one for one in same)]


def confirmed(
    metric: GateMetric, now: GateResult, earlier: Sequence[GateResult], confirm: bool
) -> GateMetric:
    """The speed result in the light of other sessions of the same comparison.

    A slowdown counts once two sessions have shown it; one that the following gate does not show is
    inconclusive. Without `confirm` the first one counts and is marked unconfirmed.
    """
    others = other_sessions(earlier, now)
    slower = [gate for gate in others if _shows_slowdown(speed_of(gate))]
    if metric.outcome == "regression":
        if slower:
            by = f"gate {slower[-1].key} number {slower[-1].number}"
            return msgspec.structs.replace(metric, confirmed_by=by)
        reason = "unconfirmed: one session shows it; re-run the same command in another session"
        changed = _with_outcome(metric, "inconclusive" if confirm else "regression", reason)
        return msgspec.structs.replace(changed, unconfirmed=True)
    if metric.outcome == "pass" and earlier and _shows_slowdown(speed_of(earlier[-1])):
        number = earlier[-1].number
        reason = f"the gates disagree: gate number {number} of this key showed a slowdown"
        return _with_outcome(metric, "inconclusive", reason)
    return metric


def _with_outcome(metric: GateMetric, outcome: Outcome, reason: str) -> GateMetric:
    result = msgspec.structs.replace(metric.result, outcome=outcome, reason=reason)
    return msgspec.structs.replace(metric, result=result)


def _shows_slowdown(speed: GateMetric | None) -> bool:
    return speed is not None and (speed.unconfirmed or speed.outcome == "regression")


# --- small harms that add up ----------------------------------------------------------------------


def with_small_harms(
    metric: GateMetric, now: GateResult, stored: Sequence[GateResult]
) -> GateMetric:
    """The sum of small harms since the last baseline, including this one.

    A loss is compared with the baseline itself, so its difference already is the sum. Speeds are
    compared between two refs: the small harms of all passes are added, each comparison once.
    """
    own = _small_harm(metric)
    if metric.evidence == "replicates":
        summed = own and now.baseline_hash is not None
        return msgspec.structs.replace(metric, small_harms=own) if summed else metric
    if metric.result.metric != SPEED:
        return metric
    harms = {}
    for gate in stored:
        speed = speed_of(gate)
        if speed is not None and gate.key != now.key and _same_history(gate, now):
            harms[gate.key] = _small_harm(speed) if speed.outcome == "pass" else 0.0
    total = own + math.fsum(harms.values())
    return msgspec.structs.replace(metric, small_harms=total) if total else metric


def _small_harm(metric: GateMetric) -> float:
    result = metric.result
    return result.harm(result.estimate) if result.small_harm and result.estimate else 0.0


def _same_history(one: GateResult, other: GateResult) -> bool:
    """Whether two gates have the same baseline or, without one, the same base configuration."""
    if other.baseline_hash is not None:
        return one.baseline_hash == other.baseline_hash
    return one.baseline_hash is None and one.a.config_id == other.a.config_id
