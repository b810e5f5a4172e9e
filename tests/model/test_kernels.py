"""Fused kernels compute what torch computes, and are chosen or refused before anything runs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.configfile import load_config
from model.derive import derive
from model.errors import MachineError
from model.kernels import REFERENCE, choose, kernel_plan

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # kernel packages warn as they import and compile
]
ROUNDING = 1e-2  # relative norm; bf16 keeps 8 bits, so one rounding costs 2^-9


def error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


def normal(*shape: int, std: float = 1.0, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


@pytest.mark.parametrize("case", [pytest.param(c, marks=GPU) for c in [(300, 500), (9000, 1024)]])
@pytest.mark.parametrize("cap", [None, 15.0])
def test_the_fused_head_has_the_loss_and_gradients_of_the_slow_one(
    cap: float | None, case: tuple[int, int]
) -> None:
    from model.kernels import head

    tokens, words = case
    padded = -(-words // 64) * 64
    x = normal(tokens, 256).to(CUDA, torch.bfloat16).requires_grad_()
    weight = normal(padded, 256, std=0.3, seed=2).to(CUDA).requires_grad_()
    targets = torch.randint(0, words, (tokens,), generator=torch.Generator().manual_seed(3)).cuda()

    logits = F.linear(x.double(), weight.to(torch.bfloat16).double())[:, :words]
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    slow = F.cross_entropy(logits, targets, reduction="none")
    expected = torch.autograd.grad(3 * slow.mean(), (x, weight))

    fused = head.mean_loss(x, weight, targets, cap, words)
    got = torch.autograd.grad(3 * fused, (x, weight))
    assert fused.item() == pytest.approx(slow.mean().item(), rel=1e-3)
    each = head.token_losses(x, weight, targets, cap, words)
    assert error(each, slow) < ROUNDING
    for value, reference in zip(got, expected, strict=True):
        assert value.dtype == reference.dtype
        assert error(value, reference) < ROUNDING
    assert not got[1][words:].any()  # padding learns nothing


def skip_without_quack() -> None:
    config = load_config(None, {"model.activation": "relu2", "model.bias": False})
    from model.kernels import why_not

    problem = why_not("mlp", config, derive(config).sizes, CUDA)
    if problem is not None:
        pytest.skip(problem[0])


@pytest.mark.parametrize("tokens", [pytest.param(n, marks=GPU) for n in (256, 1000)])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_fused_mlp_has_the_output_and_gradients_of_the_slow_one(
    compiled: bool, tokens: int
) -> None:
    skip_without_quack()
    from model.kernels import quack

    x, residual = (normal(2, tokens, 256, seed=n).to(CUDA, torch.bfloat16) for n in (1, 2))
    up, down = normal(1024, 256, std=0.06, seed=3).cuda(), normal(256, 1024, std=0.03, seed=4).cuda()
    grad = normal(2, tokens, 256, seed=5).to(CUDA, torch.bfloat16)
    inputs = [value.requires_grad_() for value in (x, residual, up, down)]

    def slow(x: Tensor, residual: Tensor, up: Tensor, down: Tensor) -> Tensor:
        up, down = (weight.to(torch.bfloat16).double() for weight in (up, down))
        return residual.double() + F.linear(F.relu(F.linear(x.double(), up)).square(), down)

    expected = slow(*inputs)
    fused = quack.squared_relu_mlp
    call = torch.compile(fused, fullgraph=True, dynamic=False) if compiled else fused
    got = call(*inputs)
    assert error(got, expected) < ROUNDING
    for value, reference in zip(
        torch.autograd.grad(got, inputs, grad),
        torch.autograd.grad(expected, inputs, grad.double()),
        strict=True,
    ):
        assert value.dtype == reference.dtype
        assert error(value, reference) < ROUNDING


@pytest.mark.parametrize("shape", [pytest.param(s, marks=GPU) for s in [(3, 256, 640), (2, 64, 64)]])
def test_half_computed_symmetric_products_are_the_whole_ones(shape: tuple[int, int, int]) -> None:
    skip_without_quack()
    from model.optim.orthogonal import products_of

    x = normal(*shape, std=0.05).to(CUDA, torch.bfloat16)
    fused = products_of("quack")
    gram = fused.gram(x)
    assert error(gram, x.double() @ x.double().mT) < ROUNDING
    slow = gram.double()
    assert error(fused.polynomial(gram, -2.4, 0.5), -2.4 * slow + 0.5 * slow @ slow) < ROUNDING


def test_the_plan_names_the_kernel_of_every_place() -> None:
    config = load_config(None, {})
    plan = kernel_plan(config, REFERENCE)
    assert plan["attention"] == "sdpa"
    assert {plan[place] for place in ("norms", "mlp", "cross_entropy")} == {"inductor"}
    assert plan["muon"] == "none"
    assert choose(config, derive(config).sizes, CPU) == REFERENCE


@pytest.mark.parametrize(
    ("field", "kernel"), [("head", "triton"), ("mlp", "quack"), ("muon", "quack")]
)
def test_a_kernel_that_was_asked_for_and_cannot_run_stops_with_a_remedy(
    field: str, kernel: str
) -> None:
    config = load_config(None, {f"system.{field}_kernel": kernel})
    with pytest.raises(MachineError, match=f"Set system.{field}_kernel: auto"):
        choose(config, derive(config).sizes, CPU)
