"""Cautious decay of AdamW against its formula, number by number in 64 bits, and in a trainer."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import Config
from model.config.derive import derive
from model.config.reader import load_config
from model.errors import ConfigErrors
from model.trainer import Trainer
from model.tricks.adamw_cautious_decay import CautiousAdamW

LR, DECAY, BETAS, EPS = 0.01, 2.0, (0.8, 0.995), 1e-10
CPU = torch.device("cpu")
SMALL = {
    "dial.depth": 2,
    "dial.steps": 6,
    "dial.batch_tokens": 64,
    "model.width": 64,
    "model.context_tokens": 32,
    "model.vocab_size": 64,
    "model.tied_head": False,
    "optimizer.adamw_cautious_decay": {},
    "system.precision": "fp32",
    "system.device": "cpu",
    "system.compile": False,
}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def optimizer_of(weight: nn.Parameter, *, decay: float = DECAY, compiled: bool = False) -> Any:
    group = {"params": [weight], "lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": decay}
    return CautiousAdamW([{**group, "cautious": True}], compiled=compiled)


def test_decay_is_masked_by_the_sign_of_update_and_weight() -> None:
    weight = nn.Parameter(drawn(1, 4, 3))
    with torch.no_grad():
        weight[0, 0] = 0.0
    optimizer = optimizer_of(weight)
    slow = {place: [weight[place].item(), 0.0, 0.0] for place in product(range(4), range(3))}
    masks = set()
    for step in range(1, 6):
        gradient = drawn(10 + step, 4, 3)
        gradient[1, 1] = 0.0  # a weight without an update does not decay
        weight.grad = gradient
        optimizer.step()
        for place, (p, m, v) in slow.items():
            g = gradient[place].item()
            m = BETAS[0] * m + (1 - BETAS[0]) * g
            v = BETAS[1] * v + (1 - BETAS[1]) * g * g
            u = m / (1 - BETAS[0] ** step) / (math.sqrt(v / (1 - BETAS[1] ** step)) + EPS)
            masks.add(u * p > 0)
            slow[place] = [p - LR * (u + (DECAY * p if u * p > 0 else 0.0)), m, v]
        for place, (p, m, v) in slow.items():
            state = optimizer.state[weight]
            got = [x[place].item() for x in (weight, state["exp_avg"], state["exp_avg_sq"])]
            assert got == pytest.approx([p, m, v], rel=1e-5, abs=1e-7)
    assert masks == {True, False}


def test_without_decay_the_step_is_torchs() -> None:
    ours, theirs = nn.Parameter(drawn(1, 8, 5)), nn.Parameter(drawn(1, 8, 5))
    optimizer = optimizer_of(ours, decay=0.0)
    torchs = torch.optim.AdamW([theirs], lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0, fused=True)
    for step in range(4):
        ours.grad = drawn(10 + step, 8, 5)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        torchs.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    own, torchs_own = optimizer.state[ours], torchs.state[theirs]
    assert own.keys() == torchs_own.keys()
    for name, value in own.items():
        torch.testing.assert_close(value, torchs_own[name])
        assert value.dtype == torchs_own[name].dtype


def test_in_bf16_decay_and_update_are_rounded_once() -> None:
    """The decay alone is under half of a bf16 step and would be lost every time."""
    weight = nn.Parameter(drawn(1, 4000).to(torch.bfloat16))
    before = weight.detach().double()
    optimizer = optimizer_of(weight, decay=0.15)
    weight.grad = drawn(2, 4000).to(torch.bfloat16)
    optimizer.step()
    sign = weight.grad.double().sign()  # the first update, up to eps
    decayed = 0.15 * before * (sign * before > 0)
    exact = (before - LR * (sign + decayed)).to(torch.bfloat16)
    without = (before - LR * sign).to(torch.bfloat16)
    assert torch.equal(before * (1 - LR * 0.15), before) is False
    assert torch.equal((before * (1 - LR * 0.15)).to(torch.bfloat16), before.to(torch.bfloat16))
    assert (weight == exact).float().mean() > 0.995
    assert (weight != without).float().mean() > 0.05


def test_compiled_it_is_one_graph_that_another_learning_rate_does_not_renew() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    weight, eager = nn.Parameter(drawn(1, 8, 5)), nn.Parameter(drawn(1, 8, 5))
    optimizers = [optimizer_of(weight), optimizer_of(eager)]
    optimizers[0].adamw_step = torch.compile(
        optimizers[0].adamw_step, dynamic=False, fullgraph=True, backend="aot_eager"
    )
    before = weight.detach().clone()
    optimizers[0].warm_up()
    assert torch.equal(weight, before)
    assert not optimizers[0].state
    for step in range(3):
        for optimizer, tensor in zip(optimizers, (weight, eager), strict=True):
            tensor.grad = drawn(10 + step, 8, 5)
            optimizer.param_groups[0]["lr"] = LR / (1 + step)
            optimizer.step()
    torch.testing.assert_close(weight, eager)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def config_of(**changes: Any) -> Config:
    return load_config(None, {**SMALL, **{k.replace("__", "."): v for k, v in changes.items()}})


def labels_of(config: Config) -> set[str]:
    trainer = Trainer(config, derive(config), CPU)
    groups = trainer.optimizers.adamw.param_groups
    return {group["label"] for group in groups if group.get("cautious")}


def test_all_labels_with_a_decay_have_it_or_those_that_are_named() -> None:
    assert labels_of(config_of()) == {"matrices", "embedding", "head", "positions"}
    assert labels_of(config_of(optimizer__muon={})) == {"embedding", "head", "positions"}
    only = {"labels": ["head"]}
    assert labels_of(config_of(optimizer__adamw_cautious_decay=only)) == {"head"}
    assert labels_of(config_of(optimizer__adamw_cautious_decay=None)) == set()


@pytest.mark.parametrize("labels", [[], ["heads"], ["head", "head"], ["norms"], ["matrices"]])
def test_labels_that_have_no_such_decay_are_refused(labels: list[str]) -> None:
    with pytest.raises(ConfigErrors, match=r"optimizer\.adamw_cautious_decay\.labels"):
        derive(config_of(optimizer__muon={}, optimizer__adamw_cautious_decay={"labels": labels}))


def test_a_trainer_decays_fewer_weights_and_passes_over_waiting_tables() -> None:
    changes = {"optimizer__clip": None, "optimizer__table_interval_steps": 2}
    config = config_of(**changes, optimizer__head={"decay": 50.0})
    trainer = Trainer(config, derive(config), CPU)
    head = trainer.gpt.head.weight
    tokens = torch.randint(0, 64, (2, 33), generator=torch.Generator().manual_seed(1))
    before = head.detach().clone()
    trainer.step(0, tokens)
    assert torch.equal(head, before)
    trainer.step(1, tokens)
    state, lr = trainer.optimizers.adamw.state[head], trainer.optimizers.adamw.param_groups[0]["lr"]
    assert state["step"].item() == 1
    outwards = state["exp_avg"] * before < 0
    moved = (head - before).abs()
    assert moved[outwards].max() <= 1.01 * lr  # the update alone
    assert moved[~outwards].max() > 2 * lr
