"""The second look: the best trials beside the base again, on seeds that no choice was made on.

It is a study like any other, with the candidates as written-out arms: the same blocks, records,
corrections and report. Speed is compared inside its blocks, time to target by horizons of its own.
A candidate survives where every one of its runs completes, and it is better than the base in one
objective, beyond the noise of all candidates together, and worse in none. With `next` the survivors
go through a further study at another scale, and survive there or not. After crew.py; the decisions
are pure.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.compare.result import MetricResult
from harness.config.search_file import LN_TIME, SearchFile
from harness.config.study_file import ArmFile, ArmsFile, Decide, StudyFile
from harness.files import digest
from harness.results.store import Store
from harness.search.base_noise import BaseNoise
from harness.search.objective import harm
from harness.search.trial import TrialResult, told
from harness.stats import inference
from harness.stats.inference import Contrast
from harness.study.attribution import attribute
from harness.study.effects import ArmResult, Attribution

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SECOND_LOOK = "second_look"  # the Optuna study's attribute that holds a `SecondLook`
CONFIRM, NEXT = "confirm", "next"
_DIGITS = 4  # of the digest in a study's name


class Pick(msgspec.Struct, frozen=True, kw_only=True):
    """A trial that is among the best. `claimed`: objective minus the base's mean, on one seed.

    `shrunk` is the best guess at that difference from the search alone: picked for its size, it is
    too good, by the noise of one run against the spread of all trials.
    """

    number: int
    overrides: dict[str, Any]
    claimed: dict[str, float]
    shrunk: dict[str, float]

    @property
    def arm(self) -> str:
        """Its name in the studies of the second look."""
        return f"trial_{self.number}"


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at again: kept in one piece, once its study has been made.

    `trials`: how many the search had. `studies`: look -> name. `next`: the scale that survivors
    have to survive too; empty where none is asked for.
    """

    picks: list[Pick]
    trials: int
    studies: dict[str, str]
    next: dict[str, Any] = {}


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate in one study: its effect in each objective, or why there is none."""

    study: str
    effects: dict[str, MetricResult]
    survives: bool
    reason: str


def kept(attributes: Mapping[str, Any]) -> Confirmation | None:
    """The second look that a search's attributes hold; None where none was made."""
    value = attributes.get(SECOND_LOOK)
    return None if value is None else msgspec.convert(value, Confirmation)


def study_name(file: SearchFile, at: str, trials: int, picks: Sequence[Pick]) -> str:
    """The name of a look's study: other candidates or another rule make another study."""
    rule = file.confirm
    asked: list[Any] = [[pick.number, pick.overrides] for pick in picks]
    asked += [rule.seeds, rule.alpha, rule.correction, rule.next if at == NEXT else {}]
    return f"{file.search}-{at}-{trials}-{digest(asked, _DIGITS)}"


def feasible(trial: "FrozenTrial") -> bool:
    """Whether a trial keeps every bound."""
    return all(beyond <= 0 for beyond in trial.constraints.values())


def eligible(trials: "Sequence[FrozenTrial]") -> "list[FrozenTrial]":
    """The trials with values that keep every bound, each configuration once."""
    seen: set[str | None] = set()
    found = []
    for trial in trials:
        answer = told(trial)
        if trial.values is None or answer is None or answer.outcome != "completed":
            continue
        if feasible(trial) and answer.plan_id not in seen:
            seen.add(answer.plan_id)
            found.append(trial)
    return found


def pick(
    trials: "Sequence[FrozenTrial]", names: Sequence[str], noise: BaseNoise, best: int, base: str
) -> list[Pick]:
    """The `best` trials better than the base's mean in some objective, the best first.

    With several objectives only those of the Pareto front, and first those that are worse than the
    base in none, since only such can survive. `base`: the base's own plan, which is no candidate.
    """
    found = [trial for trial in eligible(trials) if _answer(trial).plan_id != base]
    spread = {name: _spread(found, index, name, noise) for index, name in enumerate(names)}
    picks = []
    for trial in found:
        gains = [_gain(trial, index, name, noise) for index, name in enumerate(names)]
        if max(gains) > 0 and not any(_dominates(other, trial, names) for other in found):
            picks.append(trial)
    if len(names) == 1:  # the front of one objective is one trial
        picks = [trial for trial in found if _gain(trial, 0, names[0], noise) > 0]
    picks.sort(
        key=lambda trial: (
            _shortfall(trial, names, noise),
            -_gain(trial, 0, names[0], noise),
            trial.number,
        )
    )
    return [_picked(trial, names, noise, spread) for trial in picks[:best]]


def _answer(trial: "FrozenTrial") -> TrialResult:
    answer = told(trial)
    assert answer is not None, f"trial {trial.number} has no answer"
    return answer


def _claim(trial: "FrozenTrial", index: int, name: str, noise: BaseNoise) -> Contrast:
    """One run against the base's replicates."""
    se = noise.sd[name] * math.sqrt(1 + 1 / len(noise.seeds))
    return Contrast(estimate=trial.values[index] - noise.mean[name], se=se, df=noise.df)


def _gain(trial: "FrozenTrial", index: int, name: str, noise: BaseNoise) -> float:
    return -harm(name) * _claim(trial, index, name, noise).estimate


def _shortfall(trial: "FrozenTrial", names: Sequence[str], noise: BaseNoise) -> float:
    """By how many standard errors its worst objective is worse than the base's mean; 0: in none."""
    worst = 0.0
    for index, name in enumerate(names):
        loss, se = -_gain(trial, index, name, noise), _claim(trial, index, name, noise).se
        if loss > 0:
            worst = max(worst, loss / se if se else math.inf)
    return worst


def _spread(trials: "Sequence[FrozenTrial]", index: int, name: str, noise: BaseNoise) -> float:
    """The variance of true effects over the space, as far as noise does not explain it."""
    return inference.effect_variance([_claim(trial, index, name, noise) for trial in trials])


def _dominates(other: "FrozenTrial", trial: "FrozenTrial", names: Sequence[str]) -> bool:
    worse = [
        harm(name) * (theirs - ours)
        for name, ours, theirs in zip(names, trial.values, other.values, strict=True)
    ]
    return bool(max(worse) <= 0 and min(worse) < 0)


def _picked(
    trial: "FrozenTrial", names: Sequence[str], noise: BaseNoise, spread: Mapping[str, float]
) -> Pick:
    claims = {name: _claim(trial, index, name, noise) for index, name in enumerate(names)}
    return Pick(
        number=trial.number,
        overrides=_answer(trial).overrides,
        claimed={name: claim.estimate for name, claim in claims.items()},
        shrunk={name: inference.shrink(claim, spread[name]) for name, claim in claims.items()},
    )


def study_file(
    file: SearchFile, path: Path, picks: Sequence[Pick], name: str, scale: Mapping[str, Any]
) -> StudyFile:
    """The study of a second look. `scale`: overrides of base and candidates alike."""
    objectives = file.objectives
    return StudyFile(
        study=name,
        question=f"Which of the best trials of the search {file.search} is better than its base?",
        trainer=file.trainer,
        base=str((path.parent / file.base).resolve()),
        set={**file.set, **scale},
        pin=file.pin,
        arms=ArmsFile(explicit={pick.arm: ArmFile(set=pick.overrides) for pick in picks}),
        seeds=file.confirm.seeds,
        horizons="default" if LN_TIME in objectives else [],
        decide=Decide(
            alpha=file.confirm.alpha / len(objectives), correction=file.confirm.correction
        ),
        limits=msgspec.structs.replace(file.limits, total_minutes=None),
    )


def look(store: Store, name: str, picks: Sequence[Pick], objectives: Sequence[str]) -> list[Look]:
    """What a stored study says of each candidate, in their order. Raises StoreError."""
    study = store.study(name)
    found = attribute(study, store.records())
    arms = {arm.name: arm for arm in found.arms}
    return [_look(found, arms.get(pick.arm), objectives) for pick in picks]


def _look(found: Attribution, arm: ArmResult | None, objectives: Sequence[str]) -> Look:
    effects = {name: _effect(arm, name) for name in objectives} if arm is not None else {}
    known = {name: effect for name, effect in effects.items() if effect is not None}
    survives, reason = decide(known, objectives)
    whole = arm.statuses.get("completed", 0) if arm is not None else 0
    if arm is not None and whole < arm.planned:
        survives, reason = False, f"{whole} of {arm.planned} runs completed"
    return Look(study=found.study, effects=known, survives=survives, reason=reason)


def _effect(arm: ArmResult, name: str) -> MetricResult | None:
    if name == LN_TIME:
        return arm.time_to_target.total if arm.time_to_target is not None else None
    return arm.effects.get(name)


def decide(effects: Mapping[str, MetricResult], objectives: Sequence[str]) -> tuple[bool, str]:
    """(whether a candidate survives, why not). Better in one beyond its noise, worse in none."""
    for name in objectives:
        effect = effects.get(name)
        if effect is None or effect.estimate is None or effect.low is None:
            missing = effect and (effect.missing or effect.no_interval)
            return False, f"{name}: {missing or 'not compared'}"
    better = [name for name in objectives if effects[name].improved]
    worse = [name for name in objectives if effects[name].worsened]
    if worse:
        return False, f"worse in {', '.join(worse)}"
    return bool(better), "" if better else "within the noise"
