"""Back-end `sdpa`: torch's scaled_dot_product_attention, which runs everywhere.

On a GPU, full causal attention uses cuDNN, torch's fastest kernel on Hopper, or the next kernel
that supports the tensors. A shorter window needs a boolean mask, of which no fast kernel skips
blocks: correct but slow. A document mask needs one mask per row: T^2 bytes per row and window.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.attention.requirements import Problem

GPU_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def attend(q: Tensor, k: Tensor, v: Tensor, window: int, mask: Tensor | None = None) -> Tensor:
    """q, k, v (B, T, H, K) -> (B, T, H, K): causal if the window is full, otherwise masked."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, K)
    tokens = q.size(2)
    if mask is not None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    elif window < tokens - 1:
        # compiled, the mask is part of the graph, once for all layers; eager, it is cached
        build = band_mask if torch.compiler.is_compiling() else _cached_band_mask
        mask = build(tokens, window, q.device)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    elif q.device.type == "cuda":
        with sdpa_kernel(GPU_ORDER, set_priority=True):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(1, 2)


def why_not(device: torch.device, head_width: int, dtype: torch.dtype) -> Problem | None:
    """None: it runs everywhere."""
    return None


def band_mask(tokens: int, window: int, device: torch.device) -> Tensor:
    """(T, T) boolean: whether query i sees key j, i.e. 0 <= i - j <= window."""
    position = torch.arange(tokens, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance <= window)


def document_mask(documents: Tensor, window: int) -> Tensor:
    """(B, 1, T, T) boolean: a query sees keys of its window and document (B, T)."""
    same = documents[:, :, None] == documents[:, None]
    return (same & band_mask(documents.size(1), window, documents.device))[:, None]


_cached_band_mask = lru_cache(maxsize=32)(band_mask)
