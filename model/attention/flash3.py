"""Back-end `flash3`: FlashAttention-3, written for Hopper.

It is imported from its package (`flash_attn_interface`, built from source), or from the kernel
hub's copy of the same code in the local cache: a run never downloads a kernel. The back-end calls
the two functions underneath the package's autograd function, see `model.attention.custom_op`.
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.attention.custom_op import as_operator
from model.attention.requirements import PackageMissing, Problem, Requirements, package_problem

REQUIREMENTS = Requirements(kernel="FlashAttention-3", capabilities=(9,), max_head_width=256)
MODULE = "flash_attn_interface"
HUB_REPOSITORY = "kernels-community/flash-attn3"
HUB_BRANCH = "v1"
INSTALL = (
    "pip install 'kernels>=0.17' && python -c \"from huggingface_hub import snapshot_download as "
    f"get; get('{HUB_REPOSITORY}', repo_type='kernel', revision='{HUB_BRANCH}')\""
)


def why_not(device: torch.device, head_width: int, dtype: torch.dtype) -> Problem | None:
    """Why FlashAttention-3 cannot run here; None if it can."""
    unmet = REQUIREMENTS.unmet_on(device, head_width, dtype)
    return unmet or package_problem(REQUIREMENTS.kernel, _kernels, INSTALL)


@cache
def _kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and backward pass; raises PackageMissing, or the error of a broken package."""
    if importlib.util.find_spec(MODULE) is not None:
        module = importlib.import_module(MODULE)
    elif importlib.util.find_spec("kernels") is not None:
        module = _cached_hub_module()
    else:
        raise PackageMissing(f"neither {MODULE} nor the hub's `kernels` package is installed")
    return module._flash_attn_forward, module._flash_attn_backward


def _cached_hub_module() -> Any:
    hub = importlib.import_module("huggingface_hub")
    try:
        folder = hub.snapshot_download(
            HUB_REPOSITORY, repo_type="kernel", revision=HUB_BRANCH, local_files_only=True
        )
    except FileNotFoundError as error:
        raise PackageMissing(f"{HUB_REPOSITORY} is not in the local hub cache") from error
    package = importlib.import_module("kernels").get_local_kernel(Path(folder))
    return importlib.import_module(f"{package.__name__}.{MODULE}")


def _forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    out, lse, *_ = _kernels()[0](
        q,
        k,
        v,
        softmax_scale=q.size(-1) ** -0.5,
        causal=True,
        window_size_left=window,
        window_size_right=0,
    )
    return out, lse


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    _kernels()[1](
        grad,
        q,
        k,
        v,
        out,
        lse,
        dq=dq,
        dk=dk,
        dv=dv,
        softmax_scale=q.size(-1) ** -0.5,
        is_causal=True,
        window_size_left=window,
        window_size_right=0,
    )
    return dq, dk, dv


attend = as_operator("flash3", _forward, _backward)
