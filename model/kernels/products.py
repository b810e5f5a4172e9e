"""Matrix products with fused epilogues, by the package quack-kernels (@tridao and others), on
Hopper.

Reading and writing the MLP's hidden layer for its activation takes 0.3 ms forward and 0.4 ms
backward, compared with 0.45 ms for each product (65,536 tokens, D = 768, an H100). Here the first
product applies the activation to the tile in registers, the second product adds the residual
stream, and only one half of a symmetric product is computed (LOG.md has the gains).

Custom operators keep them in a compiled graph, as for attention kernels. N tokens, D width.
"""

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.attention.custom_op import NAMESPACE
from model.attention.requirements import PackageMissing, Problem, package_problem
from model.config.shapes import Sizes
from model.system import compile_jobs

CAPABILITIES = (9,)
WIDTH_MULTIPLE = 8  # the tensor memory accelerator needs rows of whole 16 bytes
INSTALL = 'pip install "quack-kernels[cu13]>=0.6.5"'
OTHERWISE = "set system.products_kernel: auto"
ACTIVATIONS = {"relu2": "relu_sq", "gelu": "gelu_tanh_approx"}


def why_not(sizes: Sizes, device: torch.device) -> Problem | None:
    """Why quack's products cannot run on a GPU; None if they can."""
    major, minor = torch.cuda.get_device_capability(device)
    hint = f"{OTHERWISE.capitalize()}."
    if major not in CAPABILITIES:
        reason = f"supported on compute capability 9.x only, this GPU has {major}.{minor}"
        return reason, hint
    if sizes.width % WIDTH_MULTIPLE:
        return f"widths must be multiples of {WIDTH_MULTIPLE}, this is {sizes.width}", hint
    return package_problem("quack-kernels", _quack, INSTALL, otherwise=f"or {OTHERWISE}")


def add_product(residual: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """residual + x weight^T; residual (..., R), x (..., C), weight (R, C) in fp32."""
    out, _ = _add_forward(residual.flatten(0, -2), x.flatten(0, -2), weight)
    return out.view_as(residual)


def add_mlp(residual: Tensor, x: Tensor, up: Tensor, down: Tensor, activation: str) -> Tensor:
    """residual + f(x up^T) down^T; x, residual (..., D), up (4 D, D), down (D, 4 D) in fp32.

    f is `relu2` or `gelu` in its tanh form.
    """
    out, *_ = _mlp_forward(
        residual.flatten(0, -2), x.flatten(0, -2), up, down, ACTIVATIONS[activation]
    )
    return out.view_as(residual)


def gram(x: Tensor) -> Tensor:
    """x x^T of a stack (N, m, n) of bf16 matrices: (N, m, m)."""
    compile_jobs.wait()
    return _quack().gemm_symmetric(x, x.mT)


def symmetric_polynomial(gram: Tensor, b: float, c: float) -> Tensor:
    """b G + c G G of a stack of symmetric bf16 matrices G (N, m, m)."""
    return _quack().gemm_symmetric(gram, gram, C=gram, alpha=c, beta=b)


@cache
def _quack() -> Any:
    """quack's products; raises PackageMissing, or the error of a broken package."""
    try:
        return importlib.import_module("quack.gemm_interface")
    except ModuleNotFoundError as error:
        if error.name == "quack":
            raise PackageMissing("package quack-kernels is not installed") from error
        raise


# --- residual + x weight^T ---


@torch.library.custom_op(f"{NAMESPACE}::add_product_forward", mutates_args=())
def _add_forward(residual: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The sum, and the weight in the type of x."""
    compile_jobs.wait()
    cast_weight = weight.to(x.dtype)
    return _quack().gemm_add(x, cast_weight.T, residual, tuned=False), cast_weight


@torch.library.custom_op(f"{NAMESPACE}::add_product_backward", mutates_args=())
def _add_backward(grad: Tensor, x: Tensor, cast_weight: Tensor) -> tuple[Tensor, Tensor]:
    return grad @ cast_weight, torch.mm(grad.T, x, out_dtype=torch.float32)


@_add_forward.register_fake
def _(residual: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return residual.new_empty(residual.shape), x.new_empty(weight.shape)


@_add_backward.register_fake
def _(grad: Tensor, x: Tensor, cast_weight: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), cast_weight.new_empty(cast_weight.shape, dtype=torch.float32)


def _save_for_add(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[1], output[1])


def _differentiate_add(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return grad, *_add_backward(grad.contiguous(), *ctx.saved_tensors)


_add_forward.register_autograd(_differentiate_add, setup_context=_save_for_add)


# --- residual + f(x up^T) down^T ---


@torch.library.custom_op(f"{NAMESPACE}::add_mlp_forward", mutates_args=())
def _mlp_forward(
    residual: Tensor, x: Tensor, up: Tensor, down: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sum, the hidden layer before its activation (N, 4 D), the weights in the type of x."""
    compile_jobs.wait()
    cast_up, cast_down = up.to(x.dtype), down.to(x.dtype)
    before, after = _quack().gemm_act(x, cast_up.T, activation=activation, tuned=False)
    out = _quack().gemm_add(after, cast_down.T, residual, tuned=False)
    return out, before, cast_up, cast_down


@torch.library.custom_op(f"{NAMESPACE}::add_mlp_backward", mutates_args=())
def _mlp_backward(
    grad: Tensor, x: Tensor, before: Tensor, cast_up: Tensor, cast_down: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    # the product for the gradient of `before` also returns `after`, so it is not saved
    grad_before, after = _quack().gemm_dact(
        grad, cast_down, before, activation=activation, tuned=False
    )
    grad_down = torch.mm(grad.T, after, out_dtype=torch.float32)
    grad_up = torch.mm(grad_before.T, x, out_dtype=torch.float32)
    return grad_before @ cast_up, grad_up, grad_down


@_mlp_forward.register_fake
def _(
    residual: Tensor, x: Tensor, up: Tensor, down: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    before = x.new_empty(x.size(0), up.size(0))
    cast_up, cast_down = (x.new_empty(weight.shape) for weight in (up, down))
    return residual.new_empty(residual.shape), before, cast_up, cast_down


@_mlp_backward.register_fake
def _(
    grad: Tensor, x: Tensor, before: Tensor, cast_up: Tensor, cast_down: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    up, down = (
        cast_weight.new_empty(cast_weight.shape, dtype=torch.float32)
        for cast_weight in (cast_up, cast_down)
    )
    return x.new_empty(x.shape), up, down


def _save_for_mlp(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.activation = inputs[4]
    ctx.save_for_backward(inputs[1], *output[1:])


def _differentiate_mlp(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    grads = _mlp_backward(grad.contiguous(), *ctx.saved_tensors, ctx.activation)
    return grad, *grads, None


_mlp_forward.register_autograd(_differentiate_mlp, setup_context=_save_for_mlp)
