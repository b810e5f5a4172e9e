"""A search with its questions answered: the base described, the space tried at its ends.

Asks the trainer, and refuses before anything is spent: an unknown path, a range that can never be
valid. Also turns a point of the space into a configuration, with the base's derived values handed
to it as to any arm, so that a trial, a study's arm and a run by hand are one record. Before noise,
trial and confirm, which all start from a `Plan`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from harness.config.search_file import SearchFile
from harness.config.yaml_schema import nearest
from harness.errors import StudyFileError, TrainerError
from harness.results.record import Identity
from harness.results.study_plan import TrickInfo
from harness.runner.replicates import Recipe, describe_with_data, recipe_from_description
from harness.runner.trainer import Description, Fault, NativeTrainer, Request
from harness.search.space import Point, Space, space_of


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A point of the space as a configuration; `faults` where the trainer refuses it.

    `overrides` is what the point asks for; what the base hands to it is in the recipe alone, since
    at another scale it hands over other values.
    """

    overrides: dict[str, Any]
    recipe: Recipe | None
    faults: list[Fault]


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """One search, resolved."""

    file: SearchFile
    path: Path
    trainer: NativeTrainer
    base_file: str
    base: Recipe
    pins: dict[str, Any]
    space: Space
    refused: list[str]  # ends of ranges that the trainer refuses, in words

    @property
    def start(self) -> Point | None:
        """The base as a point of the space; None where it lies outside."""
        return self.space.base_point(self.base.config, self.base.tricks)

    def fingerprint(self) -> dict[str, Any]:
        """What makes this search the one it is; its budget, sampler and second look may change.

        What it sets is in the identity of the base, where a folder's path has no part.
        """
        built = msgspec.to_builtins(self.file)
        parts = ("space", "tricks", "objective", "slope_from", "constraints", "seed", "pin")
        identity = msgspec.structs.asdict(self.base.identity)
        return {part: built[part] for part in parts} | {"base": identity}

    def candidate(self, point: Mapping[str, Any]) -> Candidate:
        """The configuration of a point. Raises TrainerError where the code was edited meanwhile."""
        chosen = self.space.overrides(point)
        said = self._said(chosen)
        whole = {**chosen, **self._handed(chosen, said)}
        if len(whole) > len(chosen):
            said = self._said(whole)
        if said.errors:
            return Candidate(overrides=chosen, recipe=None, faults=said.errors)
        if said.identity is None or said.identity.data_id is None:
            self.trainer.prepare(said.config or {})
            said = self._said(whole)
        return Candidate(overrides=chosen, recipe=self._recipe(said), faults=[])

    def _said(self, overrides: Mapping[str, Any]) -> Description:
        sets = {**self.file.set, **overrides}
        return self.trainer.describe([Request(name="trial", base=self.base_file, set=sets)])[0]

    def _handed(self, chosen: Mapping[str, Any], said: Description) -> dict[str, Any]:
        """What the base derived and this point would derive otherwise, but for what it sets."""
        own = said.pins or {}
        if self.file.pin == "own" or said.errors:
            return {}
        return {
            path: value
            for path, value in self.pins.items()
            if path in own and own[path] != value and path not in chosen
        }

    def _recipe(self, said: Description) -> Recipe:
        identity = identity_of(said)
        if identity.code_id != self.base.identity.code_id:
            raise TrainerError(
                str(self.trainer.checkout),
                f"the code this search began with ({self.base.identity.code_id})",
                f"other code ({identity.code_id})",
                "Undo the edit and give the same command, or rename the search.",
            )
        return msgspec.structs.replace(
            self.base,
            config=said.config or {},
            derived=said.derived or {},
            tricks=said.tricks or {},
            identity=identity,
        )


def identity_of(said: Description) -> Identity:
    """The identity of a description that has one."""
    assert said.identity is not None, f"{said.name} has no identity"
    return msgspec.convert(msgspec.to_builtins(said.identity), Identity)


def resolve(
    file: SearchFile, path: Path, trainer: NativeTrainer, *, prepares: bool = True
) -> SearchPlan:
    """Answers every question of a search file but what its noise is.

    `prepares`: makes the base's data ready, so that every run has its plan_id. Raises
    StudyFileError and TrainerError.
    """
    base_file = _base_file(file, path)
    found = trainer.catalogue()
    catalogue = {name: msgspec.convert(entry, TrickInfo) for name, entry in found.tricks.items()}
    request = Request(name="base", base=base_file, set=dict(file.set))
    (said,) = (describe_with_data if prepares else NativeTrainer.describe_or_fail)(
        trainer, [request]
    )
    space = space_of(file, catalogue, said.tricks or {}, str(path))
    plan = SearchPlan(
        file=file,
        path=path,
        trainer=trainer,
        base_file=base_file,
        base=recipe_from_description(said, found),
        pins=said.pins or {},
        space=space,
        refused=[],
    )
    return _probed(plan)


def _base_file(file: SearchFile, path: Path) -> str:
    base = (path.parent / file.base).resolve()
    if base.is_file():
        return str(base)
    near = nearest(base.name, [p.name for p in base.parent.glob("*.yaml")])
    raise StudyFileError(
        f"{path}: base",
        "a configuration file, relative to the search file",
        f"no file {base}",
        near or "Name an existing file, such as ../configs/speedrun.yaml.",
    )


def _probed(plan: SearchPlan) -> SearchPlan:
    """Describes the ends of every range at once, and the base at the scale of `confirm.next`.

    A parameter of which none is valid is refused, and so is a scale that is none.
    """
    start = plan.start or plan.space.completed({})
    probes = plan.space.probes(start)
    requests = [
        Request(
            name=name,
            base=plan.base_file,
            set={**plan.file.set, **plan.space.overrides(point)},
        )
        for name, point in probes
    ]
    further = {**plan.file.set, **plan.file.confirm.next}
    requests.append(Request(name="confirm.next", base=plan.base_file, set=further))
    *replies, at_next = plan.trainer.describe(requests)
    if plan.file.confirm.best and plan.file.confirm.next and at_next.errors:
        raise _no_scale(plan, at_next.errors)
    refused = []
    for name in plan.space.names:
        of_name = [
            (point, reply)
            for (probe, point), reply in zip(probes, replies, strict=True)
            if probe == name
        ]
        bad = [(point, reply) for point, reply in of_name if reply.errors]
        if len(bad) == len(of_name):
            raise _never_valid(plan, name, bad[0][1].errors)
        refused += [f"{name} = {point[name]}: {_told(reply.errors)}" for point, reply in bad]
    return replace(plan, refused=refused)


def _never_valid(plan: SearchPlan, name: str, faults: Sequence[Fault]) -> StudyFileError:
    fault = faults[0]
    return StudyFileError(
        f"{plan.path}: {name}",
        f"values that the trainer accepts: {fault.path}: {fault.expected}",
        f"none at the ends or in the middle: {fault.got}",
        fault.hint,
    )


def _no_scale(plan: SearchPlan, faults: Sequence[Fault]) -> StudyFileError:
    fault = faults[0]
    return StudyFileError(
        f"{plan.path}: confirm.next",
        f"overrides of the base: {fault.path}: {fault.expected}",
        fault.got,
        fault.hint,
    )


def _told(faults: Sequence[Fault]) -> str:
    return f"{faults[0].path}: expected {faults[0].expected}; got {faults[0].got}"
