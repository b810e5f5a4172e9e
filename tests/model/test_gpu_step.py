"""One training step on a GPU: the kernels that run are those of the plan, and what they compute is
what the CPU computes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import Config
from model.config.derive import derive
from model.config.kernel_eligibility import FUSED
from model.config.reader import load_config
from model.kernels import kernel_plan
from model.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # kernel packages warn as they import and compile
]

SPEEDRUN = Path(__file__).parents[2] / "ablations" / "configs" / "speedrun.yaml"
SMALL = {
    "dial.depth": 4,
    "dial.steps": 10,
    "dial.batch_tokens": 4096,
    "model.context_tokens": 1024,
    "model.vocab_size": 4096,
}
# part of a kernel's name, by place and kernel of the plan
NAMES = {
    ("attention", "flash4"): "flash_attncute",
    ("attention", "flash2"): "pytorch_flash",
    ("attention", "flex"): "flex_attention",
    ("qkv", "triton"): "_rotate_and_norm",
    ("products", "quack"): "quack",
    ("loss", "triton"): "_cross_entropy_row",
    ("muon", "triton"): "_update_momentum",
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def config_of(**overrides: Any) -> Config:
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config(SPEEDRUN, {**SMALL, **named})


def trainer_of(config: Config, device: str) -> Trainer:
    return Trainer(config, derive(config), torch.device(device))


def tokens_of(trainer: Trainer) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = trainer.derived.batch_tokens // trainer.derived.sizes.context
    shape = (rows, trainer.derived.sizes.context + 1)
    return torch.randint(4096, shape, generator=generator).to(trainer.device)


REFUSED = {
    "model__softcap": None,
    "model__logit_rescale": {},
    "model__paired_heads": {},
    "model__activation": "swiglu",
}
"""Tricks that leave every place but Muon's to torch."""


@pytest.mark.parametrize(("fused", "tricks"), [("auto", {}), ("auto", REFUSED), ("torch", {})])
def test_a_profiled_step_runs_the_kernels_of_the_plan_and_no_others(
    fused: str, tricks: dict[str, Any]
) -> None:
    overrides = {f"system__{place}_kernel": fused for place in FUSED} | tricks
    if fused == "torch":
        overrides["system__attention"] = "flash2"
    config = config_of(**overrides)
    trainer = trainer_of(config, "cuda")
    tokens = tokens_of(trainer)
    trainer.step(0, tokens)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiled:
        trainer.step(1, tokens)
        torch.cuda.synchronize()
    ran = " ".join(event.key for event in profiled.key_averages())
    plan = kernel_plan(config, trainer.kernels)
    seen = {place: kernel for (place, kernel), name in NAMES.items() if name in ran}
    planned = {place: plan[place] for place, kernel in NAMES if plan[place] == kernel}
    assert seen == planned, ran
    if fused == "auto":
        expected = {"muon"} if tricks else set(FUSED) - {"products"}
        assert expected == set(planned) & (set(FUSED) - {"products"})


def test_a_step_in_fp32_is_that_of_the_cpu() -> None:
    # projections that are not zero, so that all gradients exist
    shared: dict[str, Any] = {"system__precision": "fp32", "system__compile": False}
    config = config_of(**shared, system__attention="sdpa", model__init="gpt2")
    cpu, gpu = trainer_of(config, "cpu"), trainer_of(config, "cuda")
    before = {key: value.detach().clone() for key, value in cpu.gpt.named_parameters()}
    losses = [trainer.gradients(tokens_of(trainer)).item() for trainer in (cpu, gpu)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert_gradients_agree(gpu, cpu, share=1e-4, floor=1e-6)
    for trainer in (cpu, gpu):
        trainer.optimizers.step(0)
    for key, expected in cpu.gpt.named_parameters():
        if expected.ndim == 2:  # AdamW's first step is a sign, which a scalar near 0 may turn
            moved = expected.detach() - before[key]
            got = gpu.gpt.get_parameter(key).detach().cpu() - before[key]
            assert (got - moved).norm() <= 0.02 * moved.norm(), key


def test_gradients_of_fused_kernels_in_bf16_are_those_of_the_cpu_to_rounding() -> None:
    cpu = trainer_of(
        config_of(system__precision="fp32", system__compile=False, model__init="gpt2"), "cpu"
    )
    gpu = trainer_of(config_of(model__init="gpt2"), "cuda")
    assert {"qkv", "loss", "muon"} <= gpu.kernels.fused
    losses = [trainer.gradients(tokens_of(trainer)).item() for trainer in (cpu, gpu)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert_gradients_agree(gpu, cpu, share=0.05, floor=1e-3)


@pytest.mark.parametrize("loss", ["auto", "torch"])
def test_a_profiled_step_in_fp8_has_three_products_a_linear_and_the_kernels_of_its_plan(
    loss: str,
) -> None:
    skip_without_fp8()
    config = config_of(model__fp8={}, system__loss_kernel=loss)
    trainer = trainer_of(config, "cuda")
    tokens = tokens_of(trainer)
    trainer.step(0, tokens)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiled:
        trainer.step(1, tokens)
        torch.cuda.synchronize()
    events = profiled.key_averages()
    calls = {event.key: event.count for event in events}
    on_gpu = torch.autograd.DeviceType.CUDA
    ran = " ".join(event.key for event in events if event.device_type == on_gpu)
    plan = kernel_plan(config, trainer.kernels)
    assert plan["fp8_products"] == "scaled_mm"
    # of each block q, k, v together, attention's output, up and down; the head in chunks of rows
    assert calls["aten::_scaled_mm"] == 3 * (4 * config.dial.depth + 1)
    assert ("quack" in ran) == (plan["muon_products"] == "quack")  # blocks have none of it
    for (place, kernel), name in NAMES.items():
        if place != "products":
            assert (name in ran) == (plan[place] == kernel), place


def test_gradients_in_fp8_are_those_of_the_emulation_to_rounding() -> None:
    skip_without_fp8()
    # without the head, of whose gradient the fused loss knows the scale and the slow one measures
    # it; projections that are not zero, so that all gradients exist
    shared: dict[str, Any] = {"model__fp8": {"head": False}, "model__init": "gpt2"}
    emulated = trainer_of(
        config_of(**shared, system__fp8_kernel="emulated", system__compile=False), "cuda"
    )
    fp8 = trainer_of(config_of(**shared), "cuda")
    assert (emulated.kernels.fp8, fp8.kernels.fp8) == ("emulated", "scaled_mm")
    losses = [trainer.gradients(tokens_of(trainer)).item() for trainer in (emulated, fp8)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    # values that differ by a rounding of bf16 may fall to either side of one of 8 bits
    assert_gradients_agree(fp8, emulated, share=0.08, floor=1e-3)


def test_what_training_in_fp8_evaluates_is_what_training_without_does() -> None:
    skip_without_fp8()
    fp8, plain = (
        trainer_of(config_of(model__init="gpt2", **trick), "cuda")
        for trick in ({"model__fp8": {}}, {})
    )
    fp8.gradients(tokens_of(fp8))
    inputs, targets = (
        part.contiguous() for part in (tokens_of(fp8)[:, :-1], tokens_of(fp8)[:, 1:])
    )
    got, expected = (trainer.gpt.token_losses(inputs, targets) for trainer in (fp8, plain))
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)
    assert got.mean().item() == pytest.approx(expected.mean().item(), rel=1e-4)


def skip_without_fp8() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no products in 8 bits")


def assert_gradients_agree(got: Trainer, expected: Trainer, *, share: float, floor: float) -> None:
    """Errors at most `share` of each gradient, plus `floor` of the norm of all together.

    The floor is for factors in front of a norm: what a norm undoes has a gradient near 0, a small
    difference of large sums.
    """
    gradients = {key: gradient_of(value) for key, value in expected.gpt.named_parameters()}
    whole = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    for key, gradient in gradients.items():
        error = (gradient_of(got.gpt.get_parameter(key)) - gradient).norm()
        assert error <= share * gradient.norm() + floor * whole, key


def gradient_of(parameter: torch.nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.float().cpu()
