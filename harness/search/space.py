"""The search space: ranges, choices, and tricks on or off with parameters of their own.

A `Space` lets Optuna suggest a point and turns it into overrides for the trainer. Parameters have
the dotted paths of their fields as names, tricks `trick:NAME`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from harness.config.search_file import TRICK, DimensionFile, SearchFile
from harness.config.yaml_schema import nearest
from harness.errors import StudyFileError
from harness.files import canonical_json
from harness.results.study_plan import TrickInfo
from harness.runner.trainer import value_at

if TYPE_CHECKING:
    from optuna.trial import Trial

Point = dict[str, Any]  # parameter -> value, as Optuna stores it


class Dimension(msgspec.Struct, frozen=True, kw_only=True):
    """One field. With a `trick` it is searched only when that trick is on, or off (`when`)."""

    path: str
    field: DimensionFile
    trick: str | None = None
    when: bool = True

    def suggest(self, trial: "Trial") -> Any:
        """A value for this field, from the sampler."""
        field = self.field
        if field.floats is not None:
            low, high = field.floats
            return trial.suggest_float(self.path, low, high, step=field.step, log=field.log)
        if field.ints is not None:
            first, last = field.ints
            step = int(field.step or 1)
            return trial.suggest_int(self.path, first, last, step=step, log=field.log)
        return trial.suggest_categorical(self.path, [label(c) for c in field.choices or []])

    def value(self, stored: Any) -> Any:
        """The trainer's value for a value as Optuna stores it."""
        for choice in self.field.choices or []:
            if label(choice) == stored:
                return choice
        return stored

    def ends(self) -> list[Any]:
        """Values that represent the range: its ends and its middle, or every choice."""
        field = self.field
        if field.choices is not None:
            return [label(choice) for choice in field.choices]
        if field.ints is not None:
            low, high = field.ints
            step = int(field.step or 1)
            middle = low + (high - low) // (2 * step) * step
            return sorted({low, middle, low + (high - low) // step * step})
        low_f, high_f = field.floats or [0.0, 0.0]
        mean = math.sqrt(low_f * high_f) if field.log else (low_f + high_f) / 2
        return [low_f, mean, high_f]

    def contains(self, value: Any) -> bool:
        """Whether a configuration's value lies in the range, and on its grid."""
        field = self.field
        if field.choices is not None:
            return label(value) in [label(choice) for choice in field.choices]
        ends: Sequence[float] = field.ints or field.floats or []
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        whole = field.ints is None or float(value).is_integer()
        steps = (value - ends[0]) / field.step if field.step else 0.0
        on_grid = math.isclose(steps, round(steps), abs_tol=1e-9)
        return whole and on_grid and ends[0] <= value <= ends[1]

    def describe(self) -> str:
        """The range as text."""
        field = self.field
        if field.choices is not None:
            return "one of " + ", ".join(str(label(choice)) for choice in field.choices)
        ends: Sequence[float] = field.ints or field.floats or []
        text = f"{ends[0]:g} to {ends[1]:g}"
        text += ", logarithmic" if field.log else ""
        return text + (f", in steps of {field.step:g}" if field.step else "")


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """All dimensions, and for each trick the overrides that switch it on and off."""

    dimensions: list[Dimension]
    switches: dict[str, dict[bool, dict[str, Any]]]  # trick -> on -> overrides beyond the base

    def suggest(self, trial: "Trial") -> Point:
        """One point: the tricks first, then the fields that are active with them."""
        point: Point = {}
        for trick in self.switches:
            point[TRICK + trick] = trial.suggest_categorical(TRICK + trick, [False, True])
        for one in self.active(point):
            point[one.path] = one.suggest(trial)
        return point

    def active(self, point: Mapping[str, Any]) -> list[Dimension]:
        """The dimensions that are active at a point, given its tricks."""
        return [
            one
            for one in self.dimensions
            if one.trick is None or point[TRICK + one.trick] == one.when
        ]

    def overrides(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The overrides of a point: switches first, so that a field can refine one."""
        overrides: dict[str, Any] = {}
        for trick, by_state in self.switches.items():
            overrides |= by_state[bool(point[TRICK + trick])]
        return overrides | {one.path: one.value(point[one.path]) for one in self.active(point)}

    def base_point(self, config: Mapping[str, Any], tricks: Mapping[str, bool]) -> Point | None:
        """The base as a point of the space; None if it lies outside."""
        point: Point = {TRICK + name: bool(tricks.get(name)) for name in self.switches}
        for one in self.active(point):
            value = value_at(config, one.path)
            if not one.contains(value):
                return None
            point[one.path] = label(value) if one.field.choices is not None else value
        return point

    def probes(self, start: Point) -> list[tuple[str, Point]]:
        """(parameter, point) for the ends and middle of each parameter, the others as `start`."""
        found: list[tuple[str, Point]] = []
        for trick in self.switches:
            for state in (False, True):
                found.append((TRICK + trick, self.completed({**start, TRICK + trick: state})))
        for one in self.dimensions:
            around = dict(start) if one.trick is None else {**start, TRICK + one.trick: one.when}
            for value in one.ends():
                found.append((one.path, self.completed({**around, one.path: value})))
        return found

    def completed(self, point: Mapping[str, Any]) -> Point:
        """A point with the middle of every active range that it lacks, and nothing inactive."""
        whole: Point = {TRICK + name: point.get(TRICK + name, False) for name in self.switches}
        for one in self.active(whole):
            whole[one.path] = point.get(one.path, one.ends()[len(one.ends()) // 2])
        return whole

    @property
    def names(self) -> list[str]:
        """Every parameter, tricks first."""
        return [TRICK + name for name in self.switches] + [one.path for one in self.dimensions]


def label(choice: Any) -> Any:
    """A choice as Optuna stores it: scalars unchanged, anything else as its JSON."""
    scalar = choice is None or isinstance(choice, (str, int, float, bool))
    return choice if scalar else canonical_json(choice)


def space_of(
    search: SearchFile, catalogue: Mapping[str, TrickInfo], on: Mapping[str, bool], where: str
) -> Space:
    """The space of a search file. `on`: the base's tricks, which keep their settings when on.

    Raises StudyFileError for a trick that the trainer does not have.
    """
    dimensions = [Dimension(path=path, field=field) for path, field in search.space.items()]
    switches: dict[str, dict[bool, dict[str, Any]]] = {}
    for name, parts in search.tricks.items():
        if name not in catalogue:
            expected = "tricks of the catalogue: " + ", ".join(catalogue)
            hint = nearest(name, catalogue) or "Choose one of these."
            raise StudyFileError(f"{where}: tricks", expected, repr(name), hint)
        entry, is_on = catalogue[name], bool(on.get(name))
        switches[name] = {True: {} if is_on else entry.on, False: entry.off if is_on else {}}
        for when, fields in ((True, parts.on), (False, parts.off)):
            dimensions += [
                Dimension(path=path, field=field, trick=name, when=when)
                for path, field in fields.items()
            ]
    return Space(dimensions=dimensions, switches=switches)
