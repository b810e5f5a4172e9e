"""Batches through the model: what became of every row.

Of a row only the tokens that are scored go through the head, as the model has it (softcap,
rescale); softmax and loss are in fp32. A loss is that of a token given all before it. In language
modeling the order of the logits counts too: a token is hit when it is the model's first choice (the
lowest id, where several tie), and its gap is its logit less the best other's.

Nothing waits for a GPU until all its batches are begun. Means are taken on the CPU in fp64, row by
row, so that they depend on no other row.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.core.eval_model import LOOKBACK, EvalModel, Rests
from model.core.layout import Batch, Layout
from model.core.outcomes import Scores
from model.core.questions import Questions
from model.distributed.ranks import ALONE, Ranks
from model.system.timing import Clock, Lap

HEAD_CHUNK_TOKENS = {"cuda": 4096, "cpu": 256}
"""Logits of so many tokens are held at a time: 0.5 GB in fp32 at 32,768 words."""


def scored(
    twin: EvalModel,
    questions: Questions,
    layout: Layout,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Scores:
    """Every row of `questions`, this rank's batches here."""
    feeder = _Feeder(questions, layout, device)
    clock = Clock(device)
    done: list[tuple[_Fed, Tensor, Lap]] = []
    for batch in layout.of_rank(ranks.rank, ranks.count):
        fed = feeder.fed(batch)
        done.append((fed, _answers(twin, fed, continues=batch.continues), clock.lap()))
    rows = len(questions.lengths)
    found = torch.zeros(3, rows, dtype=torch.float64)
    seconds = torch.zeros(questions.count, dtype=torch.float64)
    for fed, answers, lap in done:
        found[:, fed.rows] = torch.from_numpy(_by_row(answers.cpu().numpy(), fed.counts))
        share = lap.seconds() / len(fed.questions)
        seconds.index_add_(0, fed.questions, torch.full((len(fed.questions),), share).double())
    if not ranks.alone:
        both = torch.cat((found.flatten(), seconds)).to(device)
        ranks.all_reduce(both).wait()
        found, seconds = both[: found.numel()].cpu().view(3, rows), both[found.numel() :].cpu()
    losses, gaps, hits = found.numpy()[:, questions.same]
    losses[questions.starts >= questions.lengths] = np.nan
    return Scores(losses=losses, gaps=gaps, hits=hits > 0, seconds=seconds.numpy())


def _answers(twin: EvalModel, fed: "_Fed", *, continues: bool) -> Tensor:
    """(3, M) loss, gap and hit of every scored token; without the order, gaps and hits are 0."""
    x = twin.stream(fed.tokens) if fed.rests is None else twin.follow(fed.tokens, fed.rests)
    chosen = x.flatten(0, 1)[fed.scored]  # (M, D)
    chunk = HEAD_CHUNK_TOKENS[x.device.type]
    parts = zip(chosen.split(chunk), fed.targets.split(chunk), strict=True)
    answers = [_of_logits(twin.logits(part), targets, continues) for part, targets in parts]
    return torch.cat(answers, dim=1)


def _of_logits(logits: Tensor, targets: Tensor, continues: bool) -> Tensor:
    losses = F.cross_entropy(logits, targets, reduction="none")
    if not continues:
        return torch.stack((losses, torch.zeros_like(losses), torch.zeros_like(losses)))
    own = logits.gather(1, targets[:, None])
    best, at = logits.scatter(1, targets[:, None], float("-inf")).max(dim=1)
    gap = own[:, 0] - best
    hit = (gap > 0) | ((gap == 0) & (at > targets))
    return torch.stack((losses, gap, hit.to(losses.dtype)))


def _by_row(answers: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(3, M) of tokens -> (3, R) of rows: mean loss, least gap, whether all were hit."""
    first = np.concatenate(([0], np.cumsum(counts)[:-1]))
    losses = np.add.reduceat(answers[0].astype(np.float64), first) / counts
    gaps, hits = (np.minimum.reduceat(answer, first) for answer in answers[1:])
    return np.stack((losses, gaps, hits))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fed:
    """A batch as the model takes it."""

    tokens: Tensor
    """(B, T), or the shared tokens (B, P)."""
    rests: Rests | None
    scored: Tensor
    """(M) places in the flattened output that predict a scored token, row by row."""
    targets: Tensor
    """(M)"""
    rows: Tensor
    """Those with scored tokens, in this order."""
    counts: NDArray[np.int64]
    """Scored tokens of each."""
    questions: Tensor
    """Of each member."""


class _Feeder:
    """Makes batches of flat tokens."""

    def __init__(self, questions: Questions, layout: Layout, device: torch.device) -> None:
        self.questions, self.device, self.skipped = questions, device, layout.skipped
        self.shared_at, self.rest_at = questions.places()
        self.question_of = np.repeat(np.arange(questions.count), np.diff(questions.first_row))

    def fed(self, batch: Batch) -> _Fed:
        return self._shared(batch) if batch.shares else self._whole(batch)

    def _whole(self, batch: Batch) -> _Fed:
        tokens = np.zeros((len(batch.members), batch.padded), np.int64)
        scored, targets = [], []
        for place, row in enumerate(batch.members):
            cut = self.skipped[row]
            text = self._row(int(row))[cut:]
            start = self.questions.starts[row] - cut
            tokens[place, : len(text) - 1] = text[:-1]
            scored.append(place * batch.padded + np.arange(start - 1, len(text) - 1))
            targets.append(text[start:])
        asked = self.question_of[batch.members]
        return self._fed(tokens, None, scored, targets, batch.members, asked)

    def _shared(self, batch: Batch) -> _Fed:
        size = len(batch.members), batch.padded_rests
        tokens = np.zeros((len(batch.members), batch.padded), np.int64)
        rests, places = np.zeros(size, np.int64), np.zeros(size, np.int64)
        of_row, own = np.full(size, -1), np.zeros(size, bool)
        scored, targets, rows = [], [], []
        for place, question in enumerate(batch.members):
            shared = self._shared_tokens(int(question))
            tokens[place, : len(shared)] = shared
            at, first = 0, len(shared) - LOOKBACK
            for row in self.questions.rows_of(int(question)):
                text = np.concatenate((shared[first:], self._rest(row)))
                start = self.questions.starts[row] - first
                if start >= len(text) or self.questions.same[row] != row:
                    continue  # nothing of its own
                end = at + len(text) - 1
                rests[place, at:end] = text[:-1]
                places[place, at:end] = first + np.arange(len(text) - 1)
                of_row[place, at:end] = row
                own[place, at + LOOKBACK : end] = True
                scored.append(place * batch.padded_rests + at + np.arange(start - 1, len(text) - 1))
                targets.append(text[start:])
                rows.append(row)
                at = end
        follow = Rests(
            tokens=self._sent(rests),
            places=self._sent(places),
            rows=self._sent(of_row),
            own=self._sent(own),
            shared=self._sent(self.questions.shared[batch.members]),
            end=int(places.max()) + 1,
        )
        return self._fed(tokens, follow, scored, targets, np.array(rows), batch.members)

    def _fed(
        self,
        tokens: NDArray[np.int64],
        rests: Rests | None,
        scored: list[NDArray[np.int64]],
        targets: list[NDArray[np.int64]],
        rows: NDArray[np.int64],
        questions: NDArray[np.int64],
    ) -> _Fed:
        return _Fed(
            tokens=self._sent(tokens),
            rests=rests,
            scored=self._sent(np.concatenate(scored)),
            targets=self._sent(np.concatenate(targets).astype(np.int64)),
            rows=torch.from_numpy(rows),
            counts=np.array([len(each) for each in scored]),
            questions=torch.from_numpy(questions),
        )

    def _sent(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _row(self, row: int) -> NDArray[np.int64]:
        shared = self._shared_tokens(int(self.question_of[row]))
        return np.concatenate((shared, self._rest(row)))

    def _shared_tokens(self, question: int) -> NDArray[np.int64]:
        at = self.shared_at[question]
        return self.questions.tokens[at : at + self.questions.shared[question]].astype(np.int64)

    def _rest(self, row: int) -> NDArray[np.int64]:
        at = self.rest_at[row]
        tokens = self.questions.lengths[row] - self.questions.shared[self.question_of[row]]
        return self.questions.tokens[at : at + tokens].astype(np.int64)
