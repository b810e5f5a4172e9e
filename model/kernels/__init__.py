"""Which kernel runs where: chosen once, from the configuration and what the machine offers.

`torch` is the reference everywhere, left to torch.compile where that is on. The others each
replace one place of the model or of the optimizer and compute the same to rounding:

attention   model/attention, which has its own back-ends and its own `auto`
head        `triton`, head.py: head, softcap and cross-entropy in chunks of rows
mlp         `quack`, mlp.py: squared ReLU and the residual inside the matrix products
muon        `quack`, products.py: symmetric products of which half is computed

As with attention, `auto` takes what can run here, a kernel that was asked for and cannot run stops
the run, and the run's record keeps the plan. The GPU tests compare it with the kernels of a
profiled step, so that a fused kernel is never used or lost in silence.
"""

from dataclasses import dataclass

import torch

from model import attention
from model.config import Config
from model.errors import MachineError
from model.parameter import compute_type
from model.requirements import Problem
from model.shapes import Sizes


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The kernel of each place, by name."""

    attention: str
    head: str = "torch"
    mlp: str = "torch"
    muon: str = "torch"


REFERENCE = Kernels(attention="sdpa")
"""Runs everywhere; what every other choice is compared with."""


def choose(config: Config, sizes: Sizes, device: torch.device) -> Kernels:
    """The kernels of a run; raises MachineError where one was asked for and cannot run."""
    return Kernels(
        attention=attention.choose(
            config.system.attention, device, sizes.head_width, compute_type(config)
        ),
        head=_choose("head", config, sizes, device),
        mlp=_choose("mlp", config, sizes, device),
        muon=_choose("muon", config, sizes, device),
    )


def why_not(place: str, config: Config, sizes: Sizes, device: torch.device) -> Problem | None:
    """What keeps the fused kernel of `place` from running, and the remedy."""
    field = f"system.{place}_kernel"
    if device.type != "cuda":
        return f"the fused kernel of {place} runs on a CUDA GPU only", f"Set {field}: auto."
    if compute_type(config) != torch.bfloat16:
        return f"the fused kernel of {place} computes in bf16", f"Set {field}: auto."
    if place == "head":
        from model.kernels import head

        return head.why_not(device)
    from model.kernels import quack

    return quack.why_not(place, config, sizes, device)


FUSED = {"head": "triton", "mlp": "quack", "muon": "quack"}


def _choose(place: str, config: Config, sizes: Sizes, device: torch.device) -> str:
    asked = getattr(config.system, f"{place}_kernel")
    if asked == "torch":
        return "torch"
    problem = why_not(place, config, sizes, device)
    if problem is None:
        return FUSED[place]
    if asked == "auto":
        return "torch"
    reason, remedy = problem
    raise MachineError(
        path=f"system.{place}_kernel", expected=f"{asked} to run here", got=reason, remedy=remedy
    )


def kernel_plan(config: Config, kernels: Kernels) -> dict[str, str]:
    """Operation -> kernel, as the record of a run keeps it."""
    compiled = "inductor" if config.system.compile else "eager"

    def of(kernel: str) -> str:
        return compiled if kernel == "torch" else kernel

    return {
        "attention": kernels.attention,
        "norms": compiled,
        "mlp": of(kernels.mlp),
        "cross_entropy": of(kernels.head),
        "adamw": "torch fused",
        "muon": kernels.muon if config.optimizer.muon is not None else "none",
    }
