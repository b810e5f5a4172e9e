"""The kernel of each operation: chosen once, from the configuration and the machine.

`torch` is the reference for every place, compiled by torch.compile if that is on. Each other kernel
replaces one place of the model or the optimizer and computes the same up to rounding:

    attention   model/attention, with separate back-ends and a separate `auto`
    loss        `triton`, loss.py: head, softcap and cross-entropy in chunks of rows
    qkv         `triton`, qkv.py: rotation and norm of queries and keys in one kernel
    products    `quack`, products.py: activation and residual fused into the products of a block,
                and symmetric products of Muon, of which half is computed
    muon        `triton`, muon.py: its elementwise steps in two passes

The products of trick `fp8` have two implementations of one computation (model/kernels/fp8.py):
`scaled_mm` on a GPU, `emulated` on a CPU or on request. They replace qkv (if attention is in fp8)
and the blocks' part of products (if MLPs are in fp8), whose kernels multiply in bf16; Muon's
products do not change.

If a kernel does not support an enabled trick (logit rescale, paired heads, an activation), torch
computes its place. `auto` uses the kernels that can run; a requested kernel that cannot run is an
error. The run's record contains the plan, and the GPU tests compare it with the kernels of a
profiled step, so that no fused kernel is used or dropped unnoticed.
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
    """Kernel of fp8 products, if model.fp8 is on."""

    @property
    def fused(self) -> frozenset[str]:
        """Places with a fused kernel."""
        return frozenset(place for place in FUSED if getattr(self, place) != "torch")


REFERENCE = Kernels(attention="sdpa")
"""Runs everywhere; the reference for tests."""


def compute_type(config: Config) -> torch.dtype:
    """The compute type; with bf16 it is also the type of large tables."""
    return torch.bfloat16 if config.system.precision == "bf16" else torch.float32


def choose(config: Config, sizes: Sizes, device: torch.device) -> Kernels:
    """The kernels of a run; raises MachineError if a requested kernel cannot run."""
    return Kernels(
        attention=attention.choose(
            *(config.system.attention, device, sizes.head_width, compute_type(config)),
            documents=config.model.document_mask is not None,
        ),
        **{place: _choose(place, config, sizes, device) for place in FUSED},
        fp8=_choose_fp8(config, device),
    )


def why_not(place: str, config: Config, sizes: Sizes, device: torch.device) -> Problem | None:
    """Why the fused kernel of `place` cannot run, and a hint; None if it can."""
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
    choice = getattr(config.system, f"{place}_kernel")
    if choice == "torch":
        return "torch"
    problem = why_not(place, config, sizes, device)
    if problem is None:
        return FUSED[place]
    if choice == "auto":
        return "torch"
    reason, hint = problem
    raise MachineError(
        path=f"system.{place}_kernel", expected=f"{choice} to run here", got=reason, hint=hint
    )


def _choose_fp8(config: Config, device: torch.device) -> str:
    choice = config.system.fp8_kernel
    if config.model.fp8 is None or choice == "emulated" or (choice, device.type) == ("auto", "cpu"):
        return "emulated"
    problem = why_no_scaled_mm(device)
    if problem is None:
        return "scaled_mm"
    reason, hint = problem
    raise MachineError(
        path="system.fp8_kernel", expected="scaled_mm to run here", got=reason, hint=hint
    )


def why_no_scaled_mm(device: torch.device) -> Problem | None:
    """Why a device cannot run fp8 products, and a hint; None if it can."""
    if device.type != "cuda":
        hint = "Set system.fp8_kernel: auto, or model.fp8: null."
        return "fp8 products by scaled_mm run on a CUDA GPU only", hint
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < FP8_CAPABILITY:
        hint = "Set model.fp8: null, or use an Ada, Hopper or newer GPU."
        return f"fp8 products need compute capability 8.9, this GPU has {major}.{minor}", hint
    return None


def fused(kernel: str, place: str) -> Any:
    """Import the module with the fused kernels of a place; None if torch computes it.

    A lazy import, because the module needs Triton or a kernel package.
    """
    return None if kernel == "torch" else import_module(f"model.kernels.{place}")


def kernel_plan(config: Config, kernels: Kernels) -> dict[str, str]:
    """Operation -> kernel, for the record of a run.

    If `fp8_products` names a kernel, training uses it for Linears, and evaluations use `products`.
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
