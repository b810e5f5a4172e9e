"""Shared tokens that go through the model once change nothing, whatever tricks are on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import Config
from model.config.catalogue import TRICKS
from model.config.derive import derive
from model.config.reader import load_config
from model.core import layout
from model.core.eval_model import LOOKBACK, EvalModel
from model.core.layout import plan_batches
from model.core.outcomes import Scores
from model.core.questions import Questions
from model.core.score import score_rows
from model.errors import DataError
from model.gpt import GPT
from model.kernels import REFERENCE
from model.tricks.window_warmup import apply_long_window

STACK = Path(__file__).parents[3] / "ablations" / "configs" / "speedrun.yaml"
SMALL = {
    "dial.depth": 4,
    "model.width": 128,
    "model.head_width": 16,
    "model.context_tokens": 128,
    "model.vocab_size": 256,
    "system.precision": "fp32",
    "system.device": "cpu",
}
CPU = torch.device("cpu")
SHARED, SUFFIXES = (60, 90, 7), ([5, 9, 2], [1, 20], [30, 4, 4])


def questions(shares: bool, stretch: int = 1) -> Questions:
    """Three questions of random tokens; the same rows, with their common prefix shared or not."""
    draw = np.random.default_rng(5)
    shared = [draw.integers(0, 256, stretch * count) for count in SHARED]
    suffixes = [[draw.integers(0, 256, count) for count in counts] for counts in SUFFIXES]
    rows = [len(each) for each in suffixes]
    lengths = [len(s) + len(r) for s, own in zip(shared, suffixes, strict=True) for r in own]
    parts = []
    for front, own in zip(shared, suffixes, strict=True):
        parts += [front, *own] if shares else [np.concatenate((front, suffix)) for suffix in own]
    starts = np.repeat([len(front) for front in shared], rows)
    return Questions(
        task=np.zeros(3, np.int32),
        example=np.arange(3, dtype=np.int32),
        gold=np.zeros(3, np.int32),
        shared=np.array([len(front) if shares else 0 for front in shared], np.int32),
        first_row=np.concatenate(([0], np.cumsum(rows))),
        lengths=np.array(lengths, np.int32),
        starts=starts.astype(np.int32),
        same=np.arange(sum(rows)),
        tokens=np.concatenate(parts).astype(np.uint16),
    )


def built(config: Config) -> GPT:
    """A model in which every part has an effect: no projection or factor is 0."""
    torch.manual_seed(3)
    model = GPT(config, derive(config).sizes, REFERENCE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model


def scores_of(config: Config, batch: Questions) -> tuple[Scores, list[bool]]:
    eval_model = EvalModel(built(config), config, derive(config).sizes, REFERENCE)
    plan = plan_batches(batch, keep_tokens=None, batch_tokens=400)
    return score_rows(eval_model, batch, plan, CPU), [batch.shares for batch in plan.batches]


def with_trick(name: str, base: Path | None) -> Config:
    """The trick on, with what it requires; in the stack whatever is against it goes."""
    trick = TRICKS[name]
    changes: dict[str, object] = dict(SMALL)
    for needed in trick.requires:
        changes |= TRICKS[needed].on
    changes |= trick.on
    for other in trick.conflicts if base else ():
        changes |= TRICKS[other].off
    config = load_config(base, {**changes})
    if config.model.windows is not None:
        config = load_config(base, {**changes, "model.windows.short_tokens": 24})
    return config


@pytest.mark.parametrize("name", [name for name, t in TRICKS.items() if "model." in str(t.on)])
def test_with_every_trick_a_shared_prefix_scores_as_whole_rows(name: str) -> None:
    for base in (None, STACK):
        config = with_trick(name, base)
        stretch = 1 if config.model.rotary is None else 3  # beyond the context too
        apart, shares = scores_of(config, questions(True, stretch))
        whole, none_shares = scores_of(config, questions(False, stretch))
        assert any(shares)
        assert not any(none_shares)
        np.testing.assert_allclose(apart.losses, whole.losses, atol=2e-5, rtol=0)
        assert apart.losses.std() > 0.1


def test_an_eval_model_has_the_windows_that_a_schedule_has_reached() -> None:
    changes = {**SMALL, **TRICKS["window_warmup_yarn"].on, "model.context_tokens": 512}
    config = load_config(STACK, changes)
    model = built(config)
    for reached in (128, 256, 512):
        apply_long_window(model, config, reached)
        eval_model = EvalModel(model, config, derive(config).sizes, REFERENCE)
        tokens = torch.randint(0, 256, (1, 300), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(eval_model.stream(tokens), model.stream(tokens))


def test_a_suffix_depends_on_no_other_row_of_its_batch() -> None:
    config = with_trick("smear", STACK)
    batch = questions(True)
    together, _ = scores_of(config, batch)
    eval_model = EvalModel(built(config), config, derive(config).sizes, REFERENCE)
    alone = score_rows(
        eval_model, batch, plan_batches(batch, keep_tokens=None, batch_tokens=1), CPU
    )
    np.testing.assert_allclose(alone.losses, together.losses, atol=1e-5, rtol=0)


def test_layout_has_the_lookback_of_the_eval_model() -> None:
    assert layout.LOOKBACK == LOOKBACK


def test_an_eval_model_shares_the_tensors_of_its_source_and_leaves_it_unchanged() -> None:
    config = with_trick("bigram_hash_embedding", STACK)
    model = built(config)
    attends = [block.attention.attend for block in model.blocks]
    eval_model = EvalModel(model, config, derive(config).sizes, REFERENCE)
    theirs = dict(model.named_parameters()) | dict(model.named_buffers())
    own = dict(eval_model.gpt.named_parameters()) | dict(eval_model.gpt.named_buffers())
    assert {name: t.data_ptr() for name, t in own.items()} == {
        name: t.data_ptr() for name, t in theirs.items()
    }
    assert [block.attention.attend for block in model.blocks] == attends


def test_a_context_shorter_than_what_has_to_be_predicted_is_refused() -> None:
    batch = questions(True)
    assert plan_batches(batch, keep_tokens=31, batch_tokens=400).skipped.max() == 79
    with pytest.raises(DataError, match=r"model\.context_tokens: .*30 tokens to predict.*; got 30"):
        plan_batches(batch, keep_tokens=30, batch_tokens=400)


def test_all_ranks_together_have_every_batch_once_and_about_as_much_to_do() -> None:
    batch = questions(True)
    plan = plan_batches(batch, keep_tokens=None, batch_tokens=4000, ranks=2)
    shares = [plan.for_rank(rank, 2) for rank in range(2)]
    assert sorted(map(id, shares[0] + shares[1])) == sorted(map(id, plan.batches))
    loads = [sum(batch.tokens for batch in share) for share in shares]
    assert max(loads) - min(loads) <= max(batch.tokens for batch in plan.batches)
    assert len(plan.batches) > 1
