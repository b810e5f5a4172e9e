"""CORE of two sides, example by example: where they differ, and how certain the difference is.

A side is one run or several of one configuration. Scores have standard errors over examples. The
interval of a difference comes from a bootstrap that resamples the examples of each task and keeps
each pair of answers together. It describes these models on other examples of the same kind, not the
effect of another seed. Where the noise between runs is known, a second interval includes both.

Because tasks are many, a task is marked only where McNemar's test holds after Holm's correction
over all tasks. Pure: reads no files.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from harness.errors import StoreError
from harness.metrics import CORE_SCORES
from harness.results.core_answers import CoreAnswers, CoreSettings, TaskFacts
from harness.stats import inference, paired_tests
from harness.stats.distributions import t_quantile
from harness.stats.inference import Contrast
from harness.stats.paired_tests import Bootstrap, Floats

DRAWS = 1000  # the limits then repeat to 4 % of the interval's half-width

Answers = dict[str, Floats]
"""Task -> (runs, examples): one value an answer."""


class TaskScore(msgspec.Struct, frozen=True, kw_only=True):
    """One task on one side; each SE is over examples. Seconds are the mean over the runs."""

    name: str
    facts: TaskFacts
    accuracy: float
    accuracy_se: float
    centred: float
    soft: float
    soft_se: float


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """One side: `runs` of one configuration, whose answers are averaged example by example."""

    settings: CoreSettings
    runs: int
    examples: int
    core: float
    core_se: float
    core_soft: float
    core_soft_se: float
    seconds: float
    tasks: list[TaskScore]


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """B minus A in `core` or `core_soft`. Limits are one-sided at alpha each.

    `low`, `high`: over examples, for these very models. `wide_low`, `wide_high`: over examples and
    runs; None where the noise between runs is not known.
    """

    metric: str
    estimate: float
    se: float
    low: float
    high: float
    wide_low: float | None = None
    wide_high: float | None = None


class TaskPair(msgspec.Struct, frozen=True, kw_only=True):
    """B minus A in the accuracy of one task. McNemar's test is of one run a side, else None.

    `only_a`, `only_b`: examples that only that side got right.
    """

    name: str
    estimate: float
    low: float
    high: float
    only_a: int | None = None
    only_b: int | None = None
    p: float | None = None
    marked: bool = False


class PairedCore(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of two sides on the same examples."""

    alpha: float
    a: Scores
    b: Scores
    totals: list[Total]
    tasks: list[TaskPair]
    only_a: int | None = None
    only_b: int | None = None
    p: float | None = None  # over all tasks at once: every example weighs alike


# --- one side -------------------------------------------------------------------------------------


def scores(side: Sequence[CoreAnswers]) -> Scores:
    """Of runs that were evaluated alike; a single run's are those of its record."""
    _check_same_examples(side)
    correct, soft = _answers(side, "correct"), _answers(side, "soft")
    tasks = [_task_score(side, name, correct[name], soft[name]) for name in correct]
    above = [1 - task.facts.baseline for task in tasks]
    core_errors = [task.accuracy_se / room for task, room in zip(tasks, above, strict=True)]
    return Scores(
        settings=side[0].settings,
        runs=len(side),
        examples=sum(task.facts.examples for task in tasks),
        core=_mean([task.centred for task in tasks]),
        core_se=math.hypot(*core_errors) / len(tasks),
        core_soft=_mean([task.soft for task in tasks]),
        core_soft_se=math.hypot(*(task.soft_se for task in tasks)) / len(tasks),
        seconds=math.fsum(task.facts.seconds for task in tasks),
        tasks=tasks,
    )


def _task_score(side: Sequence[CoreAnswers], name: str, correct: Floats, soft: Floats) -> TaskScore:
    facts = side[0].tasks[name].facts
    seconds = _mean([run.tasks[name].facts.seconds for run in side])
    accuracy = float(correct.mean())
    return TaskScore(
        name=name,
        facts=msgspec.structs.replace(facts, seconds=seconds),
        accuracy=accuracy,
        accuracy_se=_error(correct, 0),
        centred=(accuracy - facts.baseline) / (1 - facts.baseline),
        soft=float(soft.mean()),
        soft_se=_error(soft, 1),
    )


def _error(answers: Floats, ddof: int) -> float:
    """Over examples, of the mean over the runs; 0 `ddof` for right and wrong: binomial."""
    examples = answers.shape[1]
    spread = answers.mean(axis=0).std(ddof=min(ddof, examples - 1))
    return float(spread / math.sqrt(examples))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _answers(side: Sequence[CoreAnswers], which: str) -> Answers:
    return {
        name: np.stack([getattr(run.tasks[name], which) for run in side]).astype(np.float64)
        for name in side[0].tasks
    }


def _check_same_examples(runs: Sequence[CoreAnswers]) -> None:
    """Raises StoreError unless all runs answered the same examples under the same settings."""
    first = runs[0]
    for other in runs[1:]:
        for field, value in msgspec.structs.asdict(first.settings).items():
            _check_equal(f"core.{field}", value, getattr(other.settings, field))
        _check_equal("core.tasks", ", ".join(first.tasks), ", ".join(other.tasks))
        for name, task in first.tasks.items():
            theirs = other.tasks[name]
            for field in ("kind", "shots", "baseline", "examples"):
                values = getattr(task.facts, field), getattr(theirs.facts, field)
                _check_equal(f"core.tasks.{name}.{field}", *values)
            if not np.array_equal(task.examples, theirs.examples):
                _check_equal(f"core.tasks.{name}", "these examples", "others")


def _check_equal(field: str, one: object, other: object) -> None:
    if one != other:
        raise StoreError(
            field,
            "the same examples under the same settings",
            f"{one} against {other}",
            "The scores do not measure the same thing: evaluate both with the same settings.",
        )


# --- two sides ------------------------------------------------------------------------------------


def paired(
    a: Sequence[CoreAnswers],
    b: Sequence[CoreAnswers],
    alpha: float,
    over_runs: Mapping[str, Contrast] | None = None,
    draws: int = DRAWS,
) -> PairedCore:
    """Side B against side A. Raises StoreError where they were not evaluated alike.

    `over_runs`: B minus A in a metric with its error between runs, as far as that is known.
    """
    _check_same_examples([*a, *b])
    sides = scores(a), scores(b)
    hard = [_over_room(_answers(side, "correct"), sides[0]) for side in (a, b)]
    soft = [_answers(side, "soft") for side in (a, b)]
    totals, of_tasks = [], []
    for metric, answers in zip(CORE_SCORES, (hard, soft), strict=True):
        whole, each = _bootstrap(answers, alpha, draws)
        totals.append(_total(metric, whole, answers, alpha, (over_runs or {}).get(metric)))
        of_tasks.append(each)
    tasks = [_pair(task, found) for task, found in zip(sides[0].tasks, of_tasks[0], strict=True)]
    made = PairedCore(alpha=alpha, a=sides[0], b=sides[1], totals=totals, tasks=tasks)
    return _tested(made, a[0], b[0]) if len(a) == len(b) == 1 else made


def _over_room(answers: Answers, side: Scores) -> Answers:
    """Answers in units of what a task leaves above guessing, so that their means are CORE."""
    return {task.name: answers[task.name] / (1 - task.facts.baseline) for task in side.tasks}


def _bootstrap(
    sides: Sequence[Answers], alpha: float, draws: int
) -> tuple[Bootstrap, list[Bootstrap]]:
    gaps = [sides[1][name].mean(axis=0) - sides[0][name].mean(axis=0) for name in sides[0]]
    return paired_tests.stratified_bootstrap(gaps, alpha=2 * alpha, draws=draws)


def _total(
    metric: str, found: Bootstrap, sides: Sequence[Answers], alpha: float, runs: Contrast | None
) -> Total:
    total = Total(
        metric=metric, estimate=found.estimate, se=found.se, low=found.low, high=found.high
    )
    if runs is None or not runs.df > 0:
        return total
    shared = paired_tests.shared_variance(*(list(side.values()) for side in sides))
    wide = paired_tests.beyond_examples(runs, found.se, shared)
    half = t_quantile(1 - alpha, wide.df) * wide.se
    return msgspec.structs.replace(
        total, wide_low=found.estimate - half, wide_high=found.estimate + half
    )


def _pair(task: TaskScore, found: Bootstrap) -> TaskPair:
    room = 1 - task.facts.baseline
    return TaskPair(
        name=task.name,
        estimate=room * found.estimate,
        low=room * found.low,
        high=room * found.high,
    )


def _tested(made: PairedCore, a: CoreAnswers, b: CoreAnswers) -> PairedCore:
    """With McNemar's test of every task, corrected for their number, and of all examples."""
    answers = [(a.tasks[task.name].correct, b.tasks[task.name].correct) for task in made.tasks]
    tests = [paired_tests.mcnemar(*both) for both in answers]
    _, corrected = inference.holm([test.p for test in tests], made.alpha)
    whole = paired_tests.mcnemar(*(np.concatenate(side) for side in zip(*answers, strict=True)))
    tasks = [
        msgspec.structs.replace(
            task, only_a=test.only_a, only_b=test.only_b, p=test.p, marked=p <= made.alpha
        )
        for task, test, p in zip(made.tasks, tests, corrected, strict=True)
    ]
    return msgspec.structs.replace(
        made, tasks=tasks, only_a=whole.only_a, only_b=whole.only_b, p=whole.p
    )
