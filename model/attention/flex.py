"""Back-end `flex`: torch's FlexAttention, whose Triton kernel skips the blocks outside the window.

It needs nothing but torch and Triton. The fused kernel exists only under torch.compile, so an
eager model gets a compiled call of its own; the CPU has an unfused form without a backward pass.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from model.attention.requirements import Problem

NARROWEST_HEAD = 16


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """q, k, v (B, T, H, K) -> (B, T, H, K)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, K)
    call: Callable[..., Any] = flex_attention
    # in a compiled model both the mask and the kernel become part of its graph
    if torch.compiler.is_compiling():
        mask = _block_mask(q.size(2), window, q.device)
    else:
        mask = _kept_block_mask(q.size(2), window, q.device)
        if q.device.type == "cuda":
            call = _compiled()
    out = call(q, k, v, block_mask=mask)
    assert isinstance(out, Tensor)
    return out.transpose(1, 2)


def why_not(device: torch.device, head_width: int, dtype: torch.dtype) -> Problem | None:
    """What keeps FlexAttention from training here."""
    hint = "Set system.attention: sdpa."
    if device.type != "cuda":
        return "FlexAttention has no backward pass on the CPU", hint
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "FlexAttention needs a GPU of compute capability 8.0 or later", hint
    if head_width < NARROWEST_HEAD:
        reason = f"FlexAttention needs heads of at least {NARROWEST_HEAD} channels"
        return f"{reason}, not {head_width}", hint
    return None


def _block_mask(tokens: int, window: int, device: torch.device) -> Any:
    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key <= window)

    return create_block_mask(visible, None, None, tokens, tokens, device=device)


_kept_block_mask = lru_cache(maxsize=32)(_block_mask)


@cache
def _compiled() -> Callable[..., Any]:
    function: Any = flex_attention
    return torch.compile(function, dynamic=False)
