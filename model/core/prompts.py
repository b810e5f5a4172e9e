"""Items as text: the selected items of a task, their shots, and the format of a prompt.

The metric fixes all randomness: a task's items are shuffled by Random(1337) and cut to
`max_per_task`; item i of that list gets its shots by Random(1234 + i) from the others. A smaller
`max_per_task` therefore changes the shots too, and results of different values are not comparable.

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


def selected(count: int, max_per_task: int | None) -> list[int]:
    """The selected rows of a task's file, in the order of the metric."""
    rows = list(range(count))
    random.Random(ORDER_SEED).shuffle(rows)
    return rows[:max_per_task]


def shots_of(index: int, count: int, shots: int) -> list[int]:
    """Indices of the shots of item `index`, in the list of `count` selected items."""
    # a sample of all indices but one, without a list for each of 20,000 items
    drawn = random.Random(SHOTS_SEED + index).sample(range(count - 1), shots) if shots else []
    return [place + (place >= index) for place in drawn]


def require_enough(task: Task, count: int, max_per_task: int | None, file: object) -> None:
    """Raise DataError where too few items are left as shots."""
    if count > task.shots:
        return
    got, hint = f"{count} items in {file}", "Complete that file."
    where = "core.bundle"
    if max_per_task is not None and max_per_task <= task.shots:
        where, got, hint = "core.max_per_task", str(max_per_task), "Increase it."
    expected = f"more than {task.shots} items, the shots of {task.name}"
    raise DataError(path=where, expected=expected, got=got, hint=hint)


def texts(task: Task, items: Sequence[Item], index: int) -> list[str]:
    """The rows of selected item `index` as texts.

    One row a choice or context. Language modeling has two: the prompt without trailing white space,
    and the prompt with its continuation.
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
