"""A resolved study: its arms, its runs and its decision rule.

A `ResolvedStudy` is the content of `studies/<name>.json`: the arms with every override, pin and
identity, and the runs in the order in which they are made. harness.study.resolve computes it from
the study file. This file defines it, and computes plan ids and the order inside blocks.
"""

import hashlib
from typing import Any, Literal

import msgspec

from harness.config.field_types import Count, Moment, Name, Positive, Seed
from harness.config.study_file import Decide, Limits
from harness.files import digest
from harness.results.record import Identity

FORMAT = 1
PLAN_ID_DIGITS = 16

Role = Literal["base", "leave_one_out", "add_one_in", "explicit", "horizon", "retune"]


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """A derived value of the base that an arm uses, and the value the arm would derive itself."""

    base: Any
    own: Any


class Retuned(msgspec.Struct, frozen=True, kw_only=True):
    """A setting chosen by a sweep. `tried`: value (as text) -> best mean val_bpb with it."""

    value: Any
    at_edge: bool
    tried: dict[str, float]


class TrickInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a trainer's catalogue; unknown keys are ignored."""

    summary: str = ""
    on: dict[str, Any] = {}
    off: dict[str, Any] = {}
    requires: list[str] = []
    conflicts: list[str] = []
    retune: list[str] = []
    source: str = ""
    people: list[str] | str = ""
    file: str = ""
    lines: int = 0


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration of a study, on one checkout of the code.

    `set`: the study file's settings beyond the base file. `pinned` and `retuned` are added to them.
    """

    name: str
    role: Role
    trick: str | None = None
    horizon: float | None = None
    base: str | None = None
    set: dict[str, Any]
    pinned: dict[str, Pin] = {}
    retuned: dict[str, Retuned] = {}
    untuned: list[str] = []
    ref: str | None = None
    patch: str | None = None
    checkout: str
    config: dict[str, Any]
    derived: dict[str, Any]
    tricks: dict[str, bool]
    identity: Identity


class PlannedRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run to make. `block` is its block's seed; None for horizon and retune runs."""

    plan_id: Name
    arm: str
    seed: Seed
    block: Seed | None = None
    position: Count


class ResolvedStudy(msgspec.Struct, frozen=True, kw_only=True):
    """A study, fixed before it runs. `source`: path of the study file, as given."""

    format: int = FORMAT
    study: Name
    question: str
    trainer: str
    pin: str
    seeds: list[Seed]
    horizons: list[Positive]
    decide: Decide
    limits: Limits
    arms: list[Arm]
    runs: list[PlannedRun]
    tricks: dict[str, TrickInfo]
    settable_fields: dict[str, str]
    command: str
    created_at: Moment
    source: str

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises KeyError."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(name)


def plan_id(identity: Identity, seed: int, ranks: int = 1) -> str:
    """The identifier of a run, known before it is made: equal ids give equal results up to noise.

    The number of ranks is part of it, because it determines the speed and the checkpoint format.
    """
    key = [identity.config_id, identity.code_id, identity.data_id, identity.protocol, seed]
    return digest(key if ranks == 1 else [*key, ranks], PLAN_ID_DIGITS)


def block_order(study: str, seed: int, arms: list[str]) -> list[str]:
    """The arms of one block, shuffled by (study, seed) alone: the same on every machine."""
    return sorted(
        arms, key=lambda arm: hashlib.sha256(f"{study}\0{seed}\0{arm}".encode()).hexdigest()
    )


def differences(old: ResolvedStudy, new: ResolvedStudy) -> list[str]:
    """Why two resolutions are different studies, one phrase each; empty when they are the same.

    Additional seeds and horizons, other limits and the choice of a sweep are no differences.
    """
    result = [
        f"{name} was {getattr(old, name)!r}, is {getattr(new, name)!r}"
        for name in ("trainer", "pin")
        if getattr(old, name) != getattr(new, name)
    ]
    if old.decide != new.decide:
        result.append("decide has changed, and the rule of a study is fixed before it runs")
    before, now = ({arm.name: arm for arm in study.arms if _in_blocks(arm)} for study in (old, new))
    result += [f"arm {name} is missing" for name in before if name not in now]
    result += [f"arm {name} is new" for name in now if name not in before]
    for name in before:
        if name in now:
            result += _arm_differences(before[name], now[name])
    return result


def _in_blocks(arm: Arm) -> bool:
    return arm.role not in ("horizon", "retune")


def _arm_differences(old: Arm, new: Arm) -> list[str]:
    paths = [p for p in {**old.set, **new.set} if _shown(old.set, p) != _shown(new.set, p)]
    if paths:
        return [
            f"arm {old.name} had {path} {_shown(old.set, path)}, has {_shown(new.set, path)}"
            for path in paths
        ]
    tuned = bool(old.retuned or new.retuned)
    return [
        f"arm {old.name} had {field} {before}, has {now}"
        for field in ("config_id", "code_id", "data_id", "protocol")
        if (before := getattr(old.identity, field)) != (now := getattr(new.identity, field))
        and not (tuned and field == "config_id")
        and now is not None  # None: a dry run where the data is not prepared
    ]


def _shown(values: dict[str, Any], path: str) -> str:
    return repr(values[path]) if path in values else "the value of its base file"


def planned_runs(
    study: str, arms: list[Arm], seeds: list[int], sweeps: dict[str, list[int]]
) -> list[PlannedRun]:
    """Every run in order: `sweeps` (arm -> its seeds), then block by block, then horizons."""
    by_name = {arm.name: arm for arm in arms}
    runs: list[PlannedRun] = []

    def plan(name: str, seed: int, block: int | None, position: int) -> None:
        key = plan_id(by_name[name].identity, seed)
        runs.append(PlannedRun(plan_id=key, arm=name, seed=seed, block=block, position=position))

    for position, (name, seed) in enumerate((n, s) for n, on in sweeps.items() for s in on):
        plan(name, seed, None, position)
    in_blocks = [arm.name for arm in arms if _in_blocks(arm)]
    for seed in seeds:
        for position, name in enumerate(block_order(study, seed, in_blocks)):
            plan(name, seed, seed, position)
    horizons = [arm.name for arm in arms if arm.role == "horizon"]
    for position, (seed, name) in enumerate((s, n) for s in seeds for n in horizons):
        plan(name, seed, None, position)
    return runs
