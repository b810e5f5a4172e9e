"""Products in 8 bits at some places only, and by scales that are fixed or of the steps before."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.arch.init import initialise
from model.arch.linear import Linear
from model.arch.parameter import Parameters
from model.config import Config
from model.config import Fp8 as Settings
from model.config.derive import derive
from model.config.identity import identifying
from model.config.parameters import Normal, Parameter
from model.config.reader import load_config
from model.config.resolve import resolve
from model.distributed.ranks import ALONE
from model.errors import ConfigErrors
from model.gpt import GPT
from model.kernels import REFERENCE, Kernels, kernel_plan, why_not
from model.kernels.fp8 import DYNAMIC_STEPS, E4M3, E5M2, MIN_MAGNITUDE, Fp8, quantize
from model.trainer import Trainer

BASES = Path(__file__).parents[2] / "ablations" / "configs"
CUDA = torch.device("cuda")
SMALL = {
    "dial.depth": 2,
    "dial.batch_tokens": 320,
    "model.width": 128,
    "model.head_width": 32,
    "model.context_tokens": 160,
    "model.vocab_size": 128,
    "model.init": "gpt2",
    "system.precision": "fp32",
    "system.device": "cpu",
    "system.compile": False,
}


def slowly_rounded(x: Tensor, kind: torch.dtype, bound: float) -> Tensor:
    """To the nearest value of the format after division, in fp64; the larger ones to its largest.

    The format's values come from its codes, so that nothing of the code under test is used.
    """
    values = torch.arange(256, dtype=torch.uint8).view(kind).double()
    values = values[values.isfinite() & (values >= 0)].sort().values
    scale = bound / values[-1]
    away = (x.double().abs()[..., None] / scale - values).abs()
    return values[away.argmin(dim=-1)] * x.double().sign() * scale


def normal(*shape: int, std: float = 1.0, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


def linear_of(fp8: Fp8, columns: int = 128, rows: int = 144, std: float = 0.1) -> Linear:
    declared = {"weight": Parameter("weight", (rows, columns), "matrices", Normal(1.0))}
    linear = Linear(Parameters(declared, torch.float32), fp8)
    with torch.no_grad():
        linear.weight.copy_(normal(rows, columns, std=std, seed=4))
    return linear


@pytest.mark.parametrize("kind", [E4M3, E5M2])
def test_values_are_rounded_by_the_bound_and_cut_beyond_it(kind: torch.dtype) -> None:
    x = torch.cat([normal(400, std=2.0**-power, seed=power) for power in range(0, 20, 4)])
    found = quantize(x, kind, torch.tensor(1.3))
    got = found.values.double() * found.scale.double()
    assert error(got, slowly_rounded(x, kind, 1.3)) < 1e-6
    assert got.abs().max().item() == pytest.approx(1.3)
    for bad in (float("inf"), float("-inf"), float("nan")):
        assert (
            not quantize(torch.tensor([1.0, bad]), kind, torch.tensor(1.3))
            .values[1]
            .float()
            .isfinite()
        )


# torch's CPU build has a product in 8 bits too
@pytest.mark.parametrize("kernel", ["emulated", "scaled_mm"])
def test_static_scales_are_three_numbers_the_last_over_the_rows(kernel: str) -> None:
    fp8 = Fp8(Settings(scales="static", static_input=3.0, static_gradient=2.0), kernel)
    fp8.in_use = True
    linear = linear_of(fp8)
    x, grad = normal(2, 24, 128).requires_grad_(), normal(2, 24, 144, std=0.01, seed=2)
    y = linear(x)
    y.backward(grad)
    low_x, low_weight = (
        slowly_rounded(value.detach(), E4M3, bound)
        for value, bound in ((x, 3.0), (linear.weight, 1.6))
    )
    low_grad = slowly_rounded(grad, E5M2, 2.0 / 48)
    assert error(y, low_x @ low_weight.T) < 1e-6
    assert x.grad is not None
    assert linear.weight.grad is not None
    assert error(x.grad, low_grad @ low_weight) < 1e-6
    assert error(linear.weight.grad, low_grad.flatten(0, 1).T @ low_x.flatten(0, 1)) < 1e-6
    assert "scales.bounds" not in linear.state_dict()  # numbers of the configuration


@pytest.mark.parametrize("kernel", ["emulated", "scaled_mm"])
def test_delayed_scales_are_the_largest_of_the_last_steps_and_all_their_passes(
    kernel: str,
) -> None:
    fp8 = Fp8(Settings(scales="delayed", history_steps=3, headroom=1.5), kernel)
    fp8.in_use = True
    linear, dynamic = linear_of(fp8), Fp8(Settings(), kernel)
    dynamic.in_use = True
    largest: list[list[float]] = []
    for step in range(DYNAMIC_STEPS + 5):
        fp8.begin(step)
        of_step = []
        for number in range(2):
            seed = 10 * step + number
            x = normal(16, 128, std=1 + step % 4, seed=seed).requires_grad_()
            grad = normal(16, 144, std=1e-3 / (1 + step % 3), seed=seed + 5)
            y = linear(x)
            (got,) = torch.autograd.grad(y, x, grad)
            maxima = [value.detach().abs().max().item() for value in (x, linear.weight, grad)]
            of_step.append(maxima)
            if step < DYNAMIC_STEPS:
                assert torch.equal(y, dynamic.product(x, linear.weight))
                continue
            bounds = [1.5 * max(each[i] for each in largest[-3:]) for i in range(3)]
            low_x = slowly_rounded(x.detach(), E4M3, bounds[0])
            low_weight = slowly_rounded(linear.weight.detach(), E4M3, bounds[1])
            assert error(y, low_x @ low_weight.T) < 1e-6
            assert error(got, slowly_rounded(grad, E5M2, bounds[2]) @ low_weight) < 1e-6
        largest.append([max(pass_[i] for pass_ in of_step) for i in range(3)])
        with torch.no_grad():
            linear.weight *= 1.01
        fp8.update_scales(ALONE)


def test_a_tensor_of_zeros_leaves_a_bound_to_divide_by() -> None:
    fp8 = Fp8(Settings(scales="delayed"), "emulated")
    fp8.in_use = True
    linear = linear_of(fp8, std=0.0)
    linear(normal(16, 128))
    fp8.update_scales(ALONE)
    assert linear.scales is not None
    assert (linear.scales.bounds >= MIN_MAGNITUDE).all()
    fp8.begin(DYNAMIC_STEPS)
    assert linear(normal(16, 128)).isfinite().all()


def config_with(**fp8: Any) -> Config:
    return load_config(BASES / "speedrun.yaml", {**SMALL, "model.fp8": fp8})


def built(config: Config) -> GPT:
    model = GPT(config, derive(config).sizes, REFERENCE)
    initialise(model, seed=1)
    return model


def batch() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(128, (2, 161), generator=torch.Generator().manual_seed(2))
    return tokens[:, :-1], tokens[:, 1:].contiguous()


@pytest.mark.parametrize(
    ("fp8", "expected"),
    [
        ({}, {"head", "mlp", "attention"}),
        ({"head": False}, {"mlp", "attention"}),
        ({"places": "head"}, {"head"}),
        ({"places": "mlp"}, {"mlp"}),
    ],
)
def test_products_are_in_8_bits_at_the_chosen_places_alone(
    fp8: dict[str, Any], expected: set[str]
) -> None:
    model = built(config_with(**fp8))
    x = normal(2, 160, 128)
    block, plain = model.blocks[0], built(load_config(BASES / "speedrun.yaml", SMALL)).blocks[0]
    assert model.fp8 is not None
    with model.fp8.training():
        found = {
            "mlp": not torch.equal(block.mlp(x, x), plain.mlp(x, x)),
            "attention": not torch.equal(
                block.attention.query(x),
                F.linear(x, block.attention.query.weight),
            ),
            "head": not torch.equal(
                model.torch_logits(x),
                15 * torch.tanh(F.linear(x, model.head_weight) / 15),
            ),
        }
    assert {place for place, low in found.items() if low} == expected
    losses = model.token_losses(*batch())
    reference = built(load_config(BASES / "speedrun.yaml", SMALL))
    assert torch.equal(losses, reference.token_losses(*batch()))


def test_defaults_are_what_the_trick_was_before_and_change_no_identity() -> None:
    config = load_config(BASES / "speedrun.yaml", {"model.fp8": {}})
    assert identifying(config)["model"]["fp8"] == {}
    with_head = load_config(BASES / "speedrun.yaml", {"model.fp8": {"head": False}})
    assert identifying(with_head)["model"]["fp8"] == {"head": False}


@pytest.mark.parametrize("scales", ["static", "delayed"])
def test_a_trainer_that_resumes_from_a_state_takes_the_same_steps(
    scales: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.kernels.fp8.DYNAMIC_STEPS", 2)
    config, derived = resolve(str(BASES / "speedrun.yaml"), {
        **SMALL, "model.fp8": {"scales": scales}, "dial.steps": 6, "model.init": "zero_projections",
    })  # fmt: skip
    device, tokens = torch.device("cpu"), torch.cat((batch()[0], batch()[1][:, -1:]), dim=1)
    first = Trainer(config, derived, device)
    for step in range(3):
        first.step(step, tokens)
    second = Trainer(config, derived, device)
    second.load_state_dict(deepcopy(first.state_dict()))
    for step in range(3, 6):
        one, other = first.step(step, tokens)[0], second.step(step, tokens)[0]
        assert torch.equal(one, other)
        assert one.isfinite()
    keys = [key for key in first.state_dict()["model"] if ".scales." in key or "head_scales" in key]
    assert bool(keys) == (scales == "delayed")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, inside its compiler
@pytest.mark.slow
@pytest.mark.parametrize("scales", ["static", "delayed"])
def test_compiled_training_has_the_same_gradients_and_maxima(scales: str) -> None:
    plain, compiled = (built(config_with(scales=scales)) for _ in range(2))
    torch._dynamo.reset()
    compiled.compile_regions("aot_eager")
    for step in (0, DYNAMIC_STEPS):
        for model in (plain, compiled):
            assert model.fp8 is not None
            model.fp8.begin(step)
            model.zero_grad()
            model(*batch()).backward()
            model.fp8.update_scales(ALONE)
        for got, expected in zip(compiled.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(got.grad, expected.grad, rtol=1e-4, atol=1e-6)
        for got, expected in zip(compiled.buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("fp8", "place", "reason"),
    [
        ({"scales": "delayed"}, "loss", "supports dynamic fp8 scales, not delayed ones"),
        ({"scales": "static"}, "loss", "supports dynamic fp8 scales, not static ones"),
        ({"scales": "static", "places": "mlp"}, "loss", ""),
        ({}, "qkv", "multiplies in bf16, not in fp8"),
        ({"places": "mlp"}, "qkv", ""),
        ({"places": "head"}, "qkv", ""),
    ],
)
def test_fused_kernels_keep_the_places_that_are_not_in_8_bits(
    fp8: dict[str, Any], place: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    config = load_config(BASES / "speedrun.yaml", {"model.fp8": fp8})
    got, _ = why_not(place, config, derive(config).sizes, CUDA) or ("", "")
    assert reason in got
    assert bool(reason) or "fp8" not in got
    products = kernel_plan(config, Kernels(attention="sdpa", products="quack"))["products"]
    assert products == ("quack" if fp8.get("places") == "head" else "torch")


@pytest.mark.parametrize(
    ("fp8", "message"),
    [
        ({"places": "head", "head": False}, r"model\.fp8\.head: expected true"),
        ({"history_steps": 0}, r"model\.fp8\.history_steps: expected more than 0"),
        ({"headroom": 0.5}, r"model\.fp8\.headroom: expected 1 or more"),
        ({"static_weight": 0.0}, r"model\.fp8\.static_weight: expected more than 0"),
    ],
)
def test_numbers_out_of_range_are_refused(fp8: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigErrors, match=message):
        resolve(str(BASES / "speedrun.yaml"), {"model.fp8": fp8})
