"""The study file: its strict schema, and errors that name line, field, what to write instead.

A study file is YAML 1.2, so `off` stays a string for the trainer to refuse. What stands under
`set` and in a trick's values belongs to the trainer and passes through unread. First real file of
the flow: text in, a `StudyFile` out; what it means is decided in resolve.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.config.yaml_schema import (
    Range,
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
from harness.stats import Correction

DEFAULT_HORIZONS = [0.71, 1.0, 1.41]  # a factor of two in tokens, even on a logarithmic scale
_EXPANDED = ("leave_one_out", "add_one_in", "retune")


class Decide(Strict, frozen=True, kw_only=True):
    """The rule of a study, fixed before it runs."""

    alpha: float = 0.05  # two-sided error rate of the intervals
    margin: dict[str, float] = {}  # metric -> smallest change that matters, in its unit
    correction: Correction = "dunnett"  # correction for many comparisons with one base


class Limits(Strict, frozen=True, kw_only=True):
    """Where a study stops."""

    run_minutes: float = 60.0  # one run is ended after this long
    total_minutes: float | None = None  # all attempts of the study together
    failures: int = 3  # this many in a row end the command; of one arm, pass over the arm
    price: float | None = None  # USD per GPU-hour


class RetuneFile(Strict, frozen=True, kw_only=True):
    """A sweep before the verdict: every combination of `values`, each at every seed.

    Or a search: so many `trials` in a `space` as a search file has it, on the first seed; the
    `best` of them are then the sweep, each at every seed.
    """

    values: dict[str, list[Any]] = {}
    seeds: list[int]
    space: dict[str, Any] = {}
    trials: int | None = None
    best: int = 3


class ArmFile(Strict, frozen=True, kw_only=True):
    """One arm written out: overrides, and other code as a git ref or a patch file."""

    set: dict[str, Any] = {}
    ref: str | None = None
    patch: str | None = None


class ArmsFile(Strict, frozen=True, kw_only=True):
    """The arms beside the base."""

    leave_one_out: list[str] | Literal["all"] = []
    add_one_in: list[str] | Literal["all"] = []
    retune: dict[str, RetuneFile] = {}
    explicit: dict[str, ArmFile] = {}

    def empty(self) -> bool:
        return not (self.leave_one_out or self.add_one_in or self.explicit)


class StudyFile(Strict, frozen=True, kw_only=True):
    """A study as its file says it. `base` is the path of a configuration, relative to the file."""

    study: str
    base: str
    arms: ArmsFile
    seeds: list[int]
    question: str = ""
    trainer: str = "native"
    set: dict[str, Any] = {}
    pin: Literal["derived", "own"] = "derived"
    horizons: list[float] | Literal["default"] = []
    decide: Decide = Decide()
    limits: Limits = Limits()

    def horizon_list(self) -> list[float]:
        """The horizons in ascending order, 1 among them; empty when none are asked for."""
        if self.horizons == "default":
            return DEFAULT_HORIZONS
        return sorted({*map(float, self.horizons), 1.0}) if self.horizons else []


def load_study(path: Path) -> StudyFile:
    """Reads and checks a study file. Raises StudyFileError with the line of the fault."""
    return parse_study(read_text(path, "a study file", "ablations/studies/smoke.yaml"), str(path))


def parse_study(text: str, name: str) -> StudyFile:
    """As `load_study`, from text; `name` stands in its errors."""
    plain, lines = read_mapping(text, name, "study, base, arms and seeds", "ablations/")
    study = _convert(plain, name, lines)
    check(study, lambda path: location(name, lines, path))
    return study


def _convert(plain: dict[str, Any], name: str, lines: Any) -> StudyFile:
    """Parts what stands under `arms` by name, so that every fault has its full path."""

    def typed(value: Any, kind: Any, path: str) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise schema_error(
                str(error), name, lines, path, _known_keys, _misspelt_expansion
            ) from None

    arms = plain.get("arms")
    if not isinstance(arms, dict):
        study: StudyFile = typed(plain, StudyFile, "")
        return study
    lists = {key: arms[key] for key in ("leave_one_out", "add_one_in") if key in arms}
    study = typed({**plain, "arms": lists}, StudyFile, "")
    sweeps = typed(arms.get("retune", {}), dict[str, Any], "arms.retune")
    whole = ArmsFile(
        leave_one_out=study.arms.leave_one_out,
        add_one_in=study.arms.add_one_in,
        retune={key: typed(v, RetuneFile, f"arms.retune.{key}") for key, v in sweeps.items()},
        explicit={
            str(key): typed(value, ArmFile, f"arms.{key}")
            for key, value in arms.items()
            if key not in _EXPANDED
        },
    )
    return msgspec.structs.replace(study, arms=whole)


def _misspelt_expansion(path: str) -> str | None:
    """The expansion that was meant by an arm's name whose value is no arm."""
    parent, _, last = path.rpartition(".")
    return nearest(last, _EXPANDED) if parent == "arms" else None


def _known_keys(path: str) -> list[str]:
    parts = [part for part in path.split(".") if part]
    if not parts:
        kind: type[msgspec.Struct] = StudyFile
    elif parts[0] in ("decide", "limits"):
        kind = Decide if parts[0] == "decide" else Limits
    else:
        kind = RetuneFile if parts[1:2] == ["retune"] else ArmFile
    return [field.name for field in msgspec.structs.fields(kind)]


def check(study: StudyFile, where: Callable[[str], str]) -> None:
    """What the types cannot say; `where` names the place of a field. Raises StudyFileError."""
    check_name(study.study, where("study"))
    if study.arms.empty():
        raise StudyFileError(
            where("arms"),
            "at least one arm beside the base",
            "none",
            "Add `leave_one_out: [a trick]`, `add_one_in: [a trick]` or `name: {set: ...}`.",
        )
    check_seeds(study.seeds, where("seeds"))
    for trick, sweep in study.arms.retune.items():
        _check_sweep(trick, sweep, study, where)
    for name, arm in study.arms.explicit.items():
        _check_arm(name, arm, where(f"arms.{name}"))
    if study.horizons and (
        any(h <= 0 for h in study.horizon_list()) or len(study.horizon_list()) < 2
    ):
        raise StudyFileError(
            where("horizons"),
            "positive multiples of the base's steps, at least one of them not 1",
            repr(study.horizons),
            "Write `horizons: default`, or such as [0.5, 1].",
        )
    ranges = [alpha_range("decide.alpha", study.decide.alpha), *limit_ranges(study.limits)]
    ranges += [(f"decide.margin.{k}", v, v >= 0, "of 0 or above") for k, v in margin_items(study)]
    check_ranges(ranges, where)


def limit_ranges(limits: Limits) -> list[Range]:
    """Where each limit may lie."""
    total, price = limits.total_minutes, limits.price
    return [
        ("limits.run_minutes", limits.run_minutes, limits.run_minutes > 0, "above 0"),
        ("limits.total_minutes", total, total is None or total > 0, "above 0"),
        ("limits.failures", limits.failures, limits.failures > 0, "above 0"),
        ("limits.price", price, price is None or price >= 0, "of 0 or above"),
    ]


def margin_items(study: StudyFile) -> list[tuple[str, float]]:
    return list(study.decide.margin.items())


def _check_sweep(
    trick: str, sweep: RetuneFile, study: StudyFile, where: Callable[[str], str]
) -> None:
    check_seeds(sweep.seeds, where(f"arms.retune.{trick}.seeds"))
    shared = sorted(set(sweep.seeds) & set(study.seeds))
    if shared:
        raise StudyFileError(
            where(f"arms.retune.{trick}.seeds"),
            "seeds of its own, apart from the study's",
            f"{shared} in both",
            "A choice and its verdict on the same seeds flatter the arm: use others.",
        )
    if sweep.space:
        _check_searched(sweep, where(f"arms.retune.{trick}"))
        return
    if not sweep.values or not all(sweep.values.values()):
        raise StudyFileError(
            where(f"arms.retune.{trick}.values"),
            "for each field a list of values to try",
            repr(sweep.values),
            "Write such as {values: {a.field: [0.001, 0.003, 0.01]}, seeds: [101, 102]}.",
        )


def _check_searched(sweep: RetuneFile, where: str) -> None:
    if sweep.values or not sweep.trials or sweep.trials < sweep.best or len(sweep.seeds) < 2:
        raise StudyFileError(
            where,
            "a space without values, trials (as many as `best` or more), and two seeds",
            f"{len(sweep.values)} values, {sweep.trials} trials, {len(sweep.seeds)} seeds",
            "Write such as {space: {a.field: {float: [0.001, 0.1], log: true}}, "
            "trials: 20, seeds: [101, 102]}.",
        )


def _check_arm(name: str, arm: ArmFile, where: str) -> None:
    check_name(name, where)
    if name == "base":
        raise StudyFileError(
            where,
            "a name other than base",
            "base",
            "The base is an arm of its own, always: rename this one.",
        )
    if (arm.ref and arm.patch) or not (arm.set or arm.ref or arm.patch):
        raise StudyFileError(
            where,
            "`set: {...}`, or other code by `ref:` or `patch:` (not both)",
            "both" if arm.ref else "nothing that differs from the base",
            "Say what the arm changes.",
        )
