"""Back-end `flex`: torch's FlexAttention, whose Triton kernel skips blocks outside the window.

It needs only torch and Triton. The fused kernel exists only under torch.compile, so an eager model
calls a separately compiled function; the CPU has an unfused version without a backward pass.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from model.attention.requirements import Problem

MIN_HEAD_WIDTH = 16
BLOCK = 128  # tokens per block of the mask; torch's default


def attend(q: Tensor, k: Tensor, v: Tensor, window: int, mask: BlockMask | None = None) -> Tensor:
    """q, k, v (B, T, H, K) -> (B, T, H, K)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, K)
    call: Callable[..., Any] = flex_attention
    # in a compiled model, mask and kernel are part of its graph
    if torch.compiler.is_compiling():
        mask = mask or _block_mask(q.size(2), window, q.device)
    else:
        mask = mask or _cached_block_mask(q.size(2), window, q.device)
        if q.device.type == "cuda":
            call = _compiled()
    out = call(q, k, v, block_mask=mask)
    assert isinstance(out, Tensor)
    return out.transpose(1, 2)


def why_not(device: torch.device, head_width: int, dtype: torch.dtype) -> Problem | None:
    """Why FlexAttention cannot train here; None if it can."""
    hint = "Set system.attention: sdpa."
    if device.type != "cuda":
        return "FlexAttention has no backward pass on the CPU", hint
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "FlexAttention needs a GPU of compute capability 8.0 or later", hint
    if head_width < MIN_HEAD_WIDTH:
        reason = f"FlexAttention needs heads of at least {MIN_HEAD_WIDTH} channels"
        return f"{reason}, not {head_width}", hint
    return None


def document_mask(documents: Tensor, window: int) -> BlockMask:
    """A query sees keys of its window and document; documents (B, T) are numbered in order.

    The first and last document of each block of 128 tokens determine which blocks have a visible
    pair, and which are fully visible. This takes a few operations on (B, T/128, T/128) per batch
    instead of on (B, T, T), without a mask of tokens.
    """

    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_window = (query >= key) & (query - key <= window)
        return in_window & (documents[b, query] == documents[b, key])

    tokens = documents.size(1)
    blocks = -(-tokens // BLOCK)
    start = torch.arange(blocks, device=documents.device) * BLOCK
    first = documents[:, start]  # (B, blocks)
    last = documents[:, (start + BLOCK - 1).clamp_max(tokens - 1)]
    ahead = start[:, None] - start  # distance of the query's block from the key's
    # the closest pair of two blocks is the first query and the last key, if they share a document
    in_window = (ahead >= 0) & (ahead - (BLOCK - 1) <= window)
    partial_or_full = in_window & (first[:, :, None] <= last[:, None])
    whole = (ahead > 0) & (ahead + BLOCK - 1 <= window)
    whole[-1] &= tokens % BLOCK == 0  # a truncated last block is never full
    full = whole & (last[:, :, None] == first[:, None])
    return BlockMask.from_kv_blocks(
        *_block_lists(partial_or_full & ~full),
        *_block_lists(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(tokens, tokens),
    )


def _block_lists(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Selected blocks (B, Q, K) -> their counts (B, 1, Q), and indices first (B, 1, Q, K)."""
    order = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], order.to(torch.int32)[:, None]


def _block_mask(tokens: int, window: int, device: torch.device) -> Any:
    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key <= window)

    return create_block_mask(visible, None, None, tokens, tokens, device=device)


_cached_block_mask = lru_cache(maxsize=32)(_block_mask)


@cache
def _compiled() -> Callable[..., Any]:
    function: Any = flex_attention
    return torch.compile(function, dynamic=False)
