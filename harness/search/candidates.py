"""Chooses the trials that are confirmed on held-out seeds, and estimates what they will be worth.

Pure functions of the trials and of the noise of the base.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from harness.config.search_file import SearchFile, dimensions
from harness.search.base import BaseNoise
from harness.search.objective import harm
from harness.search.trial import TrialResult, result_of
from harness.stats import inference
from harness.stats.inference import Contrast

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

EDGE = 0.05  # share of a range: the optimum may lie beyond an end that is nearer than this


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One of the best trials. Effects are objective minus the base's mean, for each objective.

    `search_effect` comes from the trial's single run. `shrunk_effect` is the estimate of the true
    effect from the search alone: the best of many runs owes part of its effect to luck, which is
    removed by comparing the noise of one run with the spread of all trials.
    """

    number: int
    overrides: dict[str, Any]
    search_effect: dict[str, float]
    shrunk_effect: dict[str, float]

    @property
    def arm(self) -> str:
        """Its arm's name in the confirmation studies."""
        return f"trial_{self.number}"


def is_feasible(trial: "FrozenTrial") -> bool:
    """Whether a trial keeps every bound."""
    return all(excess <= 0 for excess in trial.constraints.values())


def eligible_trials(trials: "Sequence[FrozenTrial]") -> "list[FrozenTrial]":
    """The completed trials that keep every bound, each configuration once."""
    seen: set[str | None] = set()
    eligible = []
    for trial in trials:
        result = result_of(trial)
        if trial.values is None or result is None or result.outcome != "completed":
            continue
        if is_feasible(trial) and result.plan_id not in seen:
            seen.add(result.plan_id)
            eligible.append(trial)
    return eligible


def select_candidates(
    trials: "Sequence[FrozenTrial]", names: Sequence[str], noise: BaseNoise, best: int, base: str
) -> list[Candidate]:
    """The `best` trials that beat the base's mean in some objective, the best first.

    With several objectives only trials on the Pareto front, and first those that are worse than the
    base in none, because no other can be confirmed. `base`: the plan of the base itself, which is
    no candidate.
    """
    trials = [trial for trial in eligible_trials(trials) if _result(trial).plan_id != base]
    better = [trial for trial in trials if max(_gains(trial, names, noise)) > 0]
    if len(names) > 1:
        values = [trial.values for trial in trials]
        better = [t for t in better if not any(dominates(one, t.values, names) for one in values)]
    better.sort(
        key=lambda trial: (
            _worst_loss(trial, names, noise),
            -_gains(trial, names, noise)[0],
            trial.number,
        )
    )
    spread = {  # the variance of true effects over the space, which noise does not explain
        name: inference.effect_variance([_contrast(trial, at, name, noise) for trial in trials])
        for at, name in enumerate(names)
    }
    return [_candidate(trial, names, noise, spread) for trial in better[:best]]


def _result(trial: "FrozenTrial") -> TrialResult:
    result = result_of(trial)
    assert result is not None, f"trial {trial.number} has no result"
    return result


def _contrast(trial: "FrozenTrial", at: int, name: str, noise: BaseNoise) -> Contrast:
    """One run against the base's replicates."""
    se = noise.sd[name] * math.sqrt(1 + 1 / len(noise.seeds))
    return Contrast(estimate=trial.values[at] - noise.mean[name], se=se, df=noise.df)


def _gains(trial: "FrozenTrial", names: Sequence[str], noise: BaseNoise) -> list[float]:
    """By how much a trial is better than the base's mean in each objective."""
    return [
        -harm(name) * _contrast(trial, at, name, noise).estimate for at, name in enumerate(names)
    ]


def _worst_loss(trial: "FrozenTrial", names: Sequence[str], noise: BaseNoise) -> float:
    """By how many standard errors the worst objective is worse than the base; 0 if none is."""
    worst = 0.0
    for at, (name, gain) in enumerate(zip(names, _gains(trial, names, noise), strict=True)):
        se = _contrast(trial, at, name, noise).se
        if gain < 0:
            worst = max(worst, -gain / se if se else math.inf)
    return worst


def dominates(other: Sequence[float], values: Sequence[float], names: Sequence[str]) -> bool:
    """Whether `other` is at least as good in every objective and better in one."""
    worse = [harm(name) * (o - v) for name, v, o in zip(names, values, other, strict=True)]
    return max(worse) <= 0 and min(worse) < 0


def _candidate(
    trial: "FrozenTrial", names: Sequence[str], noise: BaseNoise, spread: Mapping[str, float]
) -> Candidate:
    contrasts = {name: _contrast(trial, at, name, noise) for at, name in enumerate(names)}
    return Candidate(
        number=trial.number,
        overrides=_result(trial).overrides,
        search_effect={name: one.estimate for name, one in contrasts.items()},
        shrunk_effect={
            name: inference.shrink(one, spread[name]) for name, one in contrasts.items()
        },
    )


def at_range_end(file: SearchFile, candidate: Candidate) -> list[str]:
    """The fields that a candidate has within EDGE of an end of their range; choices have none."""
    found = []
    for _, path, dimension in dimensions(file):
        ends = dimension.floats or dimension.ints
        if ends is None or path not in candidate.overrides:
            continue
        scale = math.log if dimension.log else float
        last = ends[1]
        if step := dimension.step:  # the last point that can be reached
            last = ends[0] + math.floor((ends[1] - ends[0]) / step + 1e-9) * step
        low, value, high = (scale(number) for number in (ends[0], candidate.overrides[path], last))
        if not EDGE < (value - low) / (high - low) < 1 - EDGE:
            found.append(path)
    return found
