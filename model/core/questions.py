"""All questions of an evaluation as tokens: flat arrays, made once, in parallel.

A question is one item with its shots; its rows are its choices, contexts, or one continuation. A
row is BOS and its text; the tokens from `starts` to its end are scored. What all rows of a question
begin with is stored once and may be computed once:

    tokens   [ shared of question 0 | rest of its row 0 | rest of row 1 | ... | shared of ... ]

Q questions, R rows.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.core import prompts
from model.core.bundle import Bundle
from model.core.task import Continuation, Item, Task
from model.data.tokenizer import Tokenizer

Tokens = NDArray[Any]
NO_GOLD = -1
"""Of language modeling, which has one row."""
MOST_OF_TWO_BYTES = 1 << 16
CHUNK = 64  # items a thread takes at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """Of every task, in the bundle's order, the questions that are asked, in the metric's order."""

    task: NDArray[np.int32]
    """(Q) place of its task in the bundle."""
    example: NDArray[np.int32]
    """(Q) row of the task's file, from 0."""
    gold: NDArray[np.int32]
    """(Q) the right row of its rows, or NO_GOLD."""
    shared: NDArray[np.int32]
    """(Q) tokens that all its rows begin with, none of them scored."""
    first_row: NDArray[np.int64]
    """(Q + 1) its rows are first_row[q] to first_row[q + 1]."""
    lengths: NDArray[np.int32]
    """(R) tokens of a row, BOS included."""
    starts: NDArray[np.int32]
    """(R) the first token that is scored; `lengths` where none is."""
    same: NDArray[np.int64]
    """(R) the first row of the question with the same tokens, itself where there is none before."""
    tokens: Tokens
    """Flat, as above."""

    @property
    def count(self) -> int:
        """Q."""
        return len(self.task)

    def rows_of(self, question: int) -> range:
        """A question's rows."""
        return range(int(self.first_row[question]), int(self.first_row[question + 1]))

    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in `tokens` a question's shared part begins (Q), and a row's rest (R)."""
        rows = np.diff(self.first_row)
        rest = self.lengths - np.repeat(self.shared, rows)  # (R)
        ends = np.concatenate(([0], np.cumsum(rest, dtype=np.int64)))
        before = np.concatenate(([0], np.cumsum(self.shared, dtype=np.int64)))
        of_question = before[:-1] + ends[self.first_row[:-1]]
        of_row = np.repeat(before[1:], rows) + ends[:-1]
        return of_question, of_row


@dataclass(frozen=True)
class _Rows:
    """One question's tokens."""

    shared: Tokens
    rests: list[Tokens]
    starts: list[int]


def encoded(
    bundle: Bundle, tokenizer: Tokenizer, max_per_task: int | None, told: Callable[[str], None]
) -> Questions:
    """Renders and encodes all of a bundle. Raises DataError for a faulty item."""
    asked: list[tuple[int, int, int]] = []
    rows: list[_Rows] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, task in enumerate(bundle.tasks):
            items = bundle.items(task)
            places = prompts.asked(len(items), max_per_task)
            prompts.require_enough(task, len(places), max_per_task, bundle.path(task))
            chosen = [items[place] for place in places]
            asked += [(number, at, _gold(items[at])) for at in places]
            rows += _encoded_task(pool, tokenizer, task, chosen)
    told(f"CORE: {len(rows):,} prompts of {len(bundle.tasks)} tasks encoded")
    return _joined(asked, rows, tokenizer.vocab_size)


def _encoded_task(
    pool: ThreadPoolExecutor, tokenizer: Tokenizer, task: Task, items: Sequence[Item]
) -> Iterator[_Rows]:
    def some(start: int) -> list[_Rows]:
        indices = range(start, min(start + CHUNK, len(items)))
        return [_encoded(tokenizer, task, prompts.texts(task, items, i)) for i in indices]

    for chunk in pool.map(some, range(0, len(items), CHUNK)):
        yield from chunk


def _encoded(tokenizer: Tokenizer, task: Task, texts: list[str]) -> _Rows:
    rows = tokenizer.encode_prompts(texts)
    if task.kind == "language_modeling":
        prompt, whole = rows
        # the prompt's own tokens, unless the vocabulary joins its end with the continuation
        return _Rows(whole[:0], [whole], [max(1, _equal_until([prompt, whole]))])
    common = _equal_until(rows)
    starts = [common] * len(rows)
    if task.kind == "schema":
        end = _equal_until([row[::-1] for row in rows])
        starts = [max(1, len(row) - end) for row in rows]
    shared = min(common, *starts)
    return _Rows(rows[0][:shared], [row[shared:] for row in rows], starts)


def _equal_until(rows: Sequence[Tokens]) -> int:
    """How many tokens all rows begin with."""
    until = min(len(row) for row in rows)
    first = rows[0]
    for row in rows[1:]:
        differs = np.flatnonzero(row[:until] != first[:until])
        until = int(differs[0]) if differs.size else until
    return until


def _equals(rests: Sequence[Tokens]) -> list[int]:
    """Of each the place of the first that is equal to it."""
    texts = [rest.tobytes() for rest in rests]
    return [texts.index(text) for text in texts]


def _gold(item: Item) -> int:
    return NO_GOLD if isinstance(item, Continuation) else item.gold


def _joined(asked: list[tuple[int, int, int]], rows: list[_Rows], vocab_size: int) -> Questions:
    kept = np.uint16 if vocab_size <= MOST_OF_TWO_BYTES else np.uint32
    task, example, gold = (np.array(column, np.int32) for column in zip(*asked, strict=True))
    counts = [len(question.rests) for question in rows]
    first_row = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    shared = np.array([len(question.shared) for question in rows], np.int32)
    rests = [len(rest) for question in rows for rest in question.rests]
    parts = [part for question in rows for part in (question.shared, *question.rests)]
    return Questions(
        task=task,
        example=example,
        gold=gold,
        shared=shared,
        first_row=first_row,
        lengths=np.repeat(shared, counts) + np.array(rests, np.int32),
        starts=np.array([start for question in rows for start in question.starts], np.int32),
        same=np.repeat(first_row[:-1], counts) + [i for q in rows for i in _equals(q.rests)],
        tokens=np.concatenate(parts).astype(kept),
    )
