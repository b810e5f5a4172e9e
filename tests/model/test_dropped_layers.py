"""Layers without attention or MLP: what is left is the model without them, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.arch.init import initialise
from model.config import Config
from model.config.derive import Derived, derive
from model.config.reader import load_config
from model.config.shapes import paired_layers, sizes_of, windows_of
from model.errors import ConfigErrors
from model.gpt import GPT
from model.kernels import REFERENCE

STACK = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml"
SMALL = {
    "dial.depth": 4,
    "dial.batch_tokens": 48,
    "model.width": 32,
    "model.head_width": 16,
    "model.context_tokens": 24,
    "model.vocab_size": 64,
    "model.init": "gpt2",  # so that no zero projection hides a part
    "system.precision": "fp32",
    "system.device": "cpu",
    "system.compile": False,
}


def config_of(base: Path | None = None, **dropped: Any) -> Config:
    return load_config(base, {**SMALL, **windows(base), "model.dropped_layers": dropped})


def windows(base: Path | None) -> dict[str, Any]:
    return {} if base is None else {"model.windows.short_tokens": 5}


def built(config: Config) -> GPT:
    model = GPT(config, derive(config).sizes, REFERENCE)
    initialise(model, seed=4)
    return model


def batch() -> Tensor:
    return torch.randint(64, (2, 25), generator=torch.Generator().manual_seed(1))


def slow_losses(
    weights: dict[str, Tensor], tokens: Tensor, attending: set[int], mlps: set[int]
) -> Tensor:
    """GPT-2 in 64 bits, token by token where it attends, of the parts that are left."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def norm(x: Tensor, at: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * weights[f"{at}.weight"] + weights[f"{at}.bias"]

    def linear(x: Tensor, at: str) -> Tensor:
        return x @ weights[f"{at}.weight"].T + weights[f"{at}.bias"]

    x = weights["embedding.weight"][inputs] + weights["positions.weight"][: inputs.size(1)]
    for layer in range(4):
        at = f"blocks.{layer}"
        if layer in attending:
            h = norm(x, f"{at}.attention_norm")
            q, k, v = (
                linear(h, f"{at}.attention.{part}").unflatten(-1, (2, 16))
                for part in ("query", "key", "value")
            )
            y = torch.zeros_like(q)
            for t in range(q.size(1)):
                scores = torch.einsum("bhk,bshk->bhs", q[:, t], k[:, : t + 1]) / 4
                y[:, t] = torch.einsum("bhs,bshk->bhk", scores.softmax(-1), v[:, : t + 1])
            x = x + linear(y.flatten(-2), f"{at}.attention.out")
        if layer in mlps:
            h = linear(norm(x, f"{at}.mlp_norm"), f"{at}.mlp.up")
            h = F.gelu(h, approximate="tanh")
            x = x + linear(h, f"{at}.mlp.down")
    logits = norm(x, "final_norm") @ weights["embedding.weight"].T
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")


def test_losses_are_those_of_a_slow_model_that_passes_over_the_dropped_parts() -> None:
    model, tokens = built(config_of(attention=[0, 2], mlp=[0, 3])), batch()
    weights = {name: tensor.detach().double() for name, tensor in model.named_parameters()}
    got = model.token_losses(tokens[:, :-1], tokens[:, 1:].contiguous())
    expected = slow_losses(weights, tokens, attending={1, 3}, mlps={1, 2})
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("base", [None, STACK])
def test_a_dropped_part_is_one_whose_projection_is_zero(base: Path | None) -> None:
    """In the stack too: what other tricks mix in stays, and so do all other initial values."""
    dropped, tokens = built(config_of(base, attention=[1], mlp=[2])), batch()
    whole = built(load_config(base, {**SMALL, **windows(base)}))
    for block, part in ((1, "attention.out"), (2, "mlp.down")):
        for parameter in whole.get_submodule(f"blocks.{block}.{part}").parameters():
            parameter.data.zero_()
    losses = [model(tokens[:, :-1], tokens[:, 1:].contiguous()) for model in (whole, dropped)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    kept = {name for name, _ in dropped.named_parameters()}
    for name, _ in whole.named_parameters():
        assert (name in kept) != name.startswith(("blocks.1.attention", "blocks.2.mlp")), name


@pytest.mark.parametrize(("depth", "layer"), [(2, 1), (4, 2), (8, 4), (11, 6), (12, 6), (24, 13)])
def test_by_default_attention_is_missing_where_the_record_has_none(depth: int, layer: int) -> None:
    config = load_config(None, {"dial.depth": depth, "model.dropped_layers": {}})
    sizes = sizes_of(config)
    assert [i for i, attends in enumerate(sizes.attentions) if not attends] == [layer]
    assert all(sizes.mlps)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"attention": [99]}, "attention"),
        ({"attention": [-1]}, "attention"),
        ({"attention": [1, 1]}, "attention"),
        ({"attention": [0, 1, 2, 3]}, "attention"),
        ({"mlp": [4]}, "mlp"),
        ({"mlp": [0, 1, 2, 3]}, "mlp"),
    ],
)
def test_layers_that_do_not_exist_or_would_leave_none_are_refused(
    settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigErrors, match=rf"model\.dropped_layers\.{field}"):
        derive(config_of(**settings))


def test_the_last_layer_with_attention_sees_the_whole_context() -> None:
    overrides = {"dial.depth": 8, "model.windows": {}, "model.context_tokens": 2048}
    config = load_config(
        None, {**overrides, "model.dropped_layers": {"attention": [0, 7]}, "model.paired_heads": {}}
    )
    assert sizes_of(config).windows == (0, 512, 512, 2048, 512, 512, 2048, 0)
    assert windows_of(config, 8, 256) == (0, 128, 128, 256, 128, 128, 256, 0)
    paired = paired_layers(config, sizes_of(config))  # every other of the short ones that are left
    assert [layer for layer, pairs in enumerate(paired) if pairs] == [1, 4]


def stack_at_12(**dropped: Any) -> Derived:
    return derive(load_config(STACK, {"dial.depth": 12, "model.dropped_layers": dropped}))


def test_flops_parameters_and_memory_are_those_of_the_parts_that_are_left() -> None:
    whole = derive(load_config(STACK, {"dial.depth": 12}))
    attention, mlp = stack_at_12(attention=[6]), stack_at_12(attention=[], mlp=[6])
    width, short = 768, 512  # layer 6 has a short window and no value embedding
    assert whole.flops_per_token - attention.flops_per_token == 24 * width**2 + 12 * width * short
    assert whole.flops_per_token - mlp.flops_per_token == 48 * width**2
    assert whole.parameters["matrices"] - attention.parameters["matrices"] == 4 * width**2
    assert whole.parameters["matrices"] - mlp.parameters["matrices"] == 8 * width**2
    assert attention.parameters["value_tables"] == whole.parameters["value_tables"]
    lower = stack_at_12(attention=[7])
    table = lower.sizes.vocab * width
    assert whole.parameters["value_tables"] - lower.parameters["value_tables"] == table
    for one in (attention, mlp, lower):
        for part in ("states", "gradients", "activations"):
            assert one.memory_parts[part] < whole.memory_parts[part], part


@pytest.mark.slow
def test_blocks_are_compiled_once_a_kind() -> None:
    config = config_of(attention=[1, 2], mlp=[0])
    model, tokens = built(config), batch()
    expected = model(tokens[:, :-1], tokens[:, 1:].contiguous())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model.compile_regions("eager")
    got = model(tokens[:, :-1], tokens[:, 1:].contiguous())
    torch.testing.assert_close(got, expected)
    # attention alone, MLP alone (twice), both; before the blocks, behind them, the losses
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3 + 3
