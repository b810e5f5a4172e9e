"""Each trick's formula against one written out token by token, in plain loops and 64 bits."""

import cmath
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.arch.init import initialise
from model.attention import sdpa
from model.config.derive import derive
from model.config.reader import load_config
from model.config.shapes import mlp_width, paired_layers
from model.errors import ConfigErrors
from model.gpt import GPT
from model.kernels import REFERENCE
from model.tricks.bigram_hash_embedding import BigramHashEmbedding, hash_pairs, random_signs
from model.tricks.logit_rescale import rescale_logits
from model.tricks.paired_heads import interleave_heads, pair_cos_sin, separate_heads
from model.tricks.partial_key_offset import offset_keys
from model.tricks.rotary import apply_rotary, cos_sin_table
from model.tricks.xsa import remove_value_component

STACK = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml"
CPU = torch.device("cpu")
TOKENS, HEADS, WIDTH = 12, 4, 8  # T, H, K of the tensors below
SMALL = {
    "dial.depth": 2,
    "dial.batch_tokens": 24,
    "model.width": HEADS * WIDTH,
    "model.head_width": WIDTH,
    "model.context_tokens": TOKENS,
    "model.windows.short_tokens": 5,
    "model.vocab_size": 64,
    "model.init": "gpt2",  # so that no zero projection hides a trick
    "system.precision": "fp32",
    "system.device": "cpu",
    "system.compile": False,
}


def built(**overrides: Any) -> GPT:
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    config = load_config(STACK, {**SMALL, **named})
    model = GPT(config, derive(config).sizes, REFERENCE)
    initialise(model, seed=5)
    return model


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heads_drawn(count: int) -> list[Tensor]:
    """Tensors (B, T, H, K)."""
    return [drawn(2, TOKENS, HEADS, WIDTH, seed=seed) for seed in range(count)]


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.double(), expected.double(), rtol=1e-5, atol=1e-6)


# --- the MLP ---


def test_swiglu_is_a_product_of_two_projections_of_which_one_goes_through_silu() -> None:
    mlp = built(model__activation="swiglu").blocks[0].mlp
    x, residual = drawn(3, 32), drawn(3, 32, seed=2)
    gate, up, down = (linear.weight.double() for linear in (mlp.swiglu.gate, mlp.up, mlp.down))
    opened, hidden = x.double() @ gate.T, x.double() @ up.T
    hidden = hidden * torch.tensor(
        [[o / (1 + math.exp(-o)) for o in row] for row in opened.tolist()]
    )
    close(mlp(x, residual), residual.double() + hidden @ down.T)


@pytest.mark.parametrize("depth", range(4, 25))
def test_swiglu_has_the_parameters_of_the_mlp_that_it_replaces(depth: int) -> None:
    sizes = [
        derive(load_config(STACK, {"dial.depth": depth, "model.activation": activation}))
        for activation in ("relu2", "swiglu")
    ]
    width, layers = sizes[0].sizes.width, depth
    difference = sizes[1].parameters["matrices"] - sizes[0].parameters["matrices"]
    assert abs(difference) <= 0.01 * 8 * width**2 * layers
    if depth in (12, 24):  # the depths at which nanochat refused it
        assert difference == 0
    hidden = mlp_width(load_config(STACK, {"model.activation": "swiglu"}), width)
    assert hidden % 16 == 0


def test_leaky_relu_squared_squares_half_of_what_is_negative() -> None:
    mlp = built(model__activation="leaky_relu2").blocks[0].mlp
    x, residual = drawn(3, 32), drawn(3, 32, seed=2)
    hidden = (x.double() @ mlp.up.weight.double().T).tolist()
    hidden = [[h * h if h > 0 else h * h / 4 for h in row] for row in hidden]
    close(mlp(x, residual), residual + torch.tensor(hidden).double() @ mlp.down.weight.double().T)


# --- positions ---


def slowly_turned(x: Tensor, frequencies: list[float], position_of: Any) -> Tensor:
    """(B, T, H, K) with pair p, as a complex number, rotated by -position times its frequency."""
    out = x.double().clone()
    half = x.size(-1) // 2
    for b, t, h, p in product(*(range(n) for n in (*x.shape[:3], half))):
        pair = complex(x[b, t, h, p].item(), x[b, t, h, p + half].item())
        pair *= cmath.exp(-1j * position_of(t, h) * frequencies[p])
        out[b, t, h, p], out[b, t, h, p + half] = pair.real, pair.imag
    return out


def test_half_rotary_turns_the_first_half_of_the_pairs_and_leaves_the_others() -> None:
    (x,) = heads_drawn(1)
    got = apply_rotary(x, cos_sin_table(TOKENS, WIDTH, 1024.0, CPU, torch.float32, half=True))
    # of four pairs two turn: the fastest by 1 a token, the slowest by 1 / base
    close(got, slowly_turned(x, [1.0, 1 / 1024, 0.0, 0.0], lambda t, h: t))
    assert torch.equal(got[..., [2, 3, 6, 7]], x[..., [2, 3, 6, 7]])


def test_frequencies_of_half_rotary_fall_evenly_to_one_over_the_base() -> None:
    cos, sin = cos_sin_table(2, 64, 256.0, CPU, torch.float32, half=True)
    by_one_token = torch.atan2(sin[1], cos[1])
    close(by_one_token[:16], torch.tensor([256 ** (-p / 15) for p in range(16)]))
    assert not by_one_token[16:].any()


def test_partial_key_offset_takes_still_channels_from_the_token_before() -> None:
    (k,) = heads_drawn(1)
    expected = k.clone()
    for t in range(1, TOKENS):
        for channel in (2, 3, 6, 7):  # of eight, those that half rotary leaves
            expected[:, t, :, channel] = k[:, t - 1, :, channel]
    assert torch.equal(offset_keys(k), expected)


def test_keys_are_offset_in_the_layers_that_see_the_whole_context() -> None:
    tricks = {"model__rotary__half": {}, "model__partial_key_offset": True, "dial__depth": 4}
    windowed = built(**tricks, model__windows={"pattern": "SLSS", "short_tokens": 5})
    assert [b.attention.offsets_keys for b in windowed.blocks] == [False, True, False, True]


# --- attention ---


def slowly_attended(q: Tensor, k: Tensor, v: Tensor, sees: Any) -> Tensor:
    """(B, T, H, K), query (t, h) over those keys (s, g) of which `sees(t, h, s, g)` is true."""
    out = torch.zeros_like(v, dtype=torch.float64)
    places = list(product(range(q.size(1)), range(q.size(2))))
    for b, (t, h) in product(range(q.size(0)), places):
        seen = [place for place in places if sees(t, h, *place)]
        scores = [(q[b, t, h].double() @ k[b, s, g].double()).item() for s, g in seen]
        weights = [math.exp(score / math.sqrt(q.size(3))) for score in scores]
        for weight, (s, g) in zip(weights, seen, strict=True):
            out[b, t, h] += weight / sum(weights) * v[b, s, g]
    return out


def sees_alone(window: int) -> Any:
    return lambda t, h, s, g: g == h and 0 <= t - s <= window


def sees_in_pairs(window: int) -> Any:
    """Positions of a pair's two heads alternate; the window counts positions."""

    def sees(t: int, h: int, s: int, g: int) -> bool:
        return g % 2 == h % 2 and 0 <= position_in_pair(t, h) - position_in_pair(s, g) <= window

    return sees


def position_in_pair(t: int, h: int) -> int:
    """Of four heads, 0 is paired with 2 and 1 with 3."""
    return 2 * t + (h >= 2)


def test_paired_heads_attend_to_the_keys_of_both_in_turn() -> None:
    q, k, v = heads_drawn(3)
    for window in (1, 5, 2 * TOKENS):
        got = separate_heads(sdpa.attend(*(interleave_heads(x) for x in (q, k, v)), window))
        close(got, slowly_attended(q, k, v, sees_in_pairs(window)))


def test_paired_heads_turn_by_their_positions_in_the_pair() -> None:
    (x,) = heads_drawn(1)
    got = apply_rotary(
        x, pair_cos_sin(cos_sin_table(2 * TOKENS, WIDTH, 100.0, CPU, torch.float32), HEADS)
    )
    close(got, slowly_turned(x, [100 ** (-p / 4) for p in range(4)], position_in_pair))


def test_every_second_layer_with_a_short_window_is_paired_unless_asked_otherwise() -> None:
    for settings, expected in (({}, "P.P..P..P.P."), ({"every": 1}, "PPP.PPP.PPP.")):
        config = load_config(STACK, {"dial.depth": 12, "model.paired_heads": settings})
        paired = paired_layers(config, derive(config).sizes)
        assert "".join("P" if one else "." for one in paired) == expected


def test_xsa_takes_out_what_lies_along_the_tokens_own_value() -> None:
    y, v = heads_drawn(2)
    got = remove_value_component(y, v)
    assert (got * v).sum(-1).abs().max() < 1e-5
    for b, t, h in product(range(2), range(TOKENS), range(HEADS)):
        along = (y[b, t, h] @ v[b, t, h]) / (v[b, t, h] @ v[b, t, h])
        close(got[b, t, h], y[b, t, h] - along * v[b, t, h])


def test_learnable_xsa_takes_out_the_share_that_each_head_learned() -> None:
    y, v = heads_drawn(2)
    trick = built(model__learnable_xsa={}).blocks[0].attention.learnable_xsa
    assert torch.equal(trick(y, v), y)  # as it begins
    strengths = [0.0, 0.3, -2.0, 40.0]
    with torch.no_grad():
        trick.strengths.copy_(torch.tensor(strengths))
    got = trick(y, v)
    for b, t, h in product(range(2), range(TOKENS), range(HEADS)):
        own, value = y[b, t, h].double(), v[b, t, h].double()
        share = (math.exp(2 * strengths[h]) - 1) / (math.exp(2 * strengths[h]) + 1)
        close(got[b, t, h], own - share * (own @ value) / (value @ value) * value)
    close(got[:, :, 3], remove_value_component(y, v)[:, :, 3])  # all of it: the plain form


def test_learnable_xsa_is_in_all_layers_without_paired_heads_or_in_those_that_are_named() -> None:
    def has(**settings: Any) -> list[int]:
        model = built(dial__depth=4, model__learnable_xsa=settings, model__paired_heads={},
                      model__dropped_layers={"attention": [1]})  # fmt: skip
        attentions = {i: b.attention for i, b in enumerate(model.blocks) if b.attention}
        return [i for i, attention in attentions.items() if attention.learnable_xsa is not None]

    assert has() == [2, 3]  # layer 0 is paired
    assert has(layers=[0, 3]) == [0, 3]
    for layers in ([99], [1], [0, 0], []):
        with pytest.raises(ConfigErrors, match=r"model\.learnable_xsa\.layers"):
            has(layers=layers)


@pytest.mark.parametrize("paired", [False, True])
def test_attention_with_all_its_tricks_is_their_formulas_one_after_the_other(paired: bool) -> None:
    tricks = ("rotary__half", "sparse_attention_gate", *(["paired_heads"] if paired else []))
    named: dict[str, Any] = {f"model__{trick}": {} for trick in tricks}
    model = built(**named, model__xsa=True, model__partial_key_offset=True, model__init="gpt2",
                  model__value_embeddings=None)  # fmt: skip
    short, long = (block.attention for block in model.blocks)
    assert (short.paired, long.paired) == (paired, False)
    x, residual = 5 * drawn(2, TOKENS, HEADS * WIDTH), drawn(2, TOKENS, HEADS * WIDTH, seed=2)
    cos_sin = model.cos_sin_by_layer(x)
    for layer, attention in enumerate((short, long)):
        with torch.no_grad():
            attention.sparse_gate.gate.copy_(drawn(HEADS, 12, seed=3))
        got = attention(x, torch.zeros(2, TOKENS, dtype=torch.int64), cos_sin[layer], residual)
        close(got, residual.double() + slow_attention(attention, x))


def slow_attention(attention: Any, x: Tensor) -> Tensor:
    """(B, T, H K): half rotary, QK norm, key offset, attention, XSA, gate, projection."""
    linears = (attention.query, attention.key, attention.value)
    q, k, v = (
        (x.double() @ linear.weight.double().T).unflatten(-1, (HEADS, WIDTH)) for linear in linears
    )
    of_pair = position_in_pair if attention.paired else lambda t, h: t
    q, k = (slowly_turned(part, [1.0, 1 / 1024, 0.0, 0.0], of_pair) for part in (q, k))
    eps = torch.finfo(torch.float32).eps
    q, k = (1.2 * p / (p.square().mean(-1, keepdim=True) + eps).sqrt() for p in (q, k))
    if attention.window >= TOKENS:
        k = torch.stack([k[..., c] if c % 4 < 2 else torch.cat((k[:, :1, :, c], k[:, :-1, :, c]), 1)
                         for c in range(WIDTH)], dim=-1)  # fmt: skip
    sees = sees_in_pairs if attention.paired else sees_alone
    y = slowly_attended(q, k, v, sees(attention.window))
    y = y - (y * v).sum(-1, keepdim=True) / v.square().sum(-1, keepdim=True) * v
    gate = x.double()[..., :12] @ attention.sparse_gate.gate.double().T
    y = y / (1 + (-gate).exp())[..., None]
    return y.flatten(-2) @ attention.out.weight.double().T


# --- token pairs ---


def bigrams(**settings: Any) -> tuple[BigramHashEmbedding, GPT]:
    model = built(model__bigram_hash_embedding=settings, model__residual_scalars=None)
    assert model.bigram_hash_embedding is not None
    with torch.no_grad():
        model.bigram_hash_embedding.table.normal_(generator=torch.Generator().manual_seed(4))
    return model.bigram_hash_embedding, model


@pytest.mark.parametrize("sign_rows", [None, 16])
def test_pairs_of_tokens_look_up_hashed_rows_with_the_signs_of_the_pair(
    sign_rows: int | None,
) -> None:
    embedding, _ = bigrams(table_multiple=2, sign_rows=sign_rows)
    rows, width = embedding.table.shape
    assert rows == 2 * 64
    tokens = torch.randint(64, (2, TOKENS), generator=torch.Generator().manual_seed(6))
    got = embedding(tokens)
    for b, t in product(range(2), range(TOKENS)):
        this, before = tokens[b, t].item(), tokens[b, t - 1].item()
        row = ((36313 * this) ^ (27191 * before)) % (rows - 1) if t else rows - 1
        sign = torch.ones(width)
        if sign_rows is not None:
            sign = random_signs(sign_rows, width)[(this ^ before) % sign_rows if t else 0]
        assert torch.equal(got[b, t], embedding.table[row] * sign)


def test_pairs_are_spread_over_the_table_but_for_the_first_tokens_row() -> None:
    rows, vocab = 320, 64
    every = torch.cartesian_prod(torch.arange(vocab), torch.arange(vocab))
    first, second = hash_pairs(every, rows).unbind(1)
    assert (first == rows - 1).all()
    counts = torch.bincount(second, minlength=rows)
    assert counts[-1] == 0
    assert counts[:-1].min() > 0
    assert counts.max() < 4 * counts.float().mean()


def test_signs_are_as_good_as_random_and_always_the_same() -> None:
    signs = random_signs(256, 512)
    assert torch.equal(signs, random_signs(256, 512))
    assert set(signs.unique().tolist()) == {-1, 1}
    overlap = (signs @ signs.T).float().fill_diagonal_(0)
    assert overlap.abs().max() < 6 * math.sqrt(512)
    assert overlap.std().item() == pytest.approx(math.sqrt(512), rel=0.05)


def test_rows_of_pairs_are_added_before_every_layer() -> None:
    embedding, model = bigrams()
    with torch.no_grad():
        embedding.factors.copy_(torch.tensor([0.3, -0.7]))
    tokens = torch.randint(64, (2, TOKENS), generator=torch.Generator().manual_seed(6))
    x = model.embed_tokens(tokens)
    cos_sin, outputs = model.cos_sin_by_layer(x), []
    for layer, block in enumerate(model.blocks):
        x = block(x + embedding.factors[layer] * embedding(tokens), tokens, cos_sin[layer])
        outputs.append(x)
    close(model.stream(tokens), model.finalize_stream(x, outputs[1]))


# --- the head ---


def test_logit_rescale_is_a_shifted_sigmoid() -> None:
    model = built(model__softcap=None, model__logit_rescale={})
    x = drawn(5, 32)
    raw = (x.double() @ model.head.weight.double().T).tolist()
    expected = [[23 / (1 + math.exp(-(z + 5) / 7.5)) for z in row] for row in raw]
    close(model.torch_logits(x), torch.tensor(expected))


def test_logit_rescale_without_shift_is_the_softcap_up_to_a_constant() -> None:
    config = load_config(None, {"model.logit_rescale": {"bound": 30.0, "shift": 0.0}})
    assert config.model.logit_rescale is not None
    logits = 40 * drawn(100)
    close(rescale_logits(logits, config.model.logit_rescale), 15 + 15 * torch.tanh(logits / 15))
    targets = torch.arange(10)
    rows = rescale_logits(logits, config.model.logit_rescale).view(10, 10)
    capped = 15 * torch.tanh(logits / 15).view(10, 10)
    close(F.cross_entropy(rows, targets), F.cross_entropy(capped, targets))
