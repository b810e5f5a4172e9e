"""From losses to decisions, and from decisions to CORE and core_soft, with standard errors.

    multiple choice, schema    the row with the smallest mean loss, the first of equal ones; right
                               when it is the gold one.   value = softmax(-mean losses)[gold],
                               chance = 1 / rows
    language modeling          right when every token is the model's first choice.
                               value = exp(-mean loss), chance = 0

    accuracy   share of right ones     centred = (accuracy - baseline) / (1 - baseline)
    CORE       mean of centred over tasks
    soft       mean of (value - chance) / (1 - chance)      core_soft = its mean over tasks

A row without a token of its own (a choice that is a prefix of another) has no mean loss and is
never chosen. nanochat takes Python's `min` of a list with NaN, which depends on the order of the
choices. With a vocabulary of 32,768 this concerns 4 of the 91,037 questions, all of piqa; the event
of an evaluation names them. Where no row can be chosen, the first is, as in nanochat.

Standard errors are over examples, with tasks independent. They do not include the variance between
training seeds. No torch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.core.questions import NO_GOLD, Questions
from model.core.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """The scores of every row (R), over all ranks."""

    losses: NDArray[np.float64]
    """Mean loss of the scored tokens in nats; NaN where a row has none."""
    gaps: NDArray[np.float64]
    """Language modeling: the smallest gap of the scored tokens; 0 for other rows."""
    hits: NDArray[np.bool_]
    """Language modeling: whether all scored tokens were the model's first choice."""
    seconds: NDArray[np.float64]
    """(Q) device seconds, summed over ranks; a batch's seconds are split evenly."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """The outcome of every question (Q)."""

    task: NDArray[np.int32]
    """Index of its task in the bundle."""
    example: NDArray[np.int32]
    """Row of the task's file, from 0."""
    correct: NDArray[np.bool_]
    value: NDArray[np.float64]
    """Likelihood of the right answer, 0 to 1."""
    chance: NDArray[np.float64]
    """`value` of a random guess."""
    margin: NDArray[np.float64]
    """Nats between the two smallest mean losses; for language modeling the smallest gap between the
    right token's logit and the best other's, below 0 where wrong."""
    losses: NDArray[np.float64]
    """(R) mean loss of every row; NaN where it has no token of its own."""
    first_row: NDArray[np.int64]
    """(Q + 1)"""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    task: Task
    examples: int
    baseline: float
    accuracy: float
    accuracy_se: float
    soft: float
    soft_se: float
    seconds: float
    """Device seconds."""

    @property
    def centred(self) -> float:
        """Accuracy scaled so that 0 is guessing and 1 is all right."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)

    @property
    def centred_se(self) -> float:
        return self.accuracy_se / (1 - self.baseline)


@dataclass(frozen=True, kw_only=True)
class Result:
    tasks: tuple[TaskResult, ...]

    @property
    def core(self) -> float:
        """Mean of centred accuracies."""
        return float(np.mean([task.centred for task in self.tasks]))

    @property
    def core_se(self) -> float:
        return _of_mean([task.centred_se for task in self.tasks])

    @property
    def core_soft(self) -> float:
        """Mean of the tasks' soft scores."""
        return float(np.mean([task.soft for task in self.tasks]))

    @property
    def core_soft_se(self) -> float:
        return _of_mean([task.soft_se for task in self.tasks])


def decide(questions: Questions, scores: Scores) -> Outcomes:
    """The decision of every question."""
    first, rows = questions.first_row[:-1], np.diff(questions.first_row)
    losses = np.where(np.isnan(scores.losses), np.inf, scores.losses)
    continues = questions.gold == NO_GOLD
    gold_row = first + np.maximum(questions.gold, 0)
    least = np.minimum.reduceat(losses, first)
    chosen = _first_where(losses == np.repeat(least, rows), first)
    with np.errstate(invalid="ignore"):  # inf - inf, where no row can be chosen
        relative = np.where(np.isinf(losses), -np.inf, np.repeat(least, rows) - losses)
    likelihood = np.exp(relative)
    with np.errstate(invalid="ignore"):
        soft = likelihood[gold_row] / np.add.reduceat(likelihood, first)
    soft = np.where(np.isinf(least), 1 / rows, soft)  # no row has a loss
    return Outcomes(
        task=questions.task,
        example=questions.example,
        correct=np.where(continues, scores.hits[first], chosen == gold_row),
        value=np.where(continues, np.exp(-losses[first]), soft),
        chance=np.where(continues, 0.0, 1 / rows),
        margin=np.where(continues, scores.gaps[first], _margins(losses, chosen, first, rows)),
        losses=scores.losses,
        first_row=questions.first_row,
    )


def _first_where(holds: NDArray[np.bool_], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first row of every question for which `holds` is true; there is one."""
    rows = np.where(holds, np.arange(len(holds)), len(holds))
    return np.minimum.reduceat(rows, first)


def _margins(
    losses: NDArray[np.float64],
    chosen: NDArray[np.int64],
    first: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    """From the smallest loss to the next; infinite for a single row."""
    others = losses.copy()
    others[chosen] = np.inf
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.minimum.reduceat(others, first) - losses[chosen], posinf=np.inf)


def summarise(
    tasks: tuple[Task, ...], outcomes: Outcomes, table: str, seconds: NDArray[np.float64]
) -> Result:
    """The result of every task of a bundle, by the baselines of `table`; `seconds` (Q)."""
    results = []
    for number, task in enumerate(tasks):
        own = outcomes.task == number
        correct, count = outcomes.correct[own], int(own.sum())
        chance = outcomes.chance[own]
        soft = (outcomes.value[own] - chance) / (1 - chance)
        accuracy = float(correct.mean())
        results.append(
            TaskResult(
                task=task,
                examples=count,
                baseline=task.baselines[table],
                accuracy=accuracy,
                accuracy_se=float(np.sqrt(accuracy * (1 - accuracy) / count)),
                soft=float(soft.mean()),
                soft_se=float(soft.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan"),
                seconds=float(seconds[own].sum()),
            )
        )
    return Result(tasks=tuple(results))


def _of_mean(errors: list[float]) -> float:
    """Standard error of the mean of independent numbers with these standard errors."""
    return float(np.sqrt(np.sum(np.square(errors))) / len(errors))
