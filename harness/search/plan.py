"""A resolved search: the base described by the trainer, the space checked at its ends.

An unknown path, or a range without a valid value, is an error before anything runs. A `SearchPlan`
also turns a point of the space into a configuration. The base's derived values are pinned in it, as
in a study's arm, so that a trial, a study's arm and a manual run share one record.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from harness.config.search_file import SearchFile
from harness.config.yaml_schema import find_base
from harness.errors import StudyFileError, TrainerError
from harness.results.study_plan import TrickInfo
from harness.runner.replicates import Recipe, describe_with_data, recipe_from_description
from harness.runner.replies import Description, Fault, Request
from harness.runner.trainer import NativeTrainer
from harness.search.space import Point, Space, space_of


@dataclass(frozen=True, kw_only=True)
class ResolvedPoint:
    """A point of the space as a configuration; `faults` if the trainer rejects it.

    `overrides` are the point's own. Values pinned from the base are only in the recipe, because at
    another scale the base has other values.
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
    invalid: list[str]  # ends of ranges that the trainer rejects, each with the reason

    @property
    def start(self) -> Point | None:
        """The base as a point of the space; None if it lies outside."""
        return self.space.base_point(self.base.config, self.base.tricks)

    def fingerprint(self) -> dict[str, Any]:
        """What must not change when a search is resumed; budget, sampler and confirmation may.

        `set` is part of the base's identity, which does not depend on paths.
        """
        built = msgspec.to_builtins(self.file)
        parts = ("space", "tricks", "objective", "slope_from", "constraints", "seed", "pin")
        identity = msgspec.structs.asdict(self.base.identity)
        return {part: built[part] for part in parts} | {"base": identity}

    def resolve_point(self, point: Mapping[str, Any]) -> ResolvedPoint:
        """The configuration of a point. Raises TrainerError if the code was edited meanwhile."""
        own = self.space.overrides(point)
        description = self._describe(own)
        pinned = {**own, **self._pins(own, description)}
        if len(pinned) > len(own):
            description = self._describe(pinned)
        if description.errors:
            return ResolvedPoint(overrides=own, recipe=None, faults=description.errors)
        if description.identity is None or description.identity.data_id is None:
            self.trainer.prepare(description.config or {})
            description = self._describe(pinned)
        return ResolvedPoint(overrides=own, recipe=self._recipe(description), faults=[])

    def _describe(self, overrides: Mapping[str, Any]) -> Description:
        sets = {**self.file.set, **overrides}
        return self.trainer.describe([Request(name="trial", base=self.base_file, set=sets)])[0]

    def _pins(self, own: Mapping[str, Any], description: Description) -> dict[str, Any]:
        """Derived values of the base from which this point's would differ, unless it sets them."""
        derived = description.pins or {}
        if self.file.pin == "own" or description.errors:
            return {}
        return {
            path: value
            for path, value in self.pins.items()
            if path in derived and derived[path] != value and path not in own
        }

    def _recipe(self, description: Description) -> Recipe:
        identity = description.identity
        assert identity is not None, f"{description.name} has no identity"
        if identity.code_id != self.base.identity.code_id:
            expected = f"the code this search began with ({self.base.identity.code_id})"
            got = f"other code ({identity.code_id})"
            hint = "Undo the edit and re-run the same command, or rename the search."
            raise TrainerError(str(self.trainer.checkout), expected, got, hint)
        return msgspec.structs.replace(
            self.base,
            config=description.config or {},
            derived=description.derived or {},
            tricks=description.tricks or {},
            identity=identity,
        )


def resolve(
    file: SearchFile, path: Path, trainer: NativeTrainer, *, prepares: bool = True
) -> SearchPlan:
    """Resolves a search file with its trainer.

    `prepares`: prepares the base's data, without which runs have no plan_id. Raises StudyFileError
    and TrainerError.
    """
    base_file = find_base(path, file.base)
    catalogue = trainer.catalogue()
    tricks = {name: msgspec.convert(entry, TrickInfo) for name, entry in catalogue.tricks.items()}
    request = Request(name="base", base=base_file, set=dict(file.set))
    describe = describe_with_data if prepares else NativeTrainer.describe_or_fail
    (description,) = describe(trainer, [request])
    space = space_of(file, tricks, description.tricks or {}, str(path))
    plan = SearchPlan(
        file=file,
        path=path,
        trainer=trainer,
        base_file=base_file,
        base=recipe_from_description(description, catalogue),
        pins=description.pins or {},
        space=space,
        invalid=[],
    )
    return _checked(plan)


def _checked(plan: SearchPlan) -> SearchPlan:
    """Describes the ends of every range at once, and the base at the scale of `confirm.next`.

    Raises StudyFileError for a parameter without a valid value, and for an invalid next scale.
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
    next_scale = {**plan.file.set, **plan.file.confirm.next}
    requests.append(Request(name="confirm.next", base=plan.base_file, set=next_scale))
    *replies, at_next = plan.trainer.describe(requests)
    if plan.file.confirm.best and plan.file.confirm.next and at_next.errors:
        fault = at_next.errors[0]
        expected = f"valid overrides of the base: {fault.path}: {fault.expected}"
        raise StudyFileError(f"{plan.path}: confirm.next", expected, fault.got, fault.hint)
    invalid = []
    for name in plan.space.names:
        of_name = [
            (point, reply)
            for (probe, point), reply in zip(probes, replies, strict=True)
            if probe == name
        ]
        bad = [(point, reply) for point, reply in of_name if reply.errors]
        if len(bad) == len(of_name):
            fault = bad[0][1].errors[0]
            expected = f"values that the trainer accepts: {fault.path}: {fault.expected}"
            got = f"no valid value at the ends or in the middle: {fault.got}"
            raise StudyFileError(f"{plan.path}: {name}", expected, got, fault.hint)
        invalid += [f"{name} = {point[name]}: {reply.errors[0]}" for point, reply in bad]
    return replace(plan, invalid=invalid)
