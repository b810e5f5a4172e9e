"""The strict schema of a study file; errors name the line, the field and what to write instead.

A study file is YAML 1.2, so `off` stays a string, which the trainer rejects. The values under `set`
and of tricks belong to the trainer and are passed on unchanged.
"""

import math
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.config.field_types import (
    MOST_SEEDS,
    ErrorRate,
    Minutes,
    NotNegative,
    Positive,
    PositiveInt,
    Seed,
)
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

DEFAULT_HORIZONS = [0.71, 1.0, 1.41]  # a factor of two, evenly spaced on a logarithmic scale
WITH_MARGIN = (*COMPARED, "time_to_target")  # each has a known direction
_EXPANDED = ("leave_one_out", "add_one_in", "retune")


class Decide(Strict, frozen=True, kw_only=True):
    """The decision rule of a study, fixed before it runs."""

    alpha: ErrorRate = 0.05  # two-sided error rate of the intervals
    margin: dict[str, Positive] = {}  # metric -> smallest change that matters, in its unit
    correction: Correction = "dunnett"  # for multiple comparisons with one base


class Limits(Strict, frozen=True, kw_only=True):
    """When a study stops."""

    run_minutes: Minutes = 60.0  # for one run
    total_minutes: Minutes | None = None  # for all attempts of the study together
    failures: PositiveInt = 3  # in a row: ends the command; of one arm: skips the arm
    price: NotNegative | None = None  # USD per GPU-hour


class RetuneFile(Strict, frozen=True, kw_only=True):
    """A sweep that tunes an arm: every combination of `values` at every seed.

    Or a search: `trials` in a `space`, as in a search file, on the first seed; the `best` of them
    are then run at every seed.
    """

    values: dict[str, list[Any]] = {}
    seeds: list[Seed]
    space: dict[str, Any] = {}
    trials: PositiveInt | None = None
    best: PositiveInt = 3


class ArmFile(Strict, frozen=True, kw_only=True):
    """One explicit arm: overrides, and other code as a git ref or a patch file."""

    set: dict[str, Any] = {}
    ref: str | None = None
    patch: str | None = None


class ArmsFile(Strict, frozen=True, kw_only=True):
    """The arms besides the base."""

    leave_one_out: list[str] | Literal["all"] = []
    add_one_in: list[str] | Literal["all"] = []
    retune: dict[str, RetuneFile] = {}
    explicit: dict[str, ArmFile] = {}

    def empty(self) -> bool:
        """Whether there is no arm besides the base."""
        return not (self.leave_one_out or self.add_one_in or self.explicit)


class StudyFile(Strict, frozen=True, kw_only=True):
    """A study file. `base`: the path of a configuration, relative to the file."""

    study: str
    base: str
    arms: ArmsFile
    seeds: list[Seed]
    question: str = ""
    trainer: str = "native"
    set: dict[str, Any] = {}
    pin: Literal["derived", "own"] = "derived"
    horizons: list[Positive] | Literal["default"] = []
    decide: Decide = Decide()
    limits: Limits = Limits()

    def horizon_list(self) -> list[float]:
        """The horizons in ascending order, including 1; empty if none are requested."""
        if self.horizons == "default":
            return DEFAULT_HORIZONS
        return sorted({*map(float, self.horizons), 1.0}) if self.horizons else []


def load_study(path: Path) -> StudyFile:
    """Reads and checks a study file. Raises StudyFileError with the line at fault."""
    return parse_study(read_text(path, "a study file", "ablations/studies/smoke.yaml"), str(path))


def parse_study(text: str, name: str) -> StudyFile:
    """Like `load_study`, from text; `name` is the file name in errors."""
    plain, where = read_mapping(text, name, "study, base, arms and seeds", "ablations/")
    study = _convert(plain, where)
    check(study, where)
    return study


def _convert(plain: dict[str, Any], where: Where) -> StudyFile:
    """Converts the arms one by one, so that every error has its full path."""
    arms = plain.get("arms")
    if not isinstance(arms, dict):
        study: StudyFile = convert(plain, StudyFile, where)
        return study
    lists = {key: arms[key] for key in ("leave_one_out", "add_one_in") if key in arms}
    study = convert({**plain, "arms": lists}, StudyFile, where)
    sweeps = convert(arms.get("retune", {}), dict[str, Any], where, "arms.retune")
    all_arms = ArmsFile(
        leave_one_out=study.arms.leave_one_out,
        add_one_in=study.arms.add_one_in,
        retune={
            trick: convert(sweep, RetuneFile, where, f"arms.retune.{trick}")
            for trick, sweep in sweeps.items()
        },
        explicit={
            str(name): convert(arm, ArmFile, where, f"arms.{name}", _misspelt_expansion)
            for name, arm in arms.items()
            if name not in _EXPANDED
        },
    )
    return msgspec.structs.replace(study, arms=all_arms)


def _misspelt_expansion(path: str) -> str | None:
    """A hint for an arm whose value is invalid: it may be a misspelt expansion."""
    parent, _, last = path.rpartition(".")
    return nearest(last, _EXPANDED) if parent == "arms" else None


def check(study: StudyFile, where: Where) -> None:
    """Checks values, also those beyond their types. Raises StudyFileError."""
    convert(msgspec.to_builtins(study), StudyFile, where)  # an override may be out of its range
    check_name(study.study, where("study"))
    if study.arms.empty():
        hint = "Add `leave_one_out: [a trick]`, `add_one_in: [a trick]` or `name: {set: ...}`."
        raise StudyFileError(where("arms"), "at least one arm besides the base", "none", hint)
    check_seeds(study.seeds, where("seeds"))
    for trick, sweep in study.arms.retune.items():
        _check_sweep(trick, sweep, study, where)
    for name, arm in study.arms.explicit.items():
        _check_arm(name, arm, where(f"arms.{name}"))
    if study.horizons and len(study.horizon_list()) < 2:
        expected = "positive multiples of the base's steps, at least one of them not 1"
        hint = "Write `horizons: default`, or for example [0.5, 1]."
        raise StudyFileError(where("horizons"), expected, repr(study.horizons), hint)
    for name in study.decide.margin:
        if name not in WITH_MARGIN:
            expected = "a metric that a study decides, of known direction"
            hint = nearest(name, WITH_MARGIN) or f"One of {', '.join(WITH_MARGIN)}."
            raise StudyFileError(where(f"decide.margin.{name}"), expected, repr(name), hint)


def _check_sweep(trick: str, sweep: RetuneFile, study: StudyFile, where: Where) -> None:
    check_seeds(sweep.seeds, where(f"arms.retune.{trick}.seeds"))
    shared = sorted(set(sweep.seeds) & set(study.seeds))
    if shared:
        raise StudyFileError(
            where(f"arms.retune.{trick}.seeds"),
            "seeds that the study does not use",
            f"{shared} in both",
            "An arm that is compared on the seeds it was tuned on looks too good: use other seeds.",
        )
    if sweep.space:
        _check_searched(sweep, where(f"arms.retune.{trick}"))
        return
    if not sweep.values or not all(sweep.values.values()):
        expected = "a list of values for each field"
        got = repr(sweep.values)
        hint = "Write for example {values: {a.field: [0.001, 0.003, 0.01]}, seeds: [101, 102]}."
        raise StudyFileError(where(f"arms.retune.{trick}.values"), expected, got, hint)
    runs = math.prod(map(len, sweep.values.values())) * len(sweep.seeds)
    if runs > MOST_SEEDS:
        expected, got = f"at most {MOST_SEEDS:,} runs of a sweep", f"{runs:,}"
        hint = "Write fewer values, or search them: `space` and `trials`."
        raise StudyFileError(where(f"arms.retune.{trick}.values"), expected, got, hint)


def _check_searched(sweep: RetuneFile, where: str) -> None:
    if sweep.values or not sweep.trials or sweep.trials < sweep.best or len(sweep.seeds) < 2:
        raise StudyFileError(
            where,
            "a space without values, at least `best` trials, and two seeds",
            f"{len(sweep.values)} values, {sweep.trials} trials, {len(sweep.seeds)} seeds",
            "Write for example {space: {a.field: {float: [0.001, 0.1], log: true}}, "
            "trials: 20, seeds: [101, 102]}.",
        )


def _check_arm(name: str, arm: ArmFile, where: str) -> None:
    check_name(name, where)
    if name == "base":
        expected = "a name other than base"
        raise StudyFileError(where, expected, "base", "The base is always an arm: rename this one.")
    if (arm.ref and arm.patch) or not (arm.set or arm.ref or arm.patch):
        expected = "`set: {...}`, or other code by `ref:` or `patch:` (not both)"
        got = "both" if arm.ref else "nothing that differs from the base"
        raise StudyFileError(where, expected, got, "Write what the arm changes.")
