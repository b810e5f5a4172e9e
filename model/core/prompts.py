"""Items as text: which of a task are asked, which solved ones stand in front, how it all is joined.

Everything random is fixed by the metric: a task's items are shuffled by Random(1337) and cut to
`max_per_task`; item i of that list gets its shots by Random(1234 + i) from the others of the list.
So a smaller `max_per_task` asks other shots too, and results of different values are not compared.

    shot, blank line, shot, blank line, ..., query + delimiter + answer

Standard library only.
"""

import random
from collections.abc import Sequence

from model.core.task import Choice, Continuation, Item, Schema, Task
from model.errors import DataError

ORDER_SEED = 1337
SHOTS_SEED = 1234
BETWEEN = "\n\n"


def asked(count: int, max_per_task: int | None) -> list[int]:
    """The rows of a task's file that are asked, in the order of the metric."""
    rows = list(range(count))
    random.Random(ORDER_SEED).shuffle(rows)
    return rows[:max_per_task]


def shots_of(index: int, count: int, shots: int) -> list[int]:
    """PositionIds in the list of `count` asked items whose items stand in front of item `index`."""
    # a sample of all places but one, without writing them down for each of 20,000 items
    drawn = random.Random(SHOTS_SEED + index).sample(range(count - 1), shots) if shots else []
    return [place + (place >= index) for place in drawn]


def require_enough(task: Task, count: int, max_per_task: int | None, file: object) -> None:
    """Raises DataError where there are no items left to be shots."""
    if count > task.shots:
        return
    got, hint = f"{count} items in {file}", "Complete that file."
    where = "core.bundle"
    if max_per_task is not None and max_per_task <= task.shots:
        where, got, hint = "core.max_per_task", str(max_per_task), "Raise it."
    expected = f"more than {task.shots} items, the shots of {task.name}"
    raise DataError(path=where, expected=expected, got=got, hint=hint)


def texts(task: Task, items: Sequence[Item], index: int) -> list[str]:
    """Item `index` of the asked ones as the texts of its rows.

    One row a choice or context. Of language modeling two: the prompt alone, without the white space
    at its end, and the prompt with its continuation.
    """
    shots = [solved(task, items[at]) for at in shots_of(index, len(items), task.shots)]
    ends = _ends(task, items[index])
    prompts = [BETWEEN.join([*shots, end]) for end in ends]
    if task.kind == "language_modeling":
        prompts[0] = prompts[0].rstrip()
    return prompts


def solved(task: Task, item: Item) -> str:
    """An item with its right answer."""
    match item:
        case Choice(query, choices, gold):
            return query + task.delimiter + choices[gold]
        case Schema(contexts, continuation, gold):
            return contexts[gold] + task.delimiter + continuation
        case Continuation(context, continuation):
            return context.strip() + task.delimiter + continuation


def _ends(task: Task, item: Item) -> list[str]:
    match item:
        case Choice(query, choices, _):
            return [query + task.delimiter + choice for choice in choices]
        case Schema(contexts, continuation, _):
            return [context + task.delimiter + continuation for context in contexts]
        case Continuation(context, continuation):
            prompt = context.strip() + task.delimiter
            return [prompt, prompt + continuation]
