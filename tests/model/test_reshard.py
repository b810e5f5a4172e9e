"""Optimizer states of one number of ranks as those of another: nothing is lost or rounded."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.arch.init import initialise
from model.config.derive import derive
from model.config.reader import load_config
from model.distributed.ranks import ALONE, Ranks
from model.gpt import GPT
from model.kernels import REFERENCE
from model.optim.labels import Optimizers
from model.optim.reshard import reshard_state

STACK = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml"
SMALL = {
    "dial.depth": 3,  # three layers, so that a stack of matrices has to be filled up
    "dial.batch_tokens": 12 * 16,
    "model.width": 64,
    "model.head_width": 32,
    "model.context_tokens": 16,
    "model.windows": None,
    "model.vocab_size": 1536,  # large enough for its tables to be split
    "optimizer.table_interval_steps": 2,
    "system.precision": "fp32",
    "system.device": "cpu",
    "system.compile": False,
}


def optimizers(ranks: Ranks = ALONE) -> Optimizers:
    config = load_config(STACK, SMALL)
    derived = derive(config, ranks.count)
    model = GPT(config, derived.sizes, REFERENCE)
    initialise(model, seed=1)
    return Optimizers(model, config, derived, REFERENCE, ranks)


def stepped() -> tuple[Optimizers, dict[str, Any]]:
    """One rank's optimizers after two steps on made-up gradients, and gradients that wait."""
    alone = optimizers()
    generator = torch.Generator().manual_seed(2)
    for step in range(3):
        alone.begin(step)
        for tensor in alone.parameters:
            drawn = torch.randn(tensor.shape, generator=generator).to(tensor)
            if tensor.grad is None:
                tensor.grad = drawn
            else:
                tensor.grad.copy_(drawn)
        alone.reduce()
        alone.step(step)
        alone.zero_grad()
    return alone, alone.state_dict()


def flat(state: Any, at: str = "") -> dict[str, torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return {at: state}
    if not isinstance(state, dict | list):
        return {}
    items = state.items() if isinstance(state, dict) else enumerate(state)
    inner = [flat(value, f"{at}.{name}") for name, value in items]
    return {name: tensor for each in inner for name, tensor in each.items()}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_state_cut_for_ranks_and_put_together_again_is_the_same(count: int) -> None:
    alone, state = stepped()
    assert state["waiting"], "no gradient waits"
    ranks = [optimizers(Ranks(rank=rank, count=count)) for rank in range(count)]
    cut = [reshard_state([state], each) for each in ranks]
    for each, own in zip(ranks, cut, strict=True):
        each.load_state_dict(own)  # shapes are those that a rank keeps
    again = flat(reshard_state(cut, alone))
    before = flat(state)
    assert again.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(again[name], tensor.to(again[name])), name
    other = 5 - count if count < 4 else 2
    others = [optimizers(Ranks(rank=rank, count=other)) for rank in range(other)]
    crossed = flat(reshard_state([reshard_state(cut, each) for each in others], alone))
    assert all(torch.equal(crossed[name], again[name]) for name in again)


def test_a_rank_gets_its_own_rows_and_matrices() -> None:
    alone, state = stepped()
    second = optimizers(Ranks(rank=1, count=2))
    own = reshard_state([state], second)
    head = next(n for n, group in enumerate(alone.adamw.param_groups) if group["label"] == "head")
    index = sum(len(group["params"]) for group in alone.adamw.param_groups[:head])
    whole = state["adamw"]["state"][index]["exp_avg"]
    assert torch.equal(own["adamw"]["state"][index]["exp_avg"], whole[768:])
    momentum = state["muon"]["64x64"]["momentum"]  # four matrices a layer
    assert torch.equal(own["muon"]["64x64"]["momentum"], momentum[6:])
    assert not any(gradient.any() for gradient in own["waiting"])  # rank 0 has the sum
