"""Products in 8 bits: against slow rounding, at the edges of their range, and where they run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters

from model.arch.init import initialise
from model.arch.linear import Linear, joint_linear
from model.arch.parameter import Parameters
from model.config import Fp8 as Settings
from model.config.derive import derive
from model.config.parameters import ZERO, Normal, Parameter
from model.config.reader import load_config
from model.config.resolve import resolve
from model.errors import ConfigErrors, MachineError
from model.gpt import GPT
from model.kernels import REFERENCE, choose, kernel_plan, why_not
from model.kernels.fp8 import E4M3, E5M2, MIN_MAGNITUDE, Fp8, Quantized, product, quantize

BASES = Path(__file__).parents[2] / "ablations" / "configs"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # kernel packages warn as they import and compile
]
KINDS = {E4M3: (4, 3), E5M2: (5, 2)}  # bits of exponent and mantissa
SMALL = {
    "dial.depth": 2,
    "dial.batch_tokens": 320,
    "model.width": 128,
    "model.head_width": 32,
    "model.context_tokens": 160,
    "model.vocab_size": 128,
    "model.init": "gpt2",  # so that no zero projection hides what is in the blocks
    "system.precision": "fp32",
    "system.device": "cpu",
}


def grid(kind: torch.dtype) -> Tensor:
    """All values of a kind that are not negative, in order, by the formula of the format."""
    exponent_bits, mantissa_bits = KINDS[kind]
    bias, steps = 2 ** (exponent_bits - 1) - 1, 2**mantissa_bits
    small = [step / steps * 2.0 ** (1 - bias) for step in range(steps)]
    # e4m3 gives up one code for NaN, e5m2 a whole exponent for infinity and NaN
    last = 2**exponent_bits - (1 if kind == E5M2 else 0)
    normal = [
        (1 + step / steps) * 2.0 ** (exponent - bias)
        for exponent in range(1, last)
        for step in range(steps)
    ]
    values = small + normal
    return torch.tensor(values[:-1] if kind == E4M3 else values, dtype=torch.float64)


def rounded(x: Tensor, kind: torch.dtype) -> Tensor:
    """x as 8 bits hold it, in fp64: to the nearest of all values, ties to the even one."""
    values, scale = grid(kind), x.double().abs().max() / grid(kind)[-1]
    distance = (x.double().abs()[..., None] / scale - values).abs()
    nearest = distance.argmin(dim=-1)
    following = (nearest + 1).clamp(max=len(values) - 1)
    tied = distance.gather(-1, following[..., None]) == distance.min(dim=-1, keepdim=True).values
    nearest = torch.where(tied.squeeze(-1) & (nearest % 2 == 1), following, nearest)
    return values[nearest] * x.double().sign() * scale


def normal(*shape: int, std: float = 1.0, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def dequantized(x: Quantized) -> Tensor:
    return x.values.double() * x.scale.double()


def error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_value_of_a_format_is_that_of_its_formula(kind: torch.dtype) -> None:
    assert grid(kind)[-1] == torch.finfo(kind).max
    assert len(grid(kind)) == (127 if kind == E4M3 else 124)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_rounded_to_the_nearest_of_the_format(kind: torch.dtype) -> None:
    # seven magnitudes, so that the smallest steps of the format are met; its largest is a power of
    # two times the format's, so that scaling is exact and ties are met too
    x = torch.cat([normal(400, std=2.0**-power, seed=power) for power in range(0, 35, 5)])
    x = torch.cat([x.clamp(-1.5, 1.5), (grid(kind)[1:60] + grid(kind)[:59]).float() / 2])
    x = torch.cat([x, torch.tensor([torch.finfo(kind).max / 64])])
    torch.testing.assert_close(dequantized(quantize(x, kind)), rounded(x, kind), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_magnitude_is_the_formats_largest_whatever_it_was(kind: torch.dtype) -> None:
    for number, power in enumerate(range(-90, 120)):
        x = normal(50, std=2.0**power, seed=number)
        found = quantize(x, kind)
        assert found.values.float().abs().max() == torch.finfo(kind).max
        assert dequantized(found).abs().max() == pytest.approx(x.abs().max().item(), rel=1e-6)


@pytest.mark.parametrize("magnitude", [0.0, 1e-45, 1e-38, MIN_MAGNITUDE])
def test_next_to_nothing_stays_finite_and_no_larger(magnitude: float) -> None:
    x, weight = torch.full((16, 128), magnitude), normal(128, 128)
    x.requires_grad_()
    y = in_use("emulated").product(x, weight.requires_grad_())
    y.backward(torch.full_like(y, magnitude))
    for value in (y, x.grad, weight.grad):
        assert value is not None
        assert value.isfinite().all()
        assert value.abs().max() <= 128 * 8 * magnitude


def test_operands_are_row_major_however_the_tensor_lies() -> None:
    x = normal(48, 32)
    found, turned = quantize(x, E4M3), quantize(x.T.contiguous().T, E4M3)
    for one in (found, turned, found.transposed):
        assert one.values.is_contiguous()
    assert torch.equal(found.values.float(), turned.values.float())
    assert torch.equal(found.values.float().T, found.transposed.values.float())


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_is_not_hidden(bad: float) -> None:
    x = normal(16, 128)
    x[3, 5] = bad
    assert not in_use("emulated").product(x, normal(128, 128)).isfinite().all()


def in_use(kernel: str) -> Fp8:
    fp8 = Fp8(Settings(), kernel)
    fp8.in_use = True
    return fp8


def linear_of(columns: int, rows: int, fp8: Fp8, *, bias: bool = False) -> Linear:
    declared = {"weight": Parameter("weight", (rows, columns), "matrices", Normal(1.0))}
    if bias:
        declared["bias"] = Parameter("bias", (rows,), "biases", ZERO)
    return Linear(Parameters(declared, torch.float32), fp8)


# torch's CPU build has a product in 8 bits too, which holds the layout of operands to account
@pytest.mark.parametrize("kernel", ["emulated", "scaled_mm"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_and_its_gradients_are_those_of_slowly_rounded_operands(
    kernel: str, bias: bool
) -> None:
    fp8 = in_use(kernel)
    linear = linear_of(128, 144, fp8, bias=bias)
    x, grad = normal(2, 24, 128).requires_grad_(), normal(2, 24, 144, std=1e-6, seed=2)
    with torch.no_grad():
        for number, parameter in enumerate(linear.parameters()):
            parameter.copy_(normal(*parameter.shape, std=0.1, seed=5 + number))
    y = linear(x)
    y.backward(grad)
    low_x, low_weight = rounded(x.detach(), E4M3), rounded(linear.weight.detach(), E4M3)
    low_grad = rounded(grad, E5M2)
    expected = low_x @ low_weight.T
    if linear.bias is not None:
        expected = expected + linear.bias.detach()
        torch.testing.assert_close(linear.bias.grad, grad.sum((0, 1)))
    assert error(y, expected) < 1e-6
    assert x.grad is not None
    assert linear.weight.grad is not None
    assert error(x.grad, low_grad @ low_weight) < 1e-6
    assert error(linear.weight.grad, low_grad.flatten(0, 1).T @ low_x.flatten(0, 1)) < 1e-6


def test_joined_linears_share_one_scale() -> None:
    fp8 = in_use("emulated")
    first, second = (linear_of(128, 128, fp8) for _ in range(2))
    x = normal(3, 128)
    with torch.no_grad():
        first.weight.copy_(normal(128, 128))
        second.weight.copy_(normal(128, 128, std=0.01, seed=2))
    both = rounded(torch.cat([first.weight.detach(), second.weight.detach()]), E4M3)
    assert error(joint_linear(x, first, second), rounded(x, E4M3) @ both.T) < 1e-6


@pytest.mark.parametrize(
    ("columns", "rows", "taken"),
    [(128, 128, True), (128, 144, True), (128, 136, False), (136, 128, False), (112, 512, False)],
)
def test_only_large_linears_of_whole_16_bytes_are_in_8_bits(
    columns: int, rows: int, taken: bool
) -> None:
    linear = linear_of(columns, rows, in_use("emulated"))
    with torch.no_grad():
        linear.weight.copy_(normal(rows, columns))
    x = normal(4, columns)
    assert torch.equal(linear(x), F.linear(x, linear.weight)) != taken


def built(**overrides: Any) -> GPT:
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    config = load_config(BASES / "speedrun.yaml", {**SMALL, **named})
    model = GPT(config, derive(config).sizes, REFERENCE)
    initialise(model, seed=1)
    return model


def batch() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(128, (2, 161), generator=torch.Generator().manual_seed(2))
    return tokens[:, :-1], tokens[:, 1:].contiguous()


def gradients(model: GPT) -> list[Tensor]:
    model.zero_grad()
    model(*batch()).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_an_evaluation_is_bit_for_bit_that_of_the_model_without_fp8() -> None:
    plain, fp8 = built(), built(model__fp8={})
    assert not torch.equal(plain(*batch()), fp8(*batch()))
    assert torch.equal(plain.token_losses(*batch()), fp8.token_losses(*batch()))
    assert torch.equal(plain.logits(batch()[0]), fp8.logits(batch()[0]))


def test_a_forward_pass_that_fails_leaves_evaluations_as_they_are() -> None:
    fp8 = built(model__fp8={})
    with pytest.raises(IndexError):
        fp8(batch()[0] + 1000, batch()[1])
    assert torch.equal(built().logits(batch()[0]), fp8.logits(batch()[0]))


@pytest.mark.parametrize("head", [True, False])
def test_gradients_of_the_model_are_those_without_fp8_to_its_rounding(head: bool) -> None:
    fp8, plain = built(model__fp8={"head": head}), built()
    for model in (fp8, plain):
        gradients(model)
    for key, parameter in plain.blocks.named_parameters():
        got = fp8.blocks.get_parameter(key).grad
        assert got is not None
        assert parameter.grad is not None
        assert 0.01 < error(got, parameter.grad) < 0.15, key


def test_without_the_head_its_product_stays_exact() -> None:
    x = normal(64, 128)
    for head, exact in ((True, False), (False, True)):
        fp8 = built(model__fp8={"head": head})
        assert fp8.fp8 is not None
        with fp8.fp8.training():
            assert torch.equal(fp8.torch_logits(x), built().torch_logits(x)) == exact


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, inside its compiler
def test_compiled_training_and_evaluation_have_graphs_of_their_own_and_keep_them() -> None:
    plain, compiled = built(model__fp8={}), built(model__fp8={})
    torch._dynamo.reset()
    counters.clear()
    compiled.compile_regions("aot_eager")
    for _ in range(2):
        for got, expected in zip(gradients(compiled), gradients(plain), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)
        losses = compiled.token_losses(*batch())
        torch.testing.assert_close(losses, plain.token_losses(*batch()), rtol=1e-5, atol=1e-6)
    # two kinds of block and the losses, each twice; before the blocks, behind them, sums of x0
    assert counters["stats"]["unique_graphs"] == 2 * 3 + 3


CHOICES: list[tuple[str, torch.device, tuple[int, int], str]] = [
    ("auto", CPU, (0, 0), "emulated"),
    ("emulated", CPU, (0, 0), "emulated"),
    ("auto", CUDA, (8, 9), "scaled_mm"),
    ("scaled_mm", CUDA, (9, 0), "scaled_mm"),
    ("emulated", CUDA, (8, 0), "emulated"),
]


@pytest.mark.parametrize(("choice", "device", "capability", "chosen"), CHOICES)
def test_the_plan_names_the_kernel_of_fp8_products(
    choice: str,
    device: torch.device,
    capability: tuple[int, int],
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    config = load_config(
        BASES / "speedrun_fp8.yaml", {"system.fp8_kernel": choice, "system.attention": "sdpa"}
    )
    kernels = choose(config, derive(config).sizes, device)
    plan = kernel_plan(config, kernels)
    assert plan["fp8_products"] == chosen
    assert plan["products"] == "torch"  # of evaluations
    assert plan["qkv"] == "inductor"
    assert plan["muon_products"] == kernels.products
    without = load_config(BASES / "speedrun.yaml", {"system.attention": "sdpa"})
    assert kernel_plan(without, kernels)["fp8_products"] == "none"


@pytest.mark.parametrize(
    ("choice", "device", "reason"),
    [("scaled_mm", CPU, "a CUDA GPU only"), ("auto", CUDA, "8.6"), ("scaled_mm", CUDA, "8.6")],
)
def test_a_device_without_products_in_8_bits_is_refused_with_a_hint(
    choice: str, device: torch.device, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    config = load_config(
        BASES / "speedrun_fp8.yaml", {"system.fp8_kernel": choice, "system.attention": "sdpa"}
    )
    with pytest.raises(MachineError, match=rf"{reason}.*model\.fp8: null"):
        choose(config, derive(config).sizes, device)


@pytest.mark.parametrize(("head", "refused"), [(True, True), (False, False)])
def test_the_fused_head_is_refused_products_in_8_bits_that_are_emulated(
    head: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    choice = {"model.fp8.head": head, "system.fp8_kernel": "emulated"}
    config = load_config(BASES / "speedrun_fp8.yaml", choice)
    reason, _ = why_not("loss", config, derive(config).sizes, CUDA) or ("", "")
    assert ("by scaled_mm, not emulated" in reason) == refused


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ({"model.width": 64, "model.head_width": 32}, "model.fp8"),
        ({"model.width": 136, "model.head_width": 8}, "model.fp8"),
        ({"model.context_tokens": 200, "dial.batch_tokens": 2000}, "model.context_tokens"),
    ],
)
def test_shapes_that_cannot_be_in_8_bits_are_refused(override: dict[str, Any], path: str) -> None:
    resolve(str(BASES / "speedrun.yaml"), override)
    with pytest.raises(ConfigErrors, match=rf"{path}: .*model\.fp8: null"):
        resolve(str(BASES / "speedrun_fp8.yaml"), override)


def test_the_base_is_speedrun_with_fp8_and_costs_the_same_flops() -> None:
    (plain, without), (config, derived) = (
        resolve(str(BASES / f"{base}.yaml"), {}) for base in ("speedrun", "speedrun_fp8")
    )
    assert replace(config, model=replace(config.model, fp8=None)) == plain
    assert derived.flops_per_token == without.flops_per_token
    assert derived.parameters == without.parameters
    assert derived.memory_bytes < without.memory_bytes


def on_gpu(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(CUDA) for tensor in tensors]


def skip_without_fp8() -> None:
    if torch.cuda.get_device_capability(CUDA) < (8, 9):
        pytest.skip("this GPU has no products in 8 bits")


@pytest.mark.parametrize(
    "out", [pytest.param(t, marks=GPU) for t in (torch.bfloat16, torch.float32)]
)
@pytest.mark.parametrize(("kind", "fast"), [(E4M3, True), (E5M2, False)])
def test_products_of_the_gpu_are_the_emulated_ones(
    kind: torch.dtype, fast: bool, out: torch.dtype
) -> None:
    skip_without_fp8()
    a, b = on_gpu(normal(1024, 768), normal(512, 768, seed=2))
    low_a, low_b = quantize(a, kind), quantize(b, E4M3)
    got = product(low_a, low_b, out, "scaled_mm", fast=fast)
    expected = dequantized(low_a) @ dequantized(low_b).T
    assert got.dtype == out
    # fast sums keep about 14 bits, bf16 eight; Hopper's others fewer than fp32, too, inside a chunk
    assert error(got, expected) < (4e-3 if fast or out == torch.bfloat16 else 1e-3)
    emulated = product(low_a, low_b, torch.float32, "emulated")
    assert error(emulated, expected) < 1e-5


@pytest.mark.parametrize("compiled", [pytest.param(c, marks=GPU) for c in (False, True)])
def test_a_linear_of_the_gpu_and_its_gradients_are_the_emulated_ones(compiled: bool) -> None:
    skip_without_fp8()
    x, weight, grad = on_gpu(
        normal(2048, 512), normal(768, 512, std=0.05, seed=2), normal(2048, 768, std=1e-6, seed=3)
    )
    x = x.bfloat16().requires_grad_()
    weight.requires_grad_()

    def results(kernel: str) -> list[Tensor]:
        run: Callable[[Tensor, Tensor], Tensor] = in_use(kernel).product
        torch._dynamo.reset()
        y = (torch.compile(run, fullgraph=True) if compiled else run)(x, weight)
        return [y, *torch.autograd.grad(y, (x, weight), grad.bfloat16())]

    for got, expected in zip(results("scaled_mm"), results("emulated"), strict=True):
        assert got.dtype == expected.dtype
        assert error(got, expected) < 6e-3


@pytest.mark.parametrize("shape", [pytest.param(s, marks=GPU) for s in [(300, 500), (16, 1024)]])
def test_tiles_turned_over_are_the_matrix_turned_over(shape: tuple[int, int]) -> None:
    skip_without_fp8()
    from model.kernels import loss

    x = quantize(normal(*shape).to(CUDA), E5M2)
    turned = loss._transposed(x).values
    assert turned.is_contiguous()
    assert torch.equal(turned.view(torch.int8), x.values.t().contiguous().view(torch.int8))


@pytest.mark.parametrize("case", [pytest.param(c, marks=GPU) for c in [(304, 500), (20000, 1024)]])
@pytest.mark.parametrize("cap", [None, 15.0])
def test_the_fused_head_in_8_bits_is_the_slow_one_of_rounded_operands(
    cap: float | None, case: tuple[int, int]
) -> None:
    skip_without_fp8()
    from model.kernels import loss

    tokens, vocab = case
    padded = -(-vocab // 64) * 64
    x, weight = on_gpu(normal(tokens, 256), normal(padded, 256, std=0.3, seed=2))
    x = x.bfloat16().requires_grad_()
    weight.requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), generator=torch.Generator().manual_seed(3)).cuda()

    low_x, low_weight = (
        dequantized(quantize(value.detach(), E4M3)).requires_grad_() for value in (x, weight)
    )
    logits = F.linear(low_x, low_weight)[:, :vocab]
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    slow = F.cross_entropy(logits, targets)
    expected = torch.autograd.grad(slow, (low_x, low_weight))

    fused = loss.mean_loss(x, weight, targets, cap, vocab, fp8=True)
    got = torch.autograd.grad(fused, (x, weight))
    assert fused.item() == pytest.approx(slow.item(), rel=1e-3)
    for value, parameter, reference in zip(got, (x, weight), expected, strict=True):
        assert value.dtype == parameter.dtype
        assert error(value, reference) < 0.08  # two bits of mantissa: a rounding costs up to 1/8
    assert not got[1][vocab:].any()  # padding learns nothing
