"""MUDD connections and gates against their formulas, written out source by source in 64 bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from model.arch.init import initialise
from model.config.derive import derive
from model.config.reader import load_config
from model.config.resolve import resolve
from model.config.shapes import mudd_places
from model.errors import ConfigErrors
from model.gpt import GPT
from model.kernels import REFERENCE

STACK = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml"
SMALL = {
    "dial.depth": 6,
    "dial.batch_tokens": 24,
    "model.width": 32,
    "model.head_width": 8,
    "model.context_tokens": 12,
    "model.windows.short_tokens": 5,
    "model.vocab_size": 64,
    "model.init": "gpt2",
    "system.precision": "fp32",
    "system.device": "cpu",
    "system.compile": False,
}
ALL = {"model.mudd_connections": {"gates": {}}, "model.bigram_hash_embedding": {}}
ALL |= {"model.unet_skips": {}}


def built(overrides: dict[str, Any], *, spoken: bool = True) -> GPT:
    """A model; `spoken` draws what starts at 0."""
    config = load_config(STACK, {**SMALL, **overrides})
    model = GPT(config, derive(config).sizes, REFERENCE)
    initialise(model, seed=5)
    if spoken:
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.3, generator=generator)
    return model


def tokens() -> Tensor:
    return torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(6))


def slow_numbers(network: Any, y: Tensor) -> Tensor:
    hidden = y.double() @ network.up.double().T
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return hidden @ network.down.double().T + network.bias.double()


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.double(), expected.double(), rtol=1e-4, atol=1e-5)


def test_records_places_and_sources_are_those_of_eleven_layers() -> None:
    config = load_config(STACK, {"dial.depth": 11, "model.mudd_connections": {}})
    last, head = mudd_places(config, 11)
    assert (last.layer, last.sources, last.shares) == (10, (3, 7), 8)  # of each 4, one of itself
    assert (head.layer, head.sources, head.shares) == (11, (3, 7, 9), 4)


def test_streams_and_values_get_the_shares_that_each_token_chooses() -> None:
    model = built({"model.mudd_connections": {"sources": [0, 2], "layers": [3]}})
    mudd = model.mudd_connections
    assert mudd is not None
    seen: list[Tensor] = []
    got: dict[int, tuple[Tensor, Tensor | None]] = {}
    for number, block in enumerate(model.blocks):
        block.register_forward_pre_hook(
            lambda _, given, n=number: got.update({n: (given[0], given[-1])})
        )
        block.register_forward_hook(lambda _, given, out: seen.append(out))
    entered, final = model.embed_tokens(tokens()), []
    model.final_norm.register_forward_pre_hook(lambda _, given: final.append(given[0]))
    model.backout = None
    model.stream(tokens())
    x = seen[2]
    c = 0.1 * slow_numbers(mudd.places["3"], x)  # of the embedding, 0 (2 is the stream), itself
    assert c.size(-1) == 6
    sources = [entered, seen[0], x]
    close(got[3][0], x + sum(c[..., s : s + 1] * sources[s] for s in range(3)))
    assert got[3][1] is not None
    close(got[3][1], sum(c[..., 3 + s : 4 + s] * sources[s] for s in range(3)))
    assert all(got[layer][1] is None for layer in (0, 1, 2, 4, 5))
    c = 0.1 * slow_numbers(mudd.places["6"], seen[5])
    sources = [entered, seen[0], seen[2], seen[4]]
    assert c.size(-1) == len(sources)
    close(final[0], seen[5] + sum(c[..., s : s + 1] * sources[s] for s in range(4)))


def test_values_are_added_in_heads() -> None:
    attention = built({"model.value_embeddings": None}).blocks[5].attention
    generator = torch.Generator().manual_seed(1)
    x, values = (torch.randn(2, 12, 32, generator=generator) for _ in range(2))
    seen: list[Tensor] = []
    attention.attend = lambda q, k, v, window: seen.append(v) or v
    for given in (None, values):
        attention(x, tokens(), None, x, None, given)
    close(seen[1] - seen[0], values.view(2, 12, 4, 8))


def test_factors_of_a_layer_are_those_of_each_token() -> None:
    model = built(ALL | {"model.mudd_connections": {"gates": {"from_layer": 2}}})
    gates = model.mudd_gates
    assert gates is not None
    got: dict[int, Any] = {}
    inputs: dict[int, Tensor] = {}
    for number, block in enumerate(model.blocks):
        block.register_forward_pre_hook(
            lambda _, given, n=number: got.update({n: given[3:6]}) or inputs.update({n: given[0]})
        )
    entered = model.embed_tokens(tokens())
    model.stream(tokens())
    early = 0.1 * slow_numbers(gates.early, entered)
    late = 0.1 * slow_numbers(gates.late, inputs[2])
    factors = [early[..., i : i + 1] for i in range(4)] + [late[..., i : i + 1] for i in range(11)]
    assert (early.size(-1), late.size(-1)) == (4, 11)  # the last three layers have a skip too
    at = 0
    assert model.residual_scalars is not None
    assert model.bigram_hash_embedding is not None
    assert model.unet_skips is not None
    for layer in range(6):
        mix, bigrams, skip = got[layer]
        close(mix[1], model.residual_scalars.x0[layer] + factors[at])
        close(bigrams[0], model.bigram_hash_embedding.factors[layer] + factors[at + 1])
        at += 2
        assert (skip is not None) == (layer >= 3)
        if skip is not None:
            close(skip[0], model.unet_skips.factors[5 - layer] + factors[at])
            at += 1


@pytest.mark.parametrize("gates", [None, {}])
def test_the_first_loss_is_that_of_the_model_without_it(gates: Any) -> None:
    others = {key: value for key, value in ALL.items() if "mudd" not in key}
    without = built(others, spoken=False)
    model = built({**others, "model.mudd_connections": {"gates": gates}}, spoken=False)
    assert torch.equal(model.logits(tokens()), without.logits(tokens()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, inside its compiler
def test_compiled_regions_compute_the_same() -> None:
    row = torch.cat((tokens(), tokens()[:, :1]), dim=1)
    results = []
    for compiled in (False, True):
        model = built(ALL)
        if compiled:
            torch._dynamo.reset()
            counters.clear()
            model.compile_regions("aot_eager")
        for _ in range(2):
            model.zero_grad()
            loss = model(row[:, :-1], row[:, 1:].contiguous())
            loss.backward()
        results.append((loss.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sources": [5]}, r"sources: expected layers 0 to 4 of 6"),
        ({"sources": [3, 1]}, r"each once and in order; got \[3, 1\]"),
        ({"layers": [0]}, r"layers: expected layers 1 to 5 of 6"),
        ({"layers": [6]}, r"layers: expected layers 1 to 5 of 6"),
        ({"layers": [99]}, r"layers: expected layers 1 to 5 of 6"),
        ({"hidden": 0}, r"hidden: expected more than 0"),
        ({"gates": {"scale": 0.0}}, r"gates.scale: expected more than 0"),
        ({"gates": {"from_layer": 6}}, r"gates.from_layer: expected 1 to 5"),
    ],
)
def test_layers_that_do_not_exist_and_empty_networks_are_refused(
    overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigErrors, match=message):
        resolve(str(STACK), {"dial.depth": 6, "model.mudd_connections": overrides})


def test_one_layer_has_nothing_to_connect() -> None:
    with pytest.raises(ConfigErrors, match="at least 2 layers"):
        resolve(None, {"dial.depth": 1, "model.mudd_connections": {}})


def test_a_layer_without_attention_has_no_values_to_mix_into() -> None:
    settings = {"dial.depth": 6, "model.mudd_connections": {}}
    resolve(str(STACK), {**settings, "model.dropped_layers": {}})
    with pytest.raises(ConfigErrors, match=r"layers: expected layers with attention; got \[5\]"):
        resolve(str(STACK), {**settings, "model.dropped_layers": {"attention": [5]}})
