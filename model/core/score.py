"""Scores batches with the model.

Only scored tokens go through the head, as the model has it (softcap, rescale); softmax and loss are
in fp32. A loss is that of a token given all tokens before it. Language modeling also ranks the
logits: a token is a hit when it is the model's first choice (the lowest id on ties), and its gap is
its logit minus the best other logit.

The host launches all batches before it waits for the GPU. Means are computed on the CPU in fp64,
row by row, so that no row depends on another.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.core.eval_model import LOOKBACK, EvalModel, Suffixes
from model.core.layout import Batch, Layout
from model.core.outcomes import Scores
from model.core.questions import Questions
from model.distributed.ranks import ALONE, Ranks
from model.system.timing import Clock, Lap

HEAD_CHUNK_TOKENS = {"cuda": 4096, "cpu": 256}
"""Tokens whose logits are in memory at a time: 0.5 GB in fp32 with a vocabulary of 32,768."""


def score_rows(
    eval_model: EvalModel,
    questions: Questions,
    layout: Layout,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Scores:
    """Score every row of `questions`; this rank runs its own batches."""
    builder = _InputBuilder(questions, layout, device)
    clock = Clock(device)
    done: list[tuple[_ModelInput, Tensor, Lap]] = []
    for batch in layout.for_rank(ranks.rank, ranks.count):
        inputs = builder.build(batch)
        done.append(
            (inputs, _token_scores(eval_model, inputs, continues=batch.continues), clock.lap())
        )
    rows = len(questions.lengths)
    found = torch.zeros(3, rows, dtype=torch.float64)
    seconds = torch.zeros(questions.count, dtype=torch.float64)
    for inputs, scores, lap in done:
        found[:, inputs.rows] = torch.from_numpy(_reduce_rows(scores.cpu().numpy(), inputs.counts))
        share = lap.seconds() / len(inputs.questions)
        seconds.index_add_(
            0, inputs.questions, torch.full((len(inputs.questions),), share).double()
        )
    if not ranks.alone:
        both = torch.cat((found.flatten(), seconds)).to(device)
        ranks.all_reduce(both).wait()
        found, seconds = both[: found.numel()].cpu().view(3, rows), both[found.numel() :].cpu()
    losses, gaps, hits = found.numpy()[:, questions.same]
    losses[questions.starts >= questions.lengths] = np.nan
    return Scores(losses=losses, gaps=gaps, hits=hits > 0, seconds=seconds.numpy())


def _token_scores(eval_model: EvalModel, inputs: "_ModelInput", *, continues: bool) -> Tensor:
    """(3, M) loss, gap and hit of every scored token; gaps and hits are 0 unless `continues`."""
    x = (
        eval_model.stream(inputs.tokens)
        if inputs.suffixes is None
        else eval_model.follow(inputs.tokens, inputs.suffixes)
    )
    chosen = x.flatten(0, 1)[inputs.scored]  # (M, D)
    chunk = HEAD_CHUNK_TOKENS[x.device.type]
    parts = zip(chosen.split(chunk), inputs.targets.split(chunk), strict=True)
    scores = [_score_logits(eval_model.logits(part), targets, continues) for part, targets in parts]
    return torch.cat(scores, dim=1)


def _score_logits(logits: Tensor, targets: Tensor, continues: bool) -> Tensor:
    losses = F.cross_entropy(logits, targets, reduction="none")
    if not continues:
        return torch.stack((losses, torch.zeros_like(losses), torch.zeros_like(losses)))
    target_logits = logits.gather(1, targets[:, None])
    best, at = logits.scatter(1, targets[:, None], float("-inf")).max(dim=1)
    gap = target_logits[:, 0] - best
    hit = (gap > 0) | ((gap == 0) & (at > targets))
    return torch.stack((losses, gap, hit.to(losses.dtype)))


def _reduce_rows(scores: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(3, M) of tokens -> (3, R) of rows: mean loss, smallest gap, whether all tokens are hits."""
    first = np.concatenate(([0], np.cumsum(counts)[:-1]))
    losses = np.add.reduceat(scores[0].astype(np.float64), first) / counts
    gaps, hits = (np.minimum.reduceat(values, first) for values in scores[1:])
    return np.stack((losses, gaps, hits))


@dataclass(frozen=True, kw_only=True, eq=False)
class _ModelInput:
    """A batch as tensors."""

    tokens: Tensor
    """(B, T), or prefixes (B, P)."""
    suffixes: Suffixes | None
    scored: Tensor
    """(M) indices into the flattened output that predict a scored token, row by row."""
    targets: Tensor
    """(M)"""
    rows: Tensor
    """The rows with scored tokens, in this order."""
    counts: NDArray[np.int64]
    questions: Tensor
    """The question of each member."""


class _InputBuilder:
    """Builds batches from flat tokens."""

    def __init__(self, questions: Questions, layout: Layout, device: torch.device) -> None:
        self.questions, self.device, self.skipped = questions, device, layout.skipped
        self.shared_at, self.suffix_at = questions.offsets()
        self.question_of = np.repeat(np.arange(questions.count), np.diff(questions.first_row))

    def build(self, batch: Batch) -> _ModelInput:
        return self._shared(batch) if batch.shares else self._whole(batch)

    def _whole(self, batch: Batch) -> _ModelInput:
        tokens = np.zeros((len(batch.members), batch.padded), np.int64)
        scored, targets = [], []
        for place, row in enumerate(batch.members):
            cut = self.skipped[row]
            text = self._row(int(row))[cut:]
            start = self.questions.starts[row] - cut
            tokens[place, : len(text) - 1] = text[:-1]
            scored.append(place * batch.padded + np.arange(start - 1, len(text) - 1))
            targets.append(text[start:])
        of_member = self.question_of[batch.members]
        return self._input(tokens, None, scored, targets, batch.members, of_member)

    def _shared(self, batch: Batch) -> _ModelInput:
        size = len(batch.members), batch.padded_suffixes
        tokens = np.zeros((len(batch.members), batch.padded), np.int64)
        suffixes, positions = np.zeros(size, np.int64), np.zeros(size, np.int64)
        of_row, is_key = np.full(size, -1), np.zeros(size, bool)
        scored, targets, rows = [], [], []
        for place, question in enumerate(batch.members):
            shared = self._shared_tokens(int(question))
            tokens[place, : len(shared)] = shared
            at, first = 0, len(shared) - LOOKBACK
            for row in self.questions.rows_of(int(question)):
                text = np.concatenate((shared[first:], self._suffix(row)))
                start = self.questions.starts[row] - first
                if start >= len(text) or self.questions.same[row] != row:
                    continue  # no token of its own, or a copy
                end = at + len(text) - 1
                suffixes[place, at:end] = text[:-1]
                positions[place, at:end] = first + np.arange(len(text) - 1)
                of_row[place, at:end] = row
                is_key[place, at + LOOKBACK : end] = True
                scored.append(
                    place * batch.padded_suffixes + at + np.arange(start - 1, len(text) - 1)
                )
                targets.append(text[start:])
                rows.append(row)
                at = end
        suffix = Suffixes(
            tokens=self._to_device(suffixes),
            positions=self._to_device(positions),
            rows=self._to_device(of_row),
            is_key=self._to_device(is_key),
            shared=self._to_device(self.questions.shared[batch.members]),
            end=int(positions.max()) + 1,
        )
        return self._input(tokens, suffix, scored, targets, np.array(rows), batch.members)

    def _input(
        self,
        tokens: NDArray[np.int64],
        suffixes: Suffixes | None,
        scored: list[NDArray[np.int64]],
        targets: list[NDArray[np.int64]],
        rows: NDArray[np.int64],
        questions: NDArray[np.int64],
    ) -> _ModelInput:
        return _ModelInput(
            tokens=self._to_device(tokens),
            suffixes=suffixes,
            scored=self._to_device(np.concatenate(scored)),
            targets=self._to_device(np.concatenate(targets).astype(np.int64)),
            rows=torch.from_numpy(rows),
            counts=np.array([len(each) for each in scored]),
            questions=torch.from_numpy(questions),
        )

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _row(self, row: int) -> NDArray[np.int64]:
        shared = self._shared_tokens(int(self.question_of[row]))
        return np.concatenate((shared, self._suffix(row)))

    def _shared_tokens(self, question: int) -> NDArray[np.int64]:
        at = self.shared_at[question]
        return self.questions.tokens[at : at + self.questions.shared[question]].astype(np.int64)

    def _suffix(self, row: int) -> NDArray[np.int64]:
        at = self.suffix_at[row]
        tokens = self.questions.lengths[row] - self.questions.shared[self.question_of[row]]
        return self.questions.tokens[at : at + tokens].astype(np.int64)
