"""The configurations that a table of tricks compares with its base: one a trick, on or off.

A trick that is on in the base is switched off together with the tricks that require it; one that is
off is switched on with its requirements and without its conflicts, as the catalogue lists them.
What changed along with it (Muon takes its parts with it) is read from the trainer's description and
stated. Steps, batch, device batch and width are the base's, so that a configuration differs in its
trick and in nothing that follows from it by rule.

The cost of a schedule changes over the run, so a trick that divides the run into stages is compared
stage by stage, each held at its first step. Describes configurations; starts no trainer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.config.yaml_schema import nearest
from harness.errors import UsageError
from harness.results.study_plan import TrickInfo
from harness.runner.replies import Description, Request
from harness.runner.trainer import NativeTrainer


class Toggle(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration beside the base, held at one step of its schedule."""

    trick: str
    on_in_base: bool
    also: dict[str, bool] = {}
    """Other tricks whose state came along, and their state in this configuration."""
    at_step: int = 0
    last_step: int | None = None
    """Of the stage it is held in; null: the schedule has one stage."""
    config: dict[str, Any] = {}
    refused: str | None = None
    """Why there is no such configuration."""

    @property
    def name(self) -> str:
        """Unique in a plan."""
        if self.last_step is None:
            return self.trick
        return f"{self.trick}, steps {self.at_step:,} to {self.last_step:,}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The base as its trainer describes it, and what is compared with it."""

    base: Description
    toggles: list[Toggle]


def planned(
    trainer: NativeTrainer, base: Path, overrides: Mapping[str, Any], names: Sequence[str] = ()
) -> Plan:
    """One toggle for each of `names` (none: the whole catalogue), in the catalogue's order.

    Raises UsageError, StudyFileError (a faulty base) and TrainerError.
    """
    request = Request(name="base", base=str(base.resolve()), set=dict(overrides))
    (described,) = trainer.describe_or_fail([request])
    if len(_stages(described)) > 1:
        raise UsageError(
            str(base),
            "a base whose schedule has one stage, so that every step costs the same",
            f"{len(_stages(described))} stages",
            "Switch the schedules of its stages off, such as schedule.batch_stages=null.",
        )
    catalogue = {
        name: msgspec.convert(entry, TrickInfo)
        for name, entry in trainer.catalogue().tricks.items()
    }
    _refuse_unknown(names, catalogue)
    chosen = [name for name in catalogue if not names or name in names]
    switches = [overrides_of(name, catalogue, described.tricks or {}) for name in chosen]
    return Plan(base=described, toggles=_described(trainer, request, described, chosen, switches))


def overrides_of(
    name: str, catalogue: Mapping[str, TrickInfo], on: Mapping[str, bool]
) -> dict[str, Any]:
    """What turns the state `on` of all tricks into one in which trick `name` is the other way."""
    found: dict[str, Any] = {}
    if on[name]:
        for gone in _resting_on(name, catalogue, on):
            found |= catalogue[gone].off
        nothing = [f"{path}." for path, value in found.items() if value is None]
        return {p: v for p, v in found.items() if not any(p.startswith(n) for n in nothing)}
    for needed in _missing(name, catalogue, on):
        for other in _against(needed, catalogue):
            found |= catalogue[other].off if on[other] else {}
        found |= catalogue[needed].on  # last: of a choice by name, this is the one
    return found


def _resting_on(
    name: str, catalogue: Mapping[str, TrickInfo], on: Mapping[str, bool]
) -> dict[str, None]:
    """The tricks that go when `name` goes, what rests on others first, `name` last."""
    found: dict[str, None] = {}
    for other, entry in catalogue.items():
        if on[other] and name in entry.requires:
            found |= _resting_on(other, catalogue, on)
    return {**found, name: None}


def _against(name: str, catalogue: Mapping[str, TrickInfo]) -> list[str]:
    """The tricks that conflict with `name`, by either of the two entries."""
    reverse = [other for other, entry in catalogue.items() if name in entry.conflicts]
    return [*catalogue[name].conflicts, *reverse]


def _missing(
    name: str, catalogue: Mapping[str, TrickInfo], on: Mapping[str, bool]
) -> dict[str, None]:
    """The tricks to switch on for `name`, what is required first, `name` last."""
    found: dict[str, None] = {}
    for needed in catalogue[name].requires:
        if not on[needed]:
            found |= _missing(needed, catalogue, on)
    return {**found, name: None}


def _described(
    trainer: NativeTrainer,
    request: Request,
    base: Description,
    names: Sequence[str],
    switches: Sequence[Mapping[str, Any]],
) -> list[Toggle]:
    """Described twice: the second time with the base's sizes in place of those that differ."""

    def answers(pinned: Sequence[Mapping[str, Any]]) -> list[Description]:
        return trainer.describe(
            [
                Request(name=name, base=request.base, set={**request.set, **pins, **switch})
                for name, switch, pins in zip(names, switches, pinned, strict=True)
            ]
        )

    own = answers([{}] * len(names))
    pins = [_pins(base, each, switch) for each, switch in zip(own, switches, strict=True)]
    return [toggle for each in answers(pins) for toggle in _toggles(base, each)]


def _pins(base: Description, own: Description, switch: Mapping[str, Any]) -> dict[str, Any]:
    derived = own.pins or {}
    return {
        path: value
        for path, value in (base.pins or {}).items()
        if path in derived and derived[path] != value and path not in switch
    }


def _toggles(base: Description, own: Description) -> list[Toggle]:
    """One; or one a stage where there are several."""
    before, after = base.tricks or {}, own.tricks or {}
    on_in_base = before[own.name]
    if own.errors:
        reason = "; ".join(
            f"{fault.path}: expected {fault.expected}; got {fault.got}" for fault in own.errors
        )
        return [Toggle(trick=own.name, on_in_base=on_in_base, refused=reason)]
    changed = {name: on for name, on in after.items() if on != before[name] and name != own.name}
    toggle = Toggle(
        trick=own.name, on_in_base=on_in_base, also=changed, config=dict(own.config or {})
    )
    stages = _stages(own)
    if len(stages) == 1:
        return [toggle]
    return [
        msgspec.structs.replace(
            toggle, at_step=stage["first_step"], last_step=stage["first_step"] + stage["steps"] - 1
        )
        for stage in stages
    ]


def _stages(described: Description) -> list[dict[str, int]]:
    return list((described.derived or {})["stages"])


def _refuse_unknown(names: Sequence[str], catalogue: Mapping[str, TrickInfo]) -> None:
    for name in names:
        if name not in catalogue:
            raise UsageError(
                "--tricks",
                "tricks of the catalogue",
                repr(name),
                nearest(name, catalogue) or "`model.describe --catalogue` names them.",
            )
