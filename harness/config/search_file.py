"""The search file: its strict schema, with errors that name the line, the field and a hint.

Whether the paths and values of the space are valid is checked with the trainer, when the search is
resolved (`harness.search.plan`).
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.config.field_types import (
    ErrorRate,
    Finite,
    FiniteInt,
    NotNegativeInt,
    Positive,
    PositiveInt,
    Seed,
)
from harness.config.study_file import Limits
from harness.config.yaml_schema import (
    Strict,
    Where,
    check_name,
    check_seeds,
    convert,
    nearest,
    read_mapping,
    read_text,
)
from harness.errors import StudyFileError
from harness.metrics import COMPARED
from harness.stats import Correction

TRICK = "trick:"  # prefix of a trick's parameter name; fields are named by their paths
LN_TIME = "ln_time_to_target"
OBJECTIVES = (*COMPARED, LN_TIME)
SAMPLER = {"name": "TPESampler", "multivariate": True, "group": True}
EXAMPLE = "{float: [0.001, 0.1], log: true}"


class DimensionFile(Strict, frozen=True, kw_only=True):
    """One field to search: a range of floats or integers, or a list of choices."""

    floats: list[Finite] | None = msgspec.field(name="float", default=None)
    ints: list[FiniteInt] | None = msgspec.field(name="int", default=None)
    choices: list[Any] | None = None
    log: bool = False
    step: Positive | None = None


class TrickFile(Strict, frozen=True, kw_only=True):
    """A trick to switch on and off, with the fields searched only when it is on, or off."""

    on: dict[str, DimensionFile] = msgspec.field(default_factory=dict)
    off: dict[str, DimensionFile] = msgspec.field(default_factory=dict)


class BudgetFile(Strict, frozen=True, kw_only=True):
    """What the trials may use; the search ends when the first limit is reached."""

    trials: PositiveInt | None = None
    gpu_seconds: Positive | None = None
    usd: Positive | None = None


class BoundFile(Strict, frozen=True, kw_only=True):
    """A bound that a trial must keep to be eligible, in the metric's unit."""

    at_most: Finite | None = None
    at_least: Finite | None = None


class ConfirmFile(Strict, frozen=True, kw_only=True):
    """Confirmation of the best trials on held-out seeds. `next`: overrides for a second scale."""

    best: NotNegativeInt = 3  # at least 1 in a file, where `confirm: null` stands for none
    seeds: list[Seed] = msgspec.field(default_factory=lambda: [101, 102, 103, 104, 105, 106])
    alpha: ErrorRate = 0.05  # two-sided, for all candidates together
    correction: Correction = "dunnett"
    next: dict[str, Any] = msgspec.field(default_factory=dict)  # such as dial.depth: 8


class SearchFile(Strict, frozen=True, kw_only=True):
    """A search file. `base` is the path of a configuration, relative to the file."""

    search: str
    base: str
    budget: BudgetFile
    space: dict[str, DimensionFile] = msgspec.field(default_factory=dict)
    tricks: dict[str, TrickFile] = msgspec.field(default_factory=dict)
    objective: str | list[str] = "val_bpb"
    slope_from: str | None = None  # a stored study with horizons, for ln_time_to_target
    question: str = ""
    trainer: str = "native"
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    pin: Literal["derived", "own"] = "derived"
    seed: Seed = 1  # of every trial
    base_seeds: list[Seed] = msgspec.field(default_factory=lambda: [1, 2, 3])
    sampler: str | dict[str, Any] = msgspec.field(default_factory=lambda: dict(SAMPLER))
    pruner: str | dict[str, Any] = "HyperbandPruner"
    constraints: dict[str, BoundFile] = msgspec.field(default_factory=dict)
    confirm: ConfirmFile = ConfirmFile()
    limits: Limits = Limits()

    @property
    def objectives(self) -> list[str]:
        """The objectives, the main one first."""
        return [self.objective] if isinstance(self.objective, str) else self.objective

    @property
    def parameters(self) -> list[str]:
        """The names of all parameters, tricks first."""
        return [TRICK + trick for trick in self.tricks] + [p for _, p, _ in dimensions(self)]


def load_search(path: Path) -> SearchFile:
    """Reads and checks a search file. Raises StudyFileError with the line of the error."""
    text = read_text(path, "a search file", "ablations/searches/fake.yaml")
    return parse_search(text, str(path))


def parse_search(text: str, name: str) -> SearchFile:
    """As `load_search`, from text. `name`: the file's name in errors."""
    keys = "search, base, budget and space"
    plain, where = read_mapping(text, name, keys, "ablations/searches/")
    search = _convert(plain, where)
    check(search, where)
    return search


def _convert(plain: dict[str, Any], where: Where) -> SearchFile:
    """Converts entries with user-chosen names one by one, so that errors have their full path."""

    def each(values: Any, kind: Any, path: str) -> dict[str, Any]:
        entries = convert(values, dict[str, Any], where, path)
        return {
            name: convert(value or {}, kind, where, f"{path}.{name}")
            for name, value in entries.items()
        }

    def trick(part: Any, path: str) -> TrickFile:
        whens = convert({} if part is None else part, dict[str, Any], where, path)
        convert({when: {} for when in whens}, TrickFile, where, path)  # the names of its parts
        parts = {when: each(one, DimensionFile, f"{path}.{when}") for when, one in whens.items()}
        return TrickFile(**parts)

    named = {"space": DimensionFile, "constraints": BoundFile}
    inner: dict[str, Any] = {
        key: each(plain[key], kind, key) for key, kind in named.items() if key in plain
    }
    if "tricks" in plain:
        tricks = convert(plain["tricks"], dict[str, Any], where, "tricks")
        inner["tricks"] = {name: trick(part, f"tricks.{name}") for name, part in tricks.items()}
    if "confirm" in plain:
        inner["confirm"] = _confirm(plain["confirm"], where)
    rest = {key: value for key, value in plain.items() if key not in inner}
    search: SearchFile = convert(rest, SearchFile, where)
    return msgspec.structs.replace(search, **inner)


def _confirm(value: Any, where: Where) -> ConfirmFile:
    """The section `confirm`; null for no confirmation. Raises StudyFileError."""
    if value is None:
        return ConfirmFile(best=0)
    found: ConfirmFile = convert(value, ConfirmFile, where, "confirm")
    if found.best == 0:
        expected, hint = "at least one trial to confirm", "Write `confirm: null` for none."
        raise StudyFileError(where("confirm.best"), expected, "0", hint)
    return found


def check(search: SearchFile, where: Where) -> None:
    """Checks values, also those beyond their types. Raises StudyFileError."""
    convert(msgspec.to_builtins(search), SearchFile, where)  # an override may be out of its range
    check_name(search.search, where("search"))
    check_seeds(search.base_seeds, where("base_seeds"))
    check_seeds(search.confirm.seeds, where("confirm.seeds"))
    _check_space(search, where)
    _check_objective(search, where)
    _check_budget(search, where)
    used = {search.seed, *search.base_seeds}
    if search.confirm.best and (shared := sorted(used & set(search.confirm.seeds))):
        expected = "seeds that the search does not use"
        got = f"{shared}, which are also in seed or base_seeds"
        hint = "Use other seeds: confirmation on the search's own seeds is biased."
        raise StudyFileError(where("confirm.seeds"), expected, got, hint)
    if len(search.base_seeds) < 2 or (search.confirm.best and len(search.confirm.seeds) < 2):
        raise StudyFileError(
            where("base_seeds" if len(search.base_seeds) < 2 else "confirm.seeds"),
            "at least two seeds",
            "one",
            "Name two or more: without replicates the noise is unknown.",
        )
    for metric, bound in search.constraints.items():
        if (bound.at_most is None) == (bound.at_least is None):
            expected = "one of at_most and at_least"
            got = "both" if bound.at_most is not None else "none"
            hint = "For example peak_memory_bytes: {at_most: 6.0e+10}."
            raise StudyFileError(where(f"constraints.{metric}"), expected, got, hint)


def _check_space(search: SearchFile, where: Where) -> None:
    if not (search.space or search.tricks):
        expected = "at least one field under space, or one trick under tricks"
        hint = f"For example space: {{a.field: {EXAMPLE}}}."
        raise StudyFileError(where("space"), expected, "none", hint)
    seen: set[str] = set()
    for place, path, dimension in dimensions(search):
        if path in seen:
            expected = "every field once in a search"
            got = f"{path} a second time"
            raise StudyFileError(where(place), expected, got, "Remove one of them.")
        seen.add(path)
        _check_dimension(dimension, where(place))


def dimensions(search: SearchFile) -> list[tuple[str, str, DimensionFile]]:
    """(place in the file, path of the field, dimension) for every dimension."""
    found = [(f"space.{path}", path, one) for path, one in search.space.items()]
    for trick, parts in search.tricks.items():
        found += [(f"tricks.{trick}.on.{path}", path, one) for path, one in parts.on.items()]
        found += [(f"tricks.{trick}.off.{path}", path, one) for path, one in parts.off.items()]
    return found


def _check_dimension(one: DimensionFile, where: str) -> None:
    kinds = [part for part in (one.floats, one.ints, one.choices) if part is not None]
    if len(kinds) != 1:
        expected = "one of float: [low, high], int: [low, high] and choices: [...]"
        got = "none" if not kinds else f"{len(kinds)} of them"
        raise StudyFileError(where, expected, got, f"For example {EXAMPLE}.")
    if one.choices is not None:
        if len(one.choices) < 2 or one.log or one.step is not None:
            expected = "two choices or more, without log or step"
            got = repr(one.choices)
            raise StudyFileError(where, expected, got, "Move a field with a single value to `set`.")
        return
    ends = kinds[0]
    if len(ends) != 2 or not ends[0] < ends[1]:
        expected = "a lower and a higher end"
        raise StudyFileError(where, expected, repr(ends), f"For example {EXAMPLE}.")
    if one.log and (ends[0] <= 0 or one.step is not None):
        got = f"{ends}, step {one.step}" if one.step is not None else repr(ends)
        hint = "Raise its lower end, or remove `log: true` or the step."
        raise StudyFileError(where, "a logarithmic range above 0, without step", got, hint)
    if one.step is not None and not 0 < one.step <= ends[1] - ends[0]:
        expected = f"a step above 0 and within {ends}"
        raise StudyFileError(where, expected, repr(one.step), "Correct the step, or remove it.")
    if one.ints is not None and one.step is not None and not one.step.is_integer():
        hint = "Correct the step, or use `float:` instead of `int:`."
        raise StudyFileError(where, "an integer step for a range of integers", repr(one.step), hint)


def _check_objective(search: SearchFile, where: Where) -> None:
    names = search.objectives
    for name in names:
        if name not in OBJECTIVES:
            raise StudyFileError(
                where("objective"),
                "one of " + ", ".join(OBJECTIVES),
                repr(name),
                nearest(name, OBJECTIVES)
                or "Choose a metric of the whole run. The first crossing of a target is no "
                "objective, because it is quantised by the evaluations.",
            )
    if not names or len(set(names)) < len(names):
        expected = "one objective or several different ones"
        hint = "For example objective: val_bpb, or [val_bpb, tokens_per_s]."
        raise StudyFileError(where("objective"), expected, repr(search.objective), hint)
    if (LN_TIME in names) != (search.slope_from is not None):
        missing = search.slope_from is None
        raise StudyFileError(
            where("objective" if missing else "slope_from"),
            f"{LN_TIME} and slope_from together",
            "no slope_from" if missing else f"an objective of {names}",
            "Set slope_from to a stored study with horizons, which measured how much training time "
            "a loss difference is worth.",
        )


def _check_budget(search: SearchFile, where: Where) -> None:
    budget = search.budget
    given = [n for n in (budget.trials, budget.gpu_seconds, budget.usd) if n is not None]
    if not given:
        expected, hint = "trials, gpu_seconds or usd", "For example budget: {trials: 40}."
        raise StudyFileError(where("budget"), expected, "none", hint)
    if budget.usd is not None and search.limits.price is None:
        hint = "Add limits: {price: USD per GPU-hour}, or pass --price."
        raise StudyFileError(where("budget.usd"), "a price for a budget in USD", "none", hint)
