"""Which rows go through the model together, and on which rank.

A row costs its tokens, so rows of about one length share a batch, padded on the right, where causal
attention never looks. A question whose rows begin alike goes as shared tokens and rests
(model/core/eval_model.py) where that is cheaper. The longest come first, each batch to the rank
that has least to do, so that all ranks end together.

A row is the tokens of the model's input: all but its last, after which nothing is asked.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.core.questions import NO_GOLD, Questions
from model.errors import DataError

MOST_SHARED_COST = 0.75
"""Rests run in a pass of their own: less than a quarter saved is not worth it."""
PADDING_SHARE = 16
"""Lengths are rounded up to a sixteenth of a power of two, so that few differ."""
LEAST_STEP = 8
BATCHES_A_RANK = 8
"""At least so many, where tokens suffice, so that ranks end within an eighth of one another."""
AGAIN = 2  # model.core.twin.LOOKBACK, which needs torch; a test holds them equal


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Rows, or questions with shared tokens, that go through the model together."""

    members: NDArray[np.int64]
    """Rows; or questions, where `shares`."""
    shares: bool
    continues: bool
    """Whether they are of language modeling, where the logits' order counts too."""
    padded: int
    """Tokens of a row; of the shared part, where `shares`."""
    padded_rests: int = 0

    @property
    def tokens(self) -> int:
        """Its cost."""
        return len(self.members) * (self.padded + self.padded_rests)


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """All batches, the most expensive first, and how rows are cut."""

    batches: list[Batch]
    skipped: NDArray[np.int32]
    """(R) tokens that a row loses on the left."""

    def of_rank(self, rank: int, ranks: int) -> list[Batch]:
        """Those of one rank: greedily, each batch goes to the one that has least to do."""
        loads = [0] * ranks
        chosen = []
        for batch in self.batches:
            least = loads.index(min(loads))
            loads[least] += batch.tokens
            if least == rank:
                chosen.append(batch)
        return chosen


def laid_out(
    questions: Questions, *, keep_tokens: int | None, batch_tokens: int, ranks: int = 1
) -> Layout:
    """Batches of at most `batch_tokens`, or one row where that is longer.

    Of rows longer than `keep_tokens` the last so many are kept; null keeps all. Raises DataError
    where nothing would be left in front of the scored tokens.
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
            expected=f"a context longer than what has to be predicted: {scored} tokens of a prompt",
            got=str(keep_tokens),
            hint="Lengthen the context, or set core.long_prompts: full with rotary positions.",
        )
    return skipped


def _pays(questions: Questions, skipped: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(Q) whether sharing is possible and cheaper."""
    first = questions.first_row[:-1]
    rows = np.diff(questions.first_row)
    whole = np.add.reduceat(questions.lengths - 1, first)
    rests = whole - rows * (questions.shared - AGAIN)
    cheaper = questions.shared + rests <= MOST_SHARED_COST * whole
    uncut = np.add.reduceat(skipped, first) == 0
    possible = (questions.shared >= AGAIN) & (rows > 1) & (_rest_tokens(questions) > 0)
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
    rests = _rest_tokens(questions)[chosen]
    places = np.array([rounded(int(shared[each])) for each in chosen], np.int64)
    order = np.lexsort((-rests, -places))
    start = 0
    while start < len(order):
        end, padded, padded_rests = start, 0, 0
        while end < len(order):
            wider = max(padded, int(places[order[end]]))
            longer = max(padded_rests, rounded(int(rests[order[end]])))
            if end > start and (end - start + 1) * (wider + longer) > budget:
                break
            end, padded, padded_rests = end + 1, wider, longer
        yield Batch(
            members=chosen[order[start:end]],
            shares=True,
            continues=False,
            padded=padded,
            padded_rests=padded_rests,
        )
        start = end


def _rest_tokens(questions: Questions) -> NDArray[np.int64]:
    """(Q) places that the rests of a question's rows take."""
    rest = questions.lengths - np.repeat(questions.shared, np.diff(questions.first_row))
    places = np.where((rest > 0) & _is_first(questions), rest + AGAIN - 1, 0)
    return np.add.reduceat(places, questions.first_row[:-1])


def _is_first(questions: Questions) -> NDArray[np.bool_]:
    """(R) whether no row of its question before it has the same tokens."""
    return questions.same == np.arange(len(questions.same))


def rounded(length: int) -> int:
    """Up to a sixteenth of the power of two below it."""
    step = max(LEAST_STEP, (1 << (length.bit_length() - 1)) // PADDING_SHARE)
    return -(-length // step) * step
