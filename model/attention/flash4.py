"""Back-end `flash4`: FlashAttention-4 (package flash-attn-4), for Hopper and Blackwell.

Its kernels are written in CuTe and compiled at their first
call, once for each head width and for full and windowed attention. Of the package the two functions
under its autograd function are used, see `model.attention.custom_op`.
"""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.attention.custom_op import FULL, as_operator
from model.attention.requirements import Needs, PackageMissing, Problem, package_problem
from model.system import compile_jobs

NEEDS = Needs(kernel="FlashAttention-4", capabilities=(9, 10), widest_head=128)
MODULE = "flash_attn.cute.interface"
INSTALL = 'pip install "flash-attn-4[cu13]>=4.0.0b36"'


def why_not(device: torch.device, head_width: int, dtype: torch.dtype) -> Problem | None:
    """What keeps FlashAttention-4 from running here."""
    unmet = NEEDS.unmet_by(device, head_width, dtype)
    return unmet or package_problem(NEEDS.kernel, _kernels, INSTALL)


@cache
def _kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and backward pass; raises PackageMissing, or whatever a broken package raises."""
    try:
        module = importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        # flash-attn 2 has the same outer package; a missing module of another name is a need of
        # flash-attn-4 itself, and the package is broken
        if error.name in ("flash_attn", "flash_attn.cute"):
            raise PackageMissing("package flash-attn-4 is not installed") from error
        raise
    return module._flash_attn_fwd, module._flash_attn_bwd


def _forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    compile_jobs.wait()
    out, lse, *_ = _kernels()[0](q, k, v, return_lse=True, **_causal_within(window, q.size(-1)))
    return out, lse


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = _kernels()[1](q, k, v, out, grad, lse, **_causal_within(window, q.size(-1)))
    return dq, dk, dv


def _causal_within(window: int, head_width: int) -> dict[str, Any]:
    return {
        "softmax_scale": head_width**-0.5,
        "causal": True,
        "window_size_left": None if window == FULL else window,  # null is without bound
        "window_size_right": 0,
    }


attend = as_operator("flash4", _forward, _backward)
