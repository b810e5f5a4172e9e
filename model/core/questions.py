"""All questions of an evaluation as tokens: flat arrays, encoded once, in parallel.

A question is one item with its shots; its rows are its choices, contexts, or one continuation. A
row is BOS and its text; the tokens from `starts` to its end are scored. The prefix that all rows of
a question share is stored once and may be computed once:

    tokens   [ shared of question 0 | suffix of its row 0 | suffix of row 1 | ... | shared of ... ]

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
"""`gold` of language modeling, which has one row."""
MOST_OF_TWO_BYTES = 1 << 16
CHUNK = 64  # items a thread encodes at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """The selected questions of every task, in the bundle's order, then in the metric's order."""

    task: NDArray[np.int32]
    """(Q) index of its task in the bundle."""
    example: NDArray[np.int32]
    """(Q) row of the task's file, from 0."""
    gold: NDArray[np.int32]
    """(Q) the index of the right row, or NO_GOLD."""
    shared: NDArray[np.int32]
    """(Q) tokens of the prefix that all its rows share, none of them scored."""
    first_row: NDArray[np.int64]
    """(Q + 1) its rows are first_row[q] to first_row[q + 1]."""
    lengths: NDArray[np.int32]
    """(R) tokens of a row, BOS included."""
    starts: NDArray[np.int32]
    """(R) the first scored token; `lengths` where there is none."""
    same: NDArray[np.int64]
    """(R) the question's first row with the same tokens, possibly itself."""
    tokens: Tokens
    """Flat, as in the module's docstring."""

    @property
    def count(self) -> int:
        return len(self.task)

    def rows_of(self, question: int) -> range:
        return range(int(self.first_row[question]), int(self.first_row[question + 1]))

    def offsets(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Offsets in `tokens` of a question's prefix (Q) and of a row's suffix (R)."""
        rows = np.diff(self.first_row)
        suffix = self.lengths - np.repeat(self.shared, rows)  # (R)
        ends = np.concatenate(([0], np.cumsum(suffix, dtype=np.int64)))
        before = np.concatenate(([0], np.cumsum(self.shared, dtype=np.int64)))
        of_question = before[:-1] + ends[self.first_row[:-1]]
        of_row = np.repeat(before[1:], rows) + ends[:-1]
        return of_question, of_row


@dataclass(frozen=True)
class _Question:
    """One question's tokens."""

    shared: Tokens
    suffixes: list[Tokens]
    starts: list[int]


def encode_bundle(
    bundle: Bundle, tokenizer: Tokenizer, max_per_task: int | None, progress: Callable[[str], None]
) -> Questions:
    """Render and encode a bundle. Raises DataError for a faulty item."""
    selected: list[tuple[int, int, int]] = []
    rows: list[_Question] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, task in enumerate(bundle.tasks):
            items = bundle.items(task)
            order = prompts.selected(len(items), max_per_task)
            prompts.require_enough(task, len(order), max_per_task, bundle.path(task))
            chosen = [items[at] for at in order]
            selected += [(number, at, _gold(items[at])) for at in order]
            rows += _encode_task(pool, tokenizer, task, chosen)
    progress(f"CORE: {len(rows):,} prompts of {len(bundle.tasks)} tasks encoded")
    return _joined(selected, rows, tokenizer.vocab_size)


def _encode_task(
    pool: ThreadPoolExecutor, tokenizer: Tokenizer, task: Task, items: Sequence[Item]
) -> Iterator[_Question]:
    def some(start: int) -> list[_Question]:
        indices = range(start, min(start + CHUNK, len(items)))
        return [_encode_item(tokenizer, task, prompts.texts(task, items, i)) for i in indices]

    for chunk in pool.map(some, range(0, len(items), CHUNK)):
        yield from chunk


def _encode_item(tokenizer: Tokenizer, task: Task, texts: list[str]) -> _Question:
    rows = tokenizer.encode_prompts(texts)
    if task.kind == "language_modeling":
        prompt, whole = rows
        # all tokens after the prompt, and its last ones where a token spans both
        return _Question(whole[:0], [whole], [max(1, _common_length([prompt, whole]))])
    common = _common_length(rows)
    starts = [common] * len(rows)
    if task.kind == "schema":
        end = _common_length([row[::-1] for row in rows])
        starts = [max(1, len(row) - end) for row in rows]
    shared = min(common, *starts)
    return _Question(rows[0][:shared], [row[shared:] for row in rows], starts)


def _common_length(rows: Sequence[Tokens]) -> int:
    """Length of the common prefix of all rows."""
    until = min(len(row) for row in rows)
    first = rows[0]
    for row in rows[1:]:
        differs = np.flatnonzero(row[:until] != first[:until])
        until = int(differs[0]) if differs.size else until
    return until


def _equals(suffixes: Sequence[Tokens]) -> list[int]:
    """For each suffix, the index of the first equal one."""
    texts = [suffix.tobytes() for suffix in suffixes]
    return [texts.index(text) for text in texts]


def _gold(item: Item) -> int:
    return NO_GOLD if isinstance(item, Continuation) else item.gold


def _joined(
    selected: list[tuple[int, int, int]], rows: list[_Question], vocab_size: int
) -> Questions:
    dtype = np.uint16 if vocab_size <= MOST_OF_TWO_BYTES else np.uint32
    task, example, gold = (np.array(column, np.int32) for column in zip(*selected, strict=True))
    counts = [len(question.suffixes) for question in rows]
    first_row = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    shared = np.array([len(question.shared) for question in rows], np.int32)
    suffixes = [len(suffix) for question in rows for suffix in question.suffixes]
    parts = [part for question in rows for part in (question.shared, *question.suffixes)]
    return Questions(
        task=task,
        example=example,
        gold=gold,
        shared=shared,
        first_row=first_row,
        lengths=np.repeat(shared, counts) + np.array(suffixes, np.int32),
        starts=np.array([start for question in rows for start in question.starts], np.int32),
        same=np.repeat(first_row[:-1], counts) + [i for q in rows for i in _equals(q.suffixes)],
        tokens=np.concatenate(parts).astype(dtype),
    )
