"""Back-end `flash2`: the FlashAttention-2 built into torch, with its window.

scaled_dot_product_attention has no window argument, so this back-end calls the underlying operator.
It needs no package and no compilation at start.
"""

import torch
from torch import Tensor

from model.attention.custom_op import as_operator
from model.attention.requirements import Problem, Requirements

REQUIREMENTS = Requirements(
    kernel="torch's FlashAttention-2", capabilities=(8, 9, 10, 11, 12), max_head_width=256
)
DROPOUT = 0.0


def why_not(device: torch.device, head_width: int, dtype: torch.dtype) -> Problem | None:
    """Why torch's flash kernel cannot run here; None if it can."""
    unmet = REQUIREMENTS.unmet_on(device, head_width, dtype)
    if unmet is None and not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch has no flash kernels", "Set system.attention: auto."
    return unmet


def _forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        None,  # no row boundaries: every row is T tokens long
        None,
        q.size(1),
        k.size(1),
        DROPOUT,
        True,  # causal
        False,  # no copy of the attention weights
        scale=q.size(-1) ** -0.5,
        window_size_left=window,
        window_size_right=0,
    )
    return out, lse


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    unused = torch.empty(2, dtype=torch.uint64, device=q.device)  # generator state, for dropout
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        grad,
        q,
        k,
        v,
        out,
        lse,
        None,
        None,
        q.size(1),
        k.size(1),
        DROPOUT,
        True,
        unused,
        unused,
        scale=q.size(-1) ** -0.5,
        window_size_left=window,
        window_size_right=0,
    )
    return dq, dk, dv


attend = as_operator("flash2", _forward, _backward)
