"""Batches of rows, and their distribution over ranks.

The cost of a row is its tokens, so rows of similar length share a batch, padded on the right, where
causal attention does not look. A question whose rows share a prefix runs as prefix and suffixes
(model/core/eval_model.py) where that is cheaper. The longest batches come first, each on the rank
with the least work, so that all ranks end together.

A row is the tokens of the model's input: all but its last.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.core.questions import NO_GOLD, Questions
from model.errors import DataError

MOST_SHARED_COST = 0.75
"""Suffixes need a second pass, so sharing must save at least a quarter."""
PADDING_SHARE = 16
"""Lengths are rounded up to a sixteenth of a power of two, to limit their number."""
LEAST_STEP = 8
BATCHES_A_RANK = 8
"""At least so many where there are enough tokens, so that ranks end within an eighth of one
another."""
LOOKBACK = 2  # model.core.eval_model.LOOKBACK, without torch; a test compares them


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Rows, or questions with a shared prefix, that go through the model together."""

    members: NDArray[np.int64]
    """Rows; or questions, where `shares`."""
    shares: bool
    continues: bool
    """Whether the rows are of language modeling, which also needs the rank of the target logits."""
    padded: int
    """Tokens of a row; of the prefix, where `shares`."""
    padded_suffixes: int = 0

    @property
    def tokens(self) -> int:
        return len(self.members) * (self.padded + self.padded_suffixes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """All batches, the most expensive first, and how rows are cropped."""

    batches: list[Batch]
    skipped: NDArray[np.int32]
    """(R) tokens cropped on the left of a row."""

    def for_rank(self, rank: int, ranks: int) -> list[Batch]:
        """The batches of one rank: greedily, each batch goes to the rank with the least work."""
        loads = [0] * ranks
        chosen = []
        for batch in self.batches:
            least = loads.index(min(loads))
            loads[least] += batch.tokens
            if least == rank:
                chosen.append(batch)
        return chosen


def plan_batches(
    questions: Questions, *, keep_tokens: int | None, batch_tokens: int, ranks: int = 1
) -> Layout:
    """Batches of at most `batch_tokens`, or one longer row.

    Rows are cropped to their last `keep_tokens` tokens; null keeps all. Raises DataError where
    nothing would be left before the scored tokens.
    """
    skipped = _skipped(questions, keep_tokens)
    shared = _pays(questions, skipped)
    inputs = questions.lengths - skipped - 1
    budget = batch_tokens
    if ranks > 1:
        budget = min(budget, int(inputs.sum()) // (ranks * BATCHES_A_RANK) + 1)
    scored = (questions.starts < questions.lengths) & _is_first(questions)
    alone = np.flatnonzero(~np.repeat(shared, np.diff(questions.first_row)) & scored)
    batches = [*_of_rows(questions, alone, inputs, budget)]
    batches += _of_questions(questions, np.flatnonzero(shared), budget)
    batches.sort(key=lambda batch: -batch.tokens)
    return Layout(batches=batches, skipped=skipped)


def _skipped(questions: Questions, keep_tokens: int | None) -> NDArray[np.int32]:
    if keep_tokens is None:
        return np.zeros_like(questions.lengths)
    skipped = np.maximum(0, questions.lengths - keep_tokens)
    cut = np.flatnonzero(questions.starts - skipped < 1)
    if cut.size:
        row = int(cut[0])
        scored = int(questions.lengths[row] - questions.starts[row])
        raise DataError(
            path="model.context_tokens",
            expected=f"a context longer than the {scored} tokens to predict of a prompt",
            got=str(keep_tokens),
            hint="Lengthen the context, or set core.long_prompts: full with rotary positions.",
        )
    return skipped


def _pays(questions: Questions, skipped: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(Q) whether sharing is possible and cheaper."""
    first = questions.first_row[:-1]
    rows = np.diff(questions.first_row)
    whole = np.add.reduceat(questions.lengths - 1, first)
    suffixes = whole - rows * (questions.shared - LOOKBACK)
    cheaper = questions.shared + suffixes <= MOST_SHARED_COST * whole
    uncut = np.add.reduceat(skipped, first) == 0
    possible = (questions.shared >= LOOKBACK) & (rows > 1) & (_suffix_tokens(questions) > 0)
    return cheaper & uncut & possible


def _of_rows(
    questions: Questions, rows: NDArray[np.int64], inputs: NDArray[np.int32], budget: int
) -> Iterator[Batch]:
    continues = np.repeat(questions.gold == NO_GOLD, np.diff(questions.first_row))
    for kind in (True, False):
        chosen = rows[continues[rows] == kind]
        chosen = chosen[np.argsort(-inputs[chosen], kind="stable")]
        start = 0
        while start < len(chosen):
            padded = rounded(int(inputs[chosen[start]]))
            taken = max(1, budget // padded)
            members = chosen[start : start + taken]
            yield Batch(members=members, shares=False, continues=kind, padded=padded)
            start += taken


def _of_questions(questions: Questions, chosen: NDArray[np.int64], budget: int) -> Iterator[Batch]:
    shared = questions.shared
    suffixes = _suffix_tokens(questions)[chosen]
    places = np.array([rounded(int(shared[each])) for each in chosen], np.int64)
    order = np.lexsort((-suffixes, -places))
    start = 0
    while start < len(order):
        end, padded, padded_suffixes = start, 0, 0
        while end < len(order):
            wider = max(padded, int(places[order[end]]))
            longer = max(padded_suffixes, rounded(int(suffixes[order[end]])))
            if end > start and (end - start + 1) * (wider + longer) > budget:
                break
            end, padded, padded_suffixes = end + 1, wider, longer
        yield Batch(
            members=chosen[order[start:end]],
            shares=True,
            continues=False,
            padded=padded,
            padded_suffixes=padded_suffixes,
        )
        start = end


def _suffix_tokens(questions: Questions) -> NDArray[np.int64]:
    """(Q) tokens of the suffixes of a question's rows."""
    suffix = questions.lengths - np.repeat(questions.shared, np.diff(questions.first_row))
    places = np.where((suffix > 0) & _is_first(questions), suffix + LOOKBACK - 1, 0)
    return np.add.reduceat(places, questions.first_row[:-1])


def _is_first(questions: Questions) -> NDArray[np.bool_]:
    """(R) whether no earlier row of the question has the same tokens."""
    return questions.same == np.arange(len(questions.same))


def rounded(length: int) -> int:
    """Rounded up to a sixteenth of the power of two below it."""
    step = max(LEAST_STEP, (1 << (length.bit_length() - 1)) // PADDING_SHARE)
    return -(-length // step) * step
