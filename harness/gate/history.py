"""Gates that were carried out, as files in a store: what confirms a slowdown and what adds up.

    gates/<key>/<number>.json       a GateResult
    gates/<key>/<number>/           the launches' configurations, run directories and logs

A key names what was compared (code, configuration, baseline, rule), so the same command finds what
it said before. After `judge`, before `gate`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from harness import files
from harness.compare.noise_model import MEASURED_DF, NoiseRow
from harness.errors import StoreError
from harness.gate.ab_interleaved import Form
from harness.gate.result import (
    FORMAT,
    SPEED,
    TRAJECTORY,
    GateResult,
    MetricVerdict,
    Subject,
    speed_of,
)
from harness.results.recipe import VarianceSource
from harness.results.record import SESSION_GAP_S
from harness.results.store import Store
from harness.stats.ab_noise import of_launches
from harness.stats.inference import pool

KEY_DIGITS = 12
SOURCES: dict[Form, VarianceSource] = {
    "interleaved": "launch",
    "sequential": "sequential",
}  # of the noise model


def key_of(a: Subject, b: Subject, rule: object) -> str:
    """What was compared, by which rule: margins, error rate, claim."""
    ids = [[side.code_id, side.config_id, side.baseline] for side in (a, b)]
    return files.digest([ids, rule], KEY_DIGITS)


def begin(store: Store, key: str) -> tuple[int, Path]:
    """The number and the folder of a new gate; nobody else gets the same."""
    with store.locked():
        folder = store.root / "gates" / key
        number = 1
        while (folder / str(number)).exists() or (folder / f"{number}.json").exists():
            number += 1
        with files.disk_errors(folder):
            (folder / str(number)).mkdir(parents=True)
    return number, folder / str(number)


def save(store: Store, result: GateResult) -> Path:
    """Writes a finished gate, whole or not at all. Raises DiskError."""
    path = store.root / "gates" / result.key / f"{result.number}.json"
    files.write_bytes(path, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def load(store: Store, key: str = "*") -> list[GateResult]:
    """Every stored gate, or those of a key, oldest first. Raises StoreError."""
    found = []
    for path in (store.root / "gates").glob(f"{key}/*.json"):
        if path.name.startswith("."):
            continue
        try:
            result = msgspec.json.decode(path.read_bytes(), type=GateResult)
        except msgspec.DecodeError as error:
            raise StoreError(
                str(path),
                f"a gate of format {FORMAT}",
                str(error),
                "The file is damaged: move it away; its gate can be made again.",
            ) from error
        found.append(result)
    return sorted(found, key=lambda result: (result.started_at, result.number))


def other_sessions(earlier: Sequence[GateResult], now: GateResult) -> list[GateResult]:
    """Those of another session: another machine or boot, or a gap since the last of them."""
    session_began = now.started_at
    same: list[GateResult] = []
    for result in reversed(earlier):
        here = (result.boot_id, result.environment_id) == (now.boot_id, now.environment_id)
        if here and session_began - result.ended_at <= SESSION_GAP_S:
            session_began = min(session_began, result.started_at)
            same.append(result)
    return [result for result in earlier if not any(result is one for one in same)]


def confirmed(
    verdict: MetricVerdict, now: GateResult, earlier: Sequence[GateResult], once: bool
) -> MetricVerdict:
    """The speed's verdict in the light of what other sessions said of the same comparison.

    A slowdown counts once two sessions have shown it; one that a session showed and the next one
    does not leaves the question open. `once`: the first showing counts, and says that it is one.
    """
    others = other_sessions(earlier, now)
    showed = [result for result in others if _slower(speed_of(result))]
    judged = verdict.judged
    if judged.outcome == "regression":
        if showed:
            by = f"gate {showed[-1].key} number {showed[-1].number}"
            return msgspec.structs.replace(verdict, confirmed_by=by)
        reason = "unconfirmed: one session shows it; the same command in another one settles it"
        outcome = "regression" if once else "inconclusive"
        changed = msgspec.structs.replace(judged, outcome=outcome, reason=reason)
        return msgspec.structs.replace(verdict, judged=changed, unconfirmed=True)
    if judged.outcome == "pass" and others and showed and others[-1] is showed[-1]:
        reason = f"sessions disagree: gate number {showed[-1].number} of this key showed a slowdown"
        changed = msgspec.structs.replace(judged, outcome="inconclusive", reason=reason)
        return msgspec.structs.replace(verdict, judged=changed)
    return verdict


def _slower(verdict: MetricVerdict | None) -> bool:
    return verdict is not None and (verdict.unconfirmed or verdict.outcome == "regression")


def with_small_harms(
    verdict: MetricVerdict, now: GateResult, stored: Sequence[GateResult]
) -> MetricVerdict:
    """The sum of small harms since the last baseline, this one among them.

    A loss is compared with the baseline itself, so its difference is the sum already. Speeds are
    compared between two refs, so there the passes with a small harm are added up, each comparison
    once, in the direction of harm.
    """
    judged = verdict.judged
    own = judged.harm(judged.estimate) if judged.small_harm and judged.estimate else 0.0
    if verdict.evidence == "replicates":
        return msgspec.structs.replace(verdict, small_harms=own) if own else verdict
    if judged.metric != SPEED:
        return verdict
    harms = {}
    for result in stored:
        found = speed_of(result)
        if found is None or result.key == now.key or not _same_line(result, now):
            continue
        harms[result.key] = _small(found)
    total = own + math.fsum(harms.values())
    return msgspec.structs.replace(verdict, small_harms=total) if total else verdict


def _same_line(one: GateResult, other: GateResult) -> bool:
    """Whether two gates belong to one history: the same baseline, or the same configuration."""
    if other.baseline_hash is not None:
        return one.baseline_hash == other.baseline_hash
    return one.baseline_hash is None and one.a.config_id == other.a.config_id


def _small(verdict: MetricVerdict) -> float:
    judged = verdict.judged
    counts = judged.outcome == "pass" and judged.small_harm and judged.estimate is not None
    return judged.harm(judged.estimate or 0.0) if counts else 0.0


def spent(stored: Sequence[GateResult]) -> list[str]:
    """The runs that gates rested on, as `plan_id/attempt`."""
    return [name for result in stored for name in result.candidates]


def taught(others: Iterable[NoiseRow], stored: Sequence[GateResult]) -> list[NoiseRow]:
    """Other rows and all that gates teach the noise model.

    Launches that took turns say more of a speed than runs one after the other.
    """
    found = [*launch_rows(stored), *trajectory_rows(stored)]
    better = {row.key for row in found if row.df >= MEASURED_DF}
    return [*found, *(row for row in others if row.key not in better)]


def launch_rows(stored: Sequence[GateResult]) -> list[NoiseRow]:
    """What the launches of gates teach the noise model: their SD by recipe, device and form."""
    groups: dict[tuple[str, str, VarianceSource], list[tuple[float, int]]] = defaultdict(list)
    for result in stored:
        if len(result.launches) > 1 and result.scale and result.device:
            found = of_launches([one.ratios for one in result.launches])
            source = SOURCES[result.launches[0].form]
            members = groups[result.scale, result.device, source]
            members.append((found.launch_sd, len(result.launches)))
    rows = []
    for (scale, device, source), members in groups.items():
        df = sum(n - 1 for _, n in members)
        rows.append(
            NoiseRow(
                scale=scale,
                metric=SPEED,
                gpu=device,
                source=source,
                sd=math.sqrt(sum((n - 1) * sd**2 for sd, n in members) / df),
                df=df,
                runs=sum(n for _, n in members),
                groups=len(members),
                origin="measured",
                note="launches of gates",
            )
        )
    return rows


def trajectory_rows(stored: Sequence[GateResult]) -> list[NoiseRow]:
    """How far one code parts from itself: the SD of the loss at the last step of a trajectory.

    From gates of one code and configuration against itself, whose launches all begin at one seed.
    """
    groups: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for result in stored:
        alike = (result.a.code_id, result.a.config_id) == (result.b.code_id, result.b.config_id)
        ends = [side[-1] for one in result.launches for side in one.losses if side]
        if alike and len(ends) > 1 and result.scale and result.device:
            groups[result.scale, result.device].append(ends)
    found = []
    for (scale, device), members in groups.items():
        pooled = pool(members)
        found.append(
            NoiseRow(
                scale=scale,
                metric=TRAJECTORY,
                gpu=device,
                source="nondeterminism",
                sd=pooled.sd,
                df=pooled.df,
                runs=sum(map(len, members)),
                groups=len(members),
                origin="measured",
                note="launches of one code against itself",
            )
        )
    return found


def held_bytes(stored: Sequence[GateResult], config_id: str) -> tuple[float, float | None] | None:
    """What a trainer of this configuration held when it was last ready, and its device had."""
    for result in reversed(stored):
        ids = result.a.config_id, result.b.config_id
        held = [
            held
            for launch in result.launches
            for own, held in zip(ids, launch.reserved_memory_bytes, strict=True)
            if own == config_id and held is not None
        ]
        if held:
            return max(held), result.launches[0].device_memory_bytes
    return None


def launch_seconds(
    stored: Sequence[GateResult], config_id: str, form: Form = "interleaved"
) -> float | None:
    """How long a launch of this configuration took on average; None where none was made."""
    times = [
        one.seconds
        for result in stored
        if config_id in (result.a.config_id, result.b.config_id)
        for one in result.launches
        if one.form == form
    ]
    return math.fsum(times) / len(times) if times else None
