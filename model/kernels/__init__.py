"""Which kernel runs where: chosen once, from the configuration and what the machine offers.

`torch` is the reference everywhere, left to torch.compile where that is on. The others each
replace one place of the model or of the optimizer and compute the same to rounding:

attention   model/attention, which has its own back-ends and its own `auto`
loss        `triton`, loss.py: head, softcap and cross-entropy in chunks of rows
qkv         `triton`, qkv.py: rotation and norm of queries and keys in one kernel
products    `quack`, products.py: activation and residual inside the products of a block, and
            symmetric products of Muon, of which half is computed
muon        `triton`, muon.py: its elementwise steps in two passes

The products of trick `fp8` have two forms of one computation (model/kernels/fp8.py): `scaled_mm` on
a GPU, `emulated` on a CPU or where it was asked for. They take the place of qkv (where attention is
in 8 bits) and of the blocks' part of products (where MLPs are), whose kernels multiply in bf16;
those of Muon stay.

A trick that changes one of these places and is not in its kernel (logit rescale, paired heads, an
activation) leaves the place to torch. As with attention, `auto` takes what can run here, a kernel
that was asked for and cannot run stops the run, and the run's record keeps the plan. The GPU tests
compare it with the kernels of a profiled step, so that a fused kernel is never used or lost in
silence.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from model import attention
from model.attention.requirements import Problem
from model.config import Config
from model.config.kernel_eligibility import FUSED, mlp_in_fp8, unsupported
from model.config.shapes import Sizes
from model.errors import MachineError


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The kernel of each place, by name."""

    attention: str
    loss: str = "torch"
    qkv: str = "torch"
    products: str = "torch"
    muon: str = "torch"
    fp8: str = "emulated"
    """Of the products in 8 bits, where model.fp8 asks for any."""

    @property
    def fused(self) -> frozenset[str]:
        """The places where a fused kernel runs."""
        return frozenset(place for place in FUSED if getattr(self, place) != "torch")


REFERENCE = Kernels(attention="sdpa")
"""Runs everywhere; what every other choice is compared with."""


def compute_type(config: Config) -> torch.dtype:
    """The number format that a configuration computes in; bf16 also stores the large tables."""
    return torch.bfloat16 if config.system.precision == "bf16" else torch.float32


def choose(config: Config, sizes: Sizes, device: torch.device) -> Kernels:
    """The kernels of a run; raises MachineError where one was asked for and cannot run."""
    return Kernels(
        attention=attention.choose(
            *(config.system.attention, device, sizes.head_width, compute_type(config)),
            documents=config.model.document_mask is not None,
        ),
        **{place: _choose(place, config, sizes, device) for place in FUSED},
        fp8=_choose_fp8(config, device),
    )


def why_not(place: str, config: Config, sizes: Sizes, device: torch.device) -> Problem | None:
    """What keeps the fused kernel of `place` from running, and the hint."""
    hint = f"Set system.{place}_kernel: auto."
    kernel = f"the fused kernel of {place}"
    if device.type != "cuda":
        return f"{kernel} runs on a CUDA GPU only", hint
    if compute_type(config) != torch.bfloat16:
        return f"{kernel} computes in bf16", hint
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{kernel} needs compute capability 8.0 or later", hint
    if (reason := unsupported(place, config, sizes)) is not None:
        return f"{kernel} {reason}", hint
    if place == "products":
        return fused("quack", place).why_not(sizes, device)
    if find_spec("triton") is None:
        install = f"Run: pip install triton, or set system.{place}_kernel: auto."
        return f"{kernel} needs Triton, which is not installed", install
    return None


FP8_CAPABILITY = (8, 9)  # Ada: the first with fp8 in its tensor cores


def _choose(place: str, config: Config, sizes: Sizes, device: torch.device) -> str:
    asked = getattr(config.system, f"{place}_kernel")
    if asked == "torch":
        return "torch"
    problem = why_not(place, config, sizes, device)
    if problem is None:
        return FUSED[place]
    if asked == "auto":
        return "torch"
    reason, hint = problem
    raise MachineError(
        path=f"system.{place}_kernel", expected=f"{asked} to run here", got=reason, hint=hint
    )


def _choose_fp8(config: Config, device: torch.device) -> str:
    asked = config.system.fp8_kernel
    if config.model.fp8 is None or asked == "emulated" or (asked, device.type) == ("auto", "cpu"):
        return "emulated"
    problem = why_no_scaled_mm(device)
    if problem is None:
        return "scaled_mm"
    reason, hint = problem
    raise MachineError(
        path="system.fp8_kernel", expected="scaled_mm to run here", got=reason, hint=hint
    )


def why_no_scaled_mm(device: torch.device) -> Problem | None:
    """What keeps a device from products in 8 bits, and the hint."""
    if device.type != "cuda":
        hint = "Set system.fp8_kernel: auto, or model.fp8: null."
        return "products in fp8 by scaled_mm run on a CUDA GPU only", hint
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < FP8_CAPABILITY:
        hint = "Set model.fp8: null, or take an Ada or Hopper GPU, or a newer one."
        return f"this GPU of {major}.{minor} has no products in fp8, which came with 8.9", hint
    return None


def fused(kernel: str, place: str) -> Any:
    """The module with the fused kernels of a place (model/kernels), null where torch computes it.

    Imported here: it needs Triton or a kernel package, which a CPU does without.
    """
    return None if kernel == "torch" else import_module(f"model.kernels.{place}")


def kernel_plan(config: Config, kernels: Kernels) -> dict[str, str]:
    """Operation -> kernel, as the record of a run keeps it.

    Where `fp8_products` names a kernel, the Linears of training run on it, and `products` are those
    of evaluations.
    """
    compiled = "inductor" if config.system.compile else "eager"

    def of(kernel: str) -> str:
        return compiled if kernel == "torch" else kernel

    muon, fp8 = config.optimizer.muon is not None, config.model.fp8 is not None
    cautious = config.optimizer.adamw_cautious_decay is not None
    return {
        "attention": kernels.attention,
        "norms": compiled,
        "qkv": of(kernels.qkv),
        "products": "torch" if mlp_in_fp8(config) else kernels.products,
        "fp8_products": kernels.fp8 if fp8 else "none",
        "loss": of(kernels.loss),
        "adamw": f"{compiled}, torch fused" if cautious else "torch fused",
        "muon": kernels.muon if muon else "none",
        "muon_products": kernels.products if muon else "none",
    }
