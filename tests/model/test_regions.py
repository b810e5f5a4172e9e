"""A model compiled in pieces: blocks of one kind share one graph, and nothing else changes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from model.arch.init import initialise
from model.config.derive import derive
from model.config.reader import load_config
from model.gpt import GPT
from model.kernels import REFERENCE

SPEEDRUN = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml"
SMALL = {
    "dial.depth": 8,
    "dial.batch_tokens": 320,
    "model.width": 64,
    "model.head_width": 32,
    "model.context_tokens": 160,
    "model.vocab_size": 128,
    "system.precision": "fp32",
    "system.device": "cpu",
}
MORE_TRICKS: dict[str, object] = {
    "model__activation": "swiglu",
    "model__bigram_hash_embedding": {},
    "model__init": "gpt2",  # so that no zero projection hides what is in the blocks
    "model__logit_rescale": {},
    "model__paired_heads": {},
    "model__partial_key_offset": True,
    "model__rotary__half": {},
    "model__softcap": None,
    "model__sparse_attention_gate": {},
    "model__xsa": True,
}
AROUND = 3  # before the blocks, behind them, the losses


def built(base: Path | None, backend: str | None, **overrides: object) -> GPT:
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    config = load_config(base, {**SMALL, **named})
    model = GPT(config, derive(config).sizes, REFERENCE)
    initialise(model, seed=1)
    if backend is not None:
        torch._dynamo.reset()
        counters.clear()
        model.compile_regions(backend)
    return model


def gradients(model: GPT) -> list[Tensor]:
    tokens = torch.randint(128, (2, 161), generator=torch.Generator().manual_seed(2))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].contiguous()
    loss = model(inputs, targets)
    loss.backward()
    model.token_losses(inputs, targets)  # an evaluation compiles nothing of its own
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    ("base", "overrides", "kinds"),
    [
        (None, {}, 1),
        (SPEEDRUN, {}, 3),  # short; short with a table; long with a table
        # short with or without a table, each paired or not; long with a table
        pytest.param(SPEEDRUN, MORE_TRICKS, 5, marks=pytest.mark.slow),
        pytest.param(SPEEDRUN, {"model__windows": None}, 2, marks=pytest.mark.slow),
        pytest.param(SPEEDRUN, {"model__value_embeddings": None}, 2, marks=pytest.mark.slow),
    ],
)
def test_there_is_one_graph_a_kind_of_block(
    base: Path | None, overrides: dict[str, object], kinds: int
) -> None:
    model = built(base, "aot_eager", **overrides)
    gradients(model)
    sums = model.residual_scalars is not None  # of the gradients of x0
    bigrams = model.bigram_hash_embedding is not None  # its rows, looked up
    assert counters["stats"]["unique_graphs"] == kinds + AROUND + sums + bigrams


@pytest.mark.slow
@pytest.mark.parametrize("tricks", [{}, pytest.param(MORE_TRICKS, marks=pytest.mark.slow)])
def test_compiled_pieces_compute_what_the_whole_does(tricks: dict[str, object]) -> None:
    plain, compiled = (
        gradients(built(SPEEDRUN, backend, **tricks)) for backend in (None, "aot_eager")
    )
    assert len(plain) == len(compiled) > 50
    for got, expected in zip(compiled, plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)
