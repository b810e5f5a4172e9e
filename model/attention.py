"""Causal attention with a window, through one interface and several back-ends.

Trick `windows`: a query sees itself and the `window` keys before it (FlashAttention's
`window_size=(window, 0)`), which is full causal attention where the window reaches the row's
start. Why it helps: most of attention's use is local, and short windows cost a quarter; the last
layer always sees all. Off means that every layer has the full window. Long-short windows:
@leloykun, @KoszarskyB.

A back-end takes q, k, v (B, T, H, K) and a window in tokens, and returns (B, T, H, K). What can
run is checked before the model is built; one that is asked for and cannot run stops the run.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from model.errors import MachineError

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """torch's scaled_dot_product_attention: causal where the window is full, else a mask."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, K)
    if window >= q.size(2) - 1:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        mask = band_mask(q.size(2), window, q.device)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2)


def flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """torch's FlexAttention with a block mask; compiled on a GPU, unfused and forward only on the
    CPU."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = _block_mask(q.size(2), window, q.device)
    out = _flex(q.device.type)(q, k, v, block_mask=mask)
    assert isinstance(out, Tensor)
    return out.transpose(1, 2)


BACKENDS: dict[str, Attend] = {"sdpa": sdpa, "flex": flex}


def why_not(name: str, device: torch.device) -> tuple[str, str] | None:
    """Reason and remedy where the back-end cannot run on the device, else null."""
    if name != "flex":
        return None
    remedy = "Set system.attention: sdpa."
    if device.type == "cpu":
        return "FlexAttention has no backward pass on the CPU", remedy
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "FlexAttention needs a GPU of compute capability 8.0 or later", remedy
    return None


def choose(name: str, device: torch.device, windowed: bool) -> str:
    """The back-end that will run; raises MachineError where one was asked for and cannot run."""
    if name == "auto":
        fused = device.type == "cuda" and windowed and why_not("flex", device) is None
        return "flex" if fused else "sdpa"
    problem = why_not(name, device)
    if problem is not None:
        reason, remedy = problem
        raise MachineError(
            path="system.attention", expected=f"{name} to run here", got=reason, remedy=remedy
        )
    return name


@lru_cache(maxsize=32)
def band_mask(tokens: int, window: int, device: torch.device) -> Tensor:
    """(T, T) boolean: whether query i sees key j, that is 0 <= i - j <= window."""
    position = torch.arange(tokens, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance <= window)


@lru_cache(maxsize=32)
def _block_mask(tokens: int, window: int, device: torch.device) -> Any:
    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key <= window)

    return create_block_mask(visible, None, None, tokens, tokens, device=device)


@cache
def _flex(device_type: str) -> Callable[..., Any]:
    """The fused kernel exists only under torch.compile; on the CPU the plain form runs."""
    function: Any = flex_attention
    return torch.compile(function) if device_type == "cuda" else function
