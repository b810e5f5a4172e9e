"""The search file: its strict schema, and errors that name line, field, what to write instead.

Text in, a `SearchFile` out; first of the files about search. Paths and values of the space belong
to the trainer: whether they exist, and whether a range can be valid, is asked of it in plan.py.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.config.study_file import Limits, limit_ranges
from harness.config.yaml_schema import (
    Strict,
    alpha_range,
    check_name,
    check_ranges,
    check_seeds,
    location,
    nearest,
    read_mapping,
    read_text,
    schema_error,
)
from harness.errors import StudyFileError
from harness.metrics import COMPARED
from harness.stats import Correction

TRICK = "trick:"  # before the name of a trick, where a sampler knows fields by their paths
LN_TIME = "ln_time_to_target"
OBJECTIVES = (*COMPARED, LN_TIME)
SAMPLER = {"name": "TPESampler", "multivariate": True, "group": True}
EXAMPLE = "{float: [0.001, 0.1], log: true}"


class DimensionFile(Strict, frozen=True, kw_only=True):
    """One field to search: a range of reals or of whole numbers, or a list of choices."""

    floats: list[float] | None = msgspec.field(name="float", default=None)
    ints: list[int] | None = msgspec.field(name="int", default=None)
    choices: list[Any] | None = None
    log: bool = False
    step: float | None = None


class TrickFile(Strict, frozen=True, kw_only=True):
    """A trick that is searched on and off, with what is searched only where it is on, or off."""

    on: dict[str, DimensionFile] = msgspec.field(default_factory=dict)
    off: dict[str, DimensionFile] = msgspec.field(default_factory=dict)


class BudgetFile(Strict, frozen=True, kw_only=True):
    """What the trials may take; the first that is used up ends them."""

    trials: int | None = None
    gpu_seconds: float | None = None
    usd: float | None = None


class BoundFile(Strict, frozen=True, kw_only=True):
    """What a trial must keep to be eligible, in the metric's unit."""

    at_most: float | None = None
    at_least: float | None = None


class ConfirmFile(Strict, frozen=True, kw_only=True):
    """The second look: so many of the best, on seeds that the search never saw."""

    best: int = 3
    seeds: list[int] = msgspec.field(default_factory=lambda: [101, 102, 103, 104, 105, 106])
    alpha: float = 0.05  # two-sided, over all candidates together
    correction: Correction = "dunnett"
    next: dict[str, Any] = msgspec.field(default_factory=dict)  # such as dial.depth: 8


class SearchFile(Strict, frozen=True, kw_only=True):
    """A search as its file says it. `base` is a configuration's path, relative to the file."""

    search: str
    base: str
    budget: BudgetFile
    space: dict[str, DimensionFile] = msgspec.field(default_factory=dict)
    tricks: dict[str, TrickFile] = msgspec.field(default_factory=dict)
    objective: str | list[str] = "val_bpb"
    slope_from: str | None = None  # a stored study with horizons: what a loss is worth in time
    question: str = ""
    trainer: str = "native"
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    pin: Literal["derived", "own"] = "derived"
    seed: int = 1  # of every trial
    base_seeds: list[int] = msgspec.field(default_factory=lambda: [1, 2, 3])  # made first
    sampler: str | dict[str, Any] = msgspec.field(default_factory=lambda: dict(SAMPLER))
    pruner: str | dict[str, Any] = "HyperbandPruner"
    constraints: dict[str, BoundFile] = msgspec.field(default_factory=dict)
    confirm: ConfirmFile = ConfirmFile()
    limits: Limits = Limits()

    @property
    def objectives(self) -> list[str]:
        """The metrics that are sought, the first of them first."""
        return [self.objective] if isinstance(self.objective, str) else self.objective

    @property
    def parameters(self) -> list[str]:
        """Everything that is searched, tricks first, as the sampler calls it."""
        return [TRICK + trick for trick in self.tricks] + [p for _, p, _ in dimensions(self)]


_PARTS: dict[str, Any] = {
    "budget": BudgetFile,
    "confirm": ConfirmFile,
    "constraints": BoundFile,
    "limits": Limits,
    "space": DimensionFile,
    "tricks": DimensionFile,
}


def load_search(path: Path) -> SearchFile:
    """Reads and checks a search file. Raises StudyFileError with the line of the fault."""
    text = read_text(path, "a search file", "ablations/searches/fake.yaml")
    return parse_search(text, str(path))


def parse_search(text: str, name: str) -> SearchFile:
    """As `load_search`, from text; `name` stands in its errors."""
    keys = "search, base, budget and space"
    plain, lines = read_mapping(text, name, keys, "ablations/searches/")
    search = _convert(plain, name, lines)
    check(search, lambda path: location(name, lines, path))
    return search


def _convert(plain: dict[str, Any], name: str, lines: Any) -> SearchFile:
    """Parts what stands under a name of the file's own, so that every fault has its full path."""

    def typed(value: Any, kind: Any, path: str) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise schema_error(str(error), name, lines, path, _known_keys) from None

    def each(values: Any, kind: Any, path: str) -> dict[str, Any]:
        entries = typed(values, dict[str, Any], path)
        return {key: typed(value or {}, kind, f"{path}.{key}") for key, value in entries.items()}

    named = {"space": DimensionFile, "constraints": BoundFile}
    inner = {key: each(plain[key], kind, key) for key, kind in named.items() if key in plain}
    if "tricks" in plain:
        inner["tricks"] = {
            trick: TrickFile(
                **{
                    when: each(part, DimensionFile, f"tricks.{trick}.{when}")
                    for when, part in whens.items()
                }
            )
            for trick, whens in _trick_parts(plain["tricks"], typed).items()
        }
    rest = {key: value for key, value in plain.items() if key not in inner}
    search: SearchFile = typed(rest, SearchFile, "")
    return msgspec.structs.replace(search, **inner)


def _trick_parts(
    value: Any, typed: Callable[[Any, Any, str], Any]
) -> dict[str, dict[str, dict[str, Any]]]:
    """trick -> (on, off) -> path -> dimension, the keys checked."""
    tricks = typed(value, dict[str, Any], "tricks")
    for trick, part in tricks.items():
        named = typed({} if part is None else part, dict[str, Any], f"tricks.{trick}")
        typed({key: {} for key in named}, TrickFile, f"tricks.{trick}")
    return {trick: dict(part or {}) for trick, part in tricks.items()}


def _known_keys(path: str) -> list[str]:
    first, *rest = path.split(".")
    kind: type[msgspec.Struct] = _PARTS.get(first, SearchFile)
    if first == "tricks" and len(rest) < 2:
        kind = TrickFile
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def check(search: SearchFile, where: Callable[[str], str]) -> None:
    """What the types cannot say; `where` names the place of a field. Raises StudyFileError."""
    check_name(search.search, where("search"))
    check_seeds(search.base_seeds, where("base_seeds"))
    check_seeds(search.confirm.seeds, where("confirm.seeds"))
    _check_space(search, where)
    _check_objective(search, where)
    _check_budget(search, where)
    best = search.confirm.best
    ranges = [alpha_range("confirm.alpha", search.confirm.alpha), *limit_ranges(search.limits)]
    check_ranges([("confirm.best", best, best >= 0, "of 0 or above"), *ranges], where)
    used = {search.seed, *search.base_seeds}
    if search.confirm.best and (shared := sorted(used & set(search.confirm.seeds))):
        raise StudyFileError(
            where("confirm.seeds"),
            "seeds that the search never sees",
            f"{shared}, which stand under seed or base_seeds too",
            "A choice and its confirmation on the same seeds flatter it: use others.",
        )
    if len(search.base_seeds) < 2 or (search.confirm.best and len(search.confirm.seeds) < 2):
        raise StudyFileError(
            where("base_seeds" if len(search.base_seeds) < 2 else "confirm.seeds"),
            "at least two seeds",
            "one",
            "Without replicates nobody knows the noise: name two or more.",
        )
    for metric, bound in search.constraints.items():
        if (bound.at_most is None) == (bound.at_least is None):
            raise StudyFileError(
                where(f"constraints.{metric}"),
                "at_most or at_least, one of them",
                "both" if bound.at_most is not None else "none",
                "Write such as peak_memory_bytes: {at_most: 6.0e+10}.",
            )


def _check_space(search: SearchFile, where: Callable[[str], str]) -> None:
    if not (search.space or search.tricks):
        raise StudyFileError(
            where("space"),
            "at least one field under space, or one trick under tricks",
            "none",
            f"Write such as space: {{a.field: {EXAMPLE}}}.",
        )
    seen: set[str] = set()
    for place, path, dimension in dimensions(search):
        if path in seen:
            raise StudyFileError(
                where(place),
                "every field once in a search",
                f"{path} a second time",
                "A sampler knows a field by its path: remove one of them.",
            )
        seen.add(path)
        _check_dimension(dimension, where(place))


def dimensions(search: SearchFile) -> list[tuple[str, str, DimensionFile]]:
    """(place in the file, path of the field, what is searched there) of every dimension."""
    found = [(f"space.{path}", path, one) for path, one in search.space.items()]
    for trick, parts in search.tricks.items():
        found += [(f"tricks.{trick}.on.{path}", path, one) for path, one in parts.on.items()]
        found += [(f"tricks.{trick}.off.{path}", path, one) for path, one in parts.off.items()]
    return found


def _check_dimension(one: DimensionFile, where: str) -> None:
    kinds = [part for part in (one.floats, one.ints, one.choices) if part is not None]
    if len(kinds) != 1:
        raise StudyFileError(
            where,
            "float: [low, high], int: [low, high] or choices: [...], one of them",
            "none" if not kinds else f"{len(kinds)} of them",
            f"Write such as {EXAMPLE}.",
        )
    if one.choices is not None:
        if len(one.choices) < 2 or one.log or one.step is not None:
            raise StudyFileError(
                where,
                "two choices or more, without log or step",
                repr(one.choices),
                "A field with one value belongs under `set`.",
            )
        return
    ends = kinds[0]
    if len(ends) != 2 or not ends[0] < ends[1] or not all(map(math.isfinite, ends)):
        raise StudyFileError(
            where, "a lower and a higher end, both finite", repr(ends), f"Write such as {EXAMPLE}."
        )
    if one.log and (ends[0] <= 0 or one.step is not None):
        raise StudyFileError(
            where,
            "a logarithmic range above 0, without step",
            f"{ends}, step {one.step}" if one.step is not None else repr(ends),
            "Raise its lower end, or remove `log: true` or the step.",
        )
    if one.step is not None and not 0 < one.step <= ends[1] - ends[0]:
        raise StudyFileError(
            where,
            f"a step above 0 and within {ends}",
            repr(one.step),
            "Write such a step, or none.",
        )
    if one.ints is not None and one.step is not None and not one.step.is_integer():
        raise StudyFileError(
            where,
            "a whole step of whole numbers",
            repr(one.step),
            "Write such a step, or `float:` in place of `int:`.",
        )


def _check_objective(search: SearchFile, where: Callable[[str], str]) -> None:
    names = search.objectives
    for name in names:
        if name not in OBJECTIVES:
            raise StudyFileError(
                where("objective"),
                "one of " + ", ".join(OBJECTIVES),
                repr(name),
                nearest(name, OBJECTIVES)
                or "A first crossing of a target is no objective: "
                "it is quantised. Name a metric of the whole run.",
            )
    if not names or len(set(names)) < len(names):
        raise StudyFileError(
            where("objective"),
            "an objective, or several, each once",
            repr(search.objective),
            "Write such as objective: val_bpb, or [val_bpb, tokens_per_s].",
        )
    if (LN_TIME in names) != (search.slope_from is not None):
        missing = search.slope_from is None
        raise StudyFileError(
            where("objective" if missing else "slope_from"),
            f"{LN_TIME} and slope_from together",
            "no slope_from" if missing else f"an objective of {names}",
            "slope_from names a stored study with horizons: it measured what a loss "
            "is worth in training time.",
        )


def _check_budget(search: SearchFile, where: Callable[[str], str]) -> None:
    budget = search.budget
    given = [n for n in (budget.trials, budget.gpu_seconds, budget.usd) if n is not None]
    if not given or min(given) <= 0:
        raise StudyFileError(
            where("budget"),
            "trials, gpu_seconds or usd, above 0",
            repr(given) if given else "none",
            "Write such as budget: {trials: 40}.",
        )
    if budget.usd is not None and search.limits.price is None:
        raise StudyFileError(
            where("budget.usd"),
            "a price beside a budget in USD",
            "none",
            "Add limits: {price: USD per GPU-hour}; --price takes its place.",
        )
