"""Back-end `flash4`: FlashAttention-4 (package flash-attn-4), for Hopper and Blackwell.

Its CuTe kernels are compiled at the first call, once per head width and for full and windowed
attention. The back-end calls the two functions underneath the package's autograd function, see
`model.attention.custom_op`.
"""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.attention.custom_op import FULL, as_operator
from model.attention.requirements import PackageMissing, Problem, Requirements, package_problem
from model.system import compile_jobs

REQUIREMENTS = Requirements(kernel="FlashAttention-4", capabilities=(9, 10), max_head_width=128)
MODULE = "flash_attn.cute.interface"
INSTALL = 'pip install "flash-attn-4[cu13]>=4.0.0b36"'


def why_not(device: torch.device, head_width: int, dtype: torch.dtype) -> Problem | None:
    """Why FlashAttention-4 cannot run here; None if it can."""
    unmet = REQUIREMENTS.unmet_on(device, head_width, dtype)
    return unmet or package_problem(REQUIREMENTS.kernel, _kernels, INSTALL)


@cache
def _kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and backward pass; raises PackageMissing, or the error of a broken package."""
    try:
        module = importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        # flash-attn 2 has the same outer package; any other missing module is a dependency of
        # flash-attn-4, and the package is broken
        if error.name in ("flash_attn", "flash_attn.cute"):
            raise PackageMissing("package flash-attn-4 is not installed") from error
        raise
    return module._flash_attn_fwd, module._flash_attn_bwd


def _forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    compile_jobs.wait()
    out, lse, *_ = _kernels()[0](q, k, v, return_lse=True, **_window_options(window, q.size(-1)))
    return out, lse


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = _kernels()[1](q, k, v, out, grad, lse, **_window_options(window, q.size(-1)))
    return dq, dk, dv


def _window_options(window: int, head_width: int) -> dict[str, Any]:
    return {
        "softmax_scale": head_width**-0.5,
        "causal": True,
        "window_size_left": None if window == FULL else window,  # None is unbounded
        "window_size_right": 0,
    }


attend = as_operator("flash4", _forward, _backward)
