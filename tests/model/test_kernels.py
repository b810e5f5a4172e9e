"""Fused kernels compute what torch computes, and are chosen or refused before anything runs."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.position_ids import PositionIds
from model.config import Muon as MuonSettings
from model.config import NorMuon
from model.config.derive import derive
from model.config.kernel_eligibility import FUSED
from model.config.reader import load_config
from model.errors import MachineError
from model.kernels import REFERENCE, choose, kernel_plan, why_not
from model.optim.muon import Muon
from model.tricks.rotary import apply_rotary, cos_sin_table, select_positions

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # kernel packages warn as they import and compile
]
WITHOUT_BIAS = {"model.bias": False, "model.rotary": {}, "system.attention": "sdpa"}
ROUNDING = 1e-2  # relative norm; bf16 keeps 8 bits, so one rounding costs 2^-9


def error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


def normal(*shape: int, std: float = 1.0, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


@pytest.mark.parametrize("case", [pytest.param(c, marks=GPU) for c in [(300, 500), (9000, 1024)]])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])  # as a head's, as a tied table's
@pytest.mark.parametrize("cap", [None, 15.0])
def test_the_fused_head_has_the_loss_and_gradients_of_the_slow_one(
    cap: float | None, kind: torch.dtype, case: tuple[int, int]
) -> None:
    from model.kernels import loss

    tokens, vocab = case
    padded = -(-vocab // 64) * 64
    x = normal(tokens, 256).to(CUDA, torch.bfloat16).requires_grad_()
    weight = normal(padded, 256, std=0.3, seed=2).to(CUDA, kind).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), generator=torch.Generator().manual_seed(3)).cuda()

    logits = F.linear(x.double(), weight.to(torch.bfloat16).double())[:, :vocab]
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    slow = F.cross_entropy(logits, targets, reduction="none")
    expected = torch.autograd.grad(3 * slow.mean(), (x, weight))

    fused = loss.mean_loss(x, weight, targets, cap, vocab)
    got = torch.autograd.grad(3 * fused, (x, weight))
    assert fused.item() == pytest.approx(slow.mean().item(), rel=1e-3)
    each = loss.token_losses(x, weight, targets, cap, vocab)
    assert error(each, slow) < ROUNDING
    for value, reference in zip(got, expected, strict=True):
        assert value.dtype == reference.dtype
        assert error(value, reference) < ROUNDING
    assert not got[1][vocab:].any()  # padding learns nothing


def skip_without_quack() -> None:
    config = load_config(None, {"model.bias": False})
    problem = why_not("products", config, derive(config).sizes, CUDA)
    if problem is not None:
        pytest.skip(problem[0])


@pytest.mark.parametrize("tokens", [pytest.param(n, marks=GPU) for n in (256, 1000)])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("activation", ["relu2", "gelu"])
def test_the_fused_mlp_has_the_output_and_gradients_of_the_slow_one(
    activation: str, compiled: bool, tokens: int
) -> None:
    skip_without_quack()
    from model.kernels import products

    residual, x = (normal(2, tokens, 256, seed=n).to(CUDA, torch.bfloat16) for n in (1, 2))
    up, down = (
        normal(1024, 256, std=0.06, seed=3).cuda(),
        normal(256, 1024, std=0.03, seed=4).cuda(),
    )

    def slow(residual: Tensor, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        hidden = F.linear(x, up)
        hidden = (
            F.relu(hidden).square() if activation == "relu2" else F.gelu(hidden, approximate="tanh")
        )
        return residual + F.linear(hidden, down)

    fused = partial(products.add_mlp, activation=activation)
    assert_same(fused, slow, [residual, x, up, down], compiled=compiled)


@pytest.mark.parametrize("compiled", [pytest.param(c, marks=GPU) for c in (False, True)])
def test_a_product_with_the_residual_inside_is_their_sum(compiled: bool) -> None:
    skip_without_quack()
    from model.kernels import products

    residual, x = (normal(2, 500, 256, seed=n).to(CUDA, torch.bfloat16) for n in (1, 2))
    weight = normal(256, 256, std=0.06, seed=3).cuda()
    inputs = [residual, x, weight]
    assert_same(products.add_product, lambda r, x, w: r + F.linear(x, w), inputs, compiled=compiled)


@pytest.mark.parametrize("rotary", [pytest.param(r, marks=GPU) for r in ("off", "on", "by row")])
@pytest.mark.parametrize("scale", [None, 1.2])
@pytest.mark.parametrize(("heads", "tokens"), [(2, 128), (3, 77)])
def test_fused_queries_keys_and_values_are_the_slow_ones(
    heads: int, tokens: int, scale: float | None, rotary: str
) -> None:
    from model.kernels import qkv

    width = 64 * heads
    cos_sin = None if rotary == "off" else cos_sin_table(tokens, 64, 1e4, CUDA, torch.bfloat16)
    if rotary == "by row":
        index = torch.randint(tokens, (2, tokens), generator=torch.Generator().manual_seed(5))
        cos_sin = select_positions(cos_sin, PositionIds(index=index.cuda(), end=tokens))
    x = normal(2, tokens, width).to(CUDA, torch.bfloat16)
    weights = [normal(width, width, std=width**-0.5, seed=n).cuda() for n in (2, 3, 4)]

    def slow(x: Tensor, *weights: Tensor) -> Tensor:
        q, k, v = (F.linear(x, weight).unflatten(-1, (heads, 64)) for weight in weights)
        if cos_sin is not None:
            wide = tuple(turn.double() for turn in cos_sin)
            q, k = apply_rotary(q, wide), apply_rotary(k, wide)
        if scale is not None:
            q, k = (part * scale * part.square().mean(-1, keepdim=True).rsqrt() for part in (q, k))
        return torch.cat((q, k, v))

    def fused(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.cat(qkv.normed_heads(x, weights, cos_sin, scale, heads))

    for compiled in (False, True):
        assert_same(fused, slow, [x, *weights], compiled=compiled)


def assert_same(
    fused: Callable[..., Tensor],
    slow: Callable[..., Tensor],
    inputs: list[Tensor],
    *,
    compiled: bool,
) -> None:
    """Output and gradients, `slow` in fp64 on the bf16 values that the fused kernel reads."""
    torch._dynamo.reset()
    inputs = [value.detach().requires_grad_() for value in inputs]
    wide = [value.detach().to(torch.bfloat16).double().requires_grad_() for value in inputs]
    expected = slow(*wide)
    grad = normal(*expected.shape, seed=9).to(CUDA, torch.bfloat16)
    call = torch.compile(fused, fullgraph=True, dynamic=False) if compiled else fused
    got = call(*inputs)
    assert error(got, expected) < ROUNDING
    for number, value, reference in zip(
        range(len(inputs)),
        torch.autograd.grad(got, inputs, grad),
        torch.autograd.grad(expected, wide, grad.double()),
        strict=True,
    ):
        assert value.dtype == inputs[number].dtype
        assert error(value, reference) < ROUNDING, number


@pytest.mark.parametrize(
    "shape", [pytest.param(s, marks=GPU) for s in [(64, 64), (96, 24), (24, 96)]]
)
@pytest.mark.parametrize("off", [None, "normuon", "equalize_rows", "renormalize", "cautious_decay"])
def test_the_fused_muon_steps_as_the_slow_one(off: str | None, shape: tuple[int, int]) -> None:
    everything: dict[str, Any] = {
        "normuon": NorMuon(),
        "equalize_rows": True,
        "renormalize": True,
        "cautious_decay": True,
    }
    everything.pop(off or "", None)
    settings = MuonSettings(orthogonalize="polar_express", **everything)
    ends = []
    for kernel in ("torch", "triton"):
        matrices = [nn.Parameter(normal(*shape, seed=n).cuda()) for n in range(3)]
        muon = Muon(
            matrices,
            settings,
            lr=0.1,
            decay=0.2,
            compute=torch.float32,  # in bf16 five products make 2 % of one rounding
            kernels=replace(REFERENCE, muon=kernel),
        )
        for step in range(3):
            for number, matrix in enumerate(matrices):
                assert matrix.grad is not None
                matrix.grad.copy_(normal(*shape, seed=10 * step + number))
            muon.step(lr_scale=0.5, momentum=0.9, decay_scale=0.7)
        ends.append(torch.stack([matrix.detach() for matrix in matrices]))
    starts = torch.stack([normal(*shape, seed=n).cuda() for n in range(3)])
    assert error(ends[1] - starts, ends[0] - starts) < 1e-4


@pytest.mark.parametrize(
    "shape", [pytest.param(s, marks=GPU) for s in [(3, 256, 640), (2, 64, 64)]]
)
def test_half_computed_symmetric_products_are_the_whole_ones(shape: tuple[int, int, int]) -> None:
    skip_without_quack()
    from model.optim.orthogonal import products_of

    x = normal(*shape, std=0.05).to(CUDA, torch.bfloat16)
    fused = products_of("quack", *shape[1:])
    gram = fused.gram(x)
    assert error(gram, x.double() @ x.double().mT) < ROUNDING
    slow = gram.double()
    assert error(fused.polynomial(gram, -2.4, 0.5), -2.4 * slow + 0.5 * slow @ slow) < ROUNDING


def test_the_plan_names_the_kernel_of_every_place() -> None:
    config = load_config(None, {})
    plan = kernel_plan(config, REFERENCE)
    assert plan["attention"] == "sdpa"
    assert {plan[place] for place in ("norms", "qkv", "loss")} == {"inductor"}
    assert plan["products"] == "torch"
    assert plan["muon"] == "none"
    assert choose(config, derive(config).sizes, CPU) == REFERENCE


@pytest.mark.parametrize("place", FUSED)
def test_a_requested_kernel_that_cannot_run_is_an_error_with_a_hint(place: str) -> None:
    config = load_config(None, {f"system.{place}_kernel": FUSED[place]})
    with pytest.raises(MachineError, match=f"Set system.{place}_kernel: auto"):
        choose(config, derive(config).sizes, CPU)


@pytest.mark.parametrize(
    ("place", "trick", "reason"),
    [
        ("loss", {"model.logit_rescale": {}}, "does not support logit rescaling"),
        ("qkv", {"model.windows": {}, "model.paired_heads": {}}, "rotates all heads by the same"),
        ("qkv", {"model.fp8": {}}, "multiplies in bf16, not in fp8"),
        ("products", {"model.activation": "swiglu"}, "supports relu2 and gelu, not swiglu"),
        ("products", {"model.activation": "leaky_relu2"}, "relu2 and gelu, not leaky_relu2"),
    ],
)
def test_a_trick_that_a_fused_kernel_cannot_compute_keeps_it_from_running(
    place: str, trick: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    plain = load_config(None, WITHOUT_BIAS)
    others, _ = why_not(place, plain, derive(plain).sizes, CUDA) or ("", "")
    assert reason not in others
    with_trick = load_config(None, {**WITHOUT_BIAS, **trick})
    reason_text, hint = why_not(place, with_trick, derive(with_trick).sizes, CUDA) or ("", "")
    assert reason in reason_text
    assert hint == f"Set system.{place}_kernel: auto."
    assert getattr(choose(with_trick, derive(with_trick).sizes, CUDA), place) == "torch"
    choice = {**WITHOUT_BIAS, **trick, f"system.{place}_kernel": FUSED[place]}
    with pytest.raises(MachineError, match=reason):
        choose(load_config(None, choice), derive(with_trick).sizes, CUDA)


def test_tricks_before_and_behind_the_fused_kernels_leave_them_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    tricks = {
        "model.rotary.half": {},
        "model.partial_key_offset": True,
        "model.xsa": True,
        "model.sparse_attention_gate": {},
        "model.bigram_hash_embedding": {},
    }
    configs = [load_config(None, values) for values in (WITHOUT_BIAS, {**WITHOUT_BIAS, **tricks})]
    for place in FUSED:
        plain, tricky = (why_not(place, one, derive(one).sizes, CUDA) for one in configs)
        assert plain == tricky


@pytest.mark.parametrize("place", sorted({*FUSED} - {"products"}))
def test_a_missing_triton_is_reported_before_anything_runs(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("triton") is not None:
        pytest.skip("Triton is installed here")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    config = load_config(None, {"model.bias": False})
    reason, hint = why_not(place, config, derive(config).sizes, CUDA) or ("", "")
    assert "needs Triton" in reason
    assert hint == f"Run: pip install triton, or set system.{place}_kernel: auto."
