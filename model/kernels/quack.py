"""Matrix products with more in them, by the package quack-kernels (@tridao and others), for Hopper.

The squared ReLU needs 0.3 ms to be read and written in the forward pass of a block and 0.4 ms in
its backward pass (65,536 tokens, D = 768, an H100), beside products of 0.45 ms. Here the product
before it applies it to the tile that it holds in registers anyway, and the product behind it adds
the residual stream (LOG.md has what each gains). A symmetric product computes one half.

As custom operators they stay in a compiled graph, as the attention kernels do. N tokens, D width.
"""

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.config import Config
from model.requirements import PackageMissing, Problem, package_problem
from model.shapes import Sizes

NAMESPACE = "gpt2_ablations"
CAPABILITIES = (9,)
WIDTH_MULTIPLE = 8  # the tensor memory accelerator wants rows of 16 bytes
INSTALL = 'pip install "quack-kernels[cu13]>=0.6.5"'
ACTIVATION = "relu_sq"


def why_not(place: str, config: Config, sizes: Sizes, device: torch.device) -> Problem | None:
    """What keeps quack's products from running at `place` here."""
    field = f"system.{place}_kernel"
    major, minor = torch.cuda.get_device_capability(device)
    if major not in CAPABILITIES:
        reason = f"measured and used on compute capability 9.x only, this GPU has {major}.{minor}"
        return reason, f"Set {field}: auto."
    if place == "mlp" and (config.model.activation != "relu2" or config.model.bias):
        return "the fused MLP is that of relu2 without biases", f"Set {field}: auto."
    if sizes.width % WIDTH_MULTIPLE:
        reason = f"widths must be multiples of {WIDTH_MULTIPLE}, this is {sizes.width}"
        return reason, f"Set {field}: auto."
    return package_problem("quack-kernels", _interface, INSTALL, otherwise=f"or set {field}: auto")


def squared_relu_mlp(x: Tensor, residual: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """residual + relu(x up^T)^2 down^T; x, residual (..., D), up (4 D, D), down (D, 4 D) in fp32."""
    flat, stream = x.flatten(0, -2), residual.flatten(0, -2)
    out, _ = _mlp_forward(flat, stream, up, down)
    return out.view_as(residual)


def gram(x: Tensor) -> Tensor:
    """x x^T of a stack (N, m, n) of bf16 matrices: (N, m, m)."""
    return _interface().gemm_symmetric(x, x.mT)


def symmetric_polynomial(gram: Tensor, b: float, c: float) -> Tensor:
    """b G + c G G of a stack of symmetric bf16 matrices G (N, m, m)."""
    return _interface().gemm_symmetric(gram, gram, C=gram, alpha=c, beta=b)


@cache
def _interface() -> Any:
    """quack's products; raises PackageMissing, or whatever a broken package raises."""
    try:
        return importlib.import_module("quack.gemm_interface")
    except ModuleNotFoundError as error:
        if error.name == "quack":
            raise PackageMissing("package quack-kernels is not installed") from error
        raise


@torch.library.custom_op(f"{NAMESPACE}::squared_relu_mlp_forward", mutates_args=())
def _mlp_forward(x: Tensor, residual: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    quack = _interface()
    before, after = quack.gemm_act(x, up.to(x.dtype).T, activation=ACTIVATION, tuned=False)
    out = quack.gemm_add(after, down.to(x.dtype).T, residual, tuned=False)
    return out, before


@_mlp_forward.register_fake
def _(x: Tensor, residual: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(residual.shape), x.new_empty(x.size(0), up.size(0))


@torch.library.custom_op(f"{NAMESPACE}::squared_relu_mlp_backward", mutates_args=())
def _mlp_backward(
    grad: Tensor, x: Tensor, before: Tensor, up: Tensor, down: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # `after` comes out of the same product that makes the gradient of `before`, so it is not kept
    grad_before, after = _interface().gemm_dact(
        grad, down.to(x.dtype), before, activation=ACTIVATION, tuned=False
    )
    grad_down = torch.mm(grad.T, after, out_dtype=torch.float32)
    grad_up = torch.mm(grad_before.T, x, out_dtype=torch.float32)
    return grad_before @ up.to(x.dtype), grad_up, grad_down


@_mlp_backward.register_fake
def _(
    grad: Tensor, x: Tensor, before: Tensor, up: Tensor, down: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(up), torch.empty_like(down)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, up, down = inputs
    ctx.save_for_backward(x, output[1], up, down)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    x, before, up, down = ctx.saved_tensors
    grad = grad.contiguous()
    grad_x, grad_up, grad_down = _mlp_backward(grad, x, before, up, down)
    return grad_x, grad, grad_up, grad_down


_mlp_forward.register_autograd(_differentiate, setup_context=_keep)
