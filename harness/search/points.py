"""Samplers whose points follow from the search file alone: a grid, and quasi-random sequences.

Every process draws the same list of points, and the n-th trial that is not a repetition takes the
n-th of them. Optuna numbers trials atomically, so no two workers take one point, none is left out,
and a point whose worker died is run by the trial that repeats it.
"""

import itertools
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from scipy.stats import qmc

from harness.search.storage import RETRY_OF, START, SURPLUS

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


def first_attempt(trials: "Sequence[FrozenTrial]", number: int) -> int:
    """The number of the trial that this one repeats, directly or not; its own if it repeats none.

    `trials`: all trials, by number.
    """
    while (before := trials[number].user_attrs.get(RETRY_OF)) is not None:
        number = int(before)
    return number


def is_new(trial: "FrozenTrial") -> bool:
    """Whether a trial repeats none and counts: it has a place in the budget."""
    return RETRY_OF not in trial.user_attrs and SURPLUS not in trial.user_attrs


class PointSampler(BaseSampler):
    """A sampler of a list of points. `size`: how many there are; None for a sequence.

    `whole`: the study. A pruner such as Hyperband shows a sampler only some of its trials.
    """

    size: int | None = None
    whole: "Study"

    def point(self, place: int) -> Mapping[str, Any]:
        """What the point at a place, counted from 0, has for each parameter."""
        raise NotImplementedError

    def value(self, found: Any, distribution: BaseDistribution) -> Any:
        """The value of a parameter for what `point` has for it."""
        raise NotImplementedError

    def infer_relative_search_space(self, study: "Study", trial: "FrozenTrial") -> dict[str, Any]:
        """Nothing: each value is looked up when it is suggested."""
        return {}

    def sample_relative(self, study: "Study", trial: "FrozenTrial", search_space: Any) -> Any:
        """Nothing: as above."""
        return {}

    def sample_independent(
        self,
        study: "Study",
        trial: "FrozenTrial",
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value of one parameter at the trial's point."""
        trials = self.whole.get_trials(deepcopy=False)
        first = first_attempt(trials, trial.number)
        drawn = (one for one in trials[:first] if is_new(one) and START not in one.user_attrs)
        place = sum(1 for _ in drawn)
        return self.value(self.point(place)[param_name], param_distribution)


class Grid(PointSampler):
    """Every combination of values, in an order drawn from the seed. `start`: run before them."""

    def __init__(
        self, values: Mapping[str, Sequence[Any]], seed: int, start: Mapping[str, Any] | None = None
    ) -> None:
        combined = (
            dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
        )
        self.points = [point for point in combined if point != start]
        random.Random(seed).shuffle(self.points)
        self.size = len(self.points)

    def point(self, place: int) -> Mapping[str, Any]:
        """The point at a place. A trial beyond the last one is surplus, and is not run."""
        return self.points[place % len(self.points)]

    def value(self, found: Any, distribution: BaseDistribution) -> Any:
        """The value itself."""
        return found


class QuasiRandom(PointSampler):
    """A Sobol or Halton sequence over all parameters, one coordinate in [0, 1) for each."""

    def __init__(self, names: Sequence[str], qmc_type: str, scramble: bool, seed: int) -> None:
        self.names = list(names)
        kind = {"sobol": qmc.Sobol, "halton": qmc.Halton}[qmc_type]
        self._engine = kind(len(self.names), scramble=scramble, seed=seed)

    def point(self, place: int) -> Mapping[str, Any]:
        """The coordinates of the point at a place."""
        self._engine.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about numbers that are no power of two
            if place:
                self._engine.fast_forward(place)
            (row,) = self._engine.random(1)
        return dict(zip(self.names, map(float, row), strict=True))

    def value(self, found: Any, distribution: BaseDistribution) -> Any:
        """The value at a coordinate of a range."""
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[int(found * len(distribution.choices))]
        assert isinstance(distribution, (FloatDistribution, IntDistribution)), distribution
        low, high, step = distribution.low, distribution.high, distribution.step
        if isinstance(distribution, IntDistribution) and distribution.log:
            at = math.exp(math.log(low) + found * (math.log(high + 1) - math.log(low)))
            return min(int(at), high)
        if distribution.log:
            return min(math.exp(math.log(low) + found * (math.log(high) - math.log(low))), high)
        if step is None:
            return low + found * (high - low)
        return low + int(found * (round((high - low) / step) + 1)) * step
