"""Trick `document_mask`: attention stays inside a document.

    query t sees key s    where 0 <= t - s <= window and document_s = document_t

document_t is the number of BOS tokens in the row up to t; rows hold several documents in sequence.
Why it should help: preceding documents are unrelated, and attention need not learn to ignore them.
Source: modded-nanogpt 2024-11-19 (@KoszarskyB) as FlexAttention over one long row, since 2025-09 as
FlashAttention-3 over rows of unequal length (@YouJiacheng, @varunneal). nanochat measured -0.0002
bpb at depth 16 at equal speed (log of 2026-01-13). Off: a query sees all keys of its window, across
documents.

Two differences from the record. Its rows are whole documents of any length; ours have T tokens and
are packed by the plan, so the end of a row cuts a document. And positions continue through a row
instead of restarting: this does not affect rotary positions; learned positions continue as without
the mask.

Interactions: only attention is masked. Tricks that read the previous token (smear, token pairs,
offset keys) still do so at a document's first token, as in the record. With paired heads, both
heads of a token are in its document. Windows apply inside the mask, also during window warm-up. A
continuation without BOS (a document cut by `longest`, or a row cut by a stage) is assigned to the
preceding document of its row. FLOPs per token count whole windows and do not change. Back-ends:
`sdpa` uses a boolean mask (T^2 bytes per row and window), `flex` a block mask; the flash back-ends
do not support it here, and `auto` skips them.

B batch, T tokens.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from model.attention import MASKS
from model.config import Config
from model.config.shapes import bos_of
from model.errors import ConfigError, ConfigErrors


class DocumentMask:
    """Masks of a batch in the format of the attention back-end."""

    def __init__(self, config: Config, backend: str) -> None:
        bos = bos_of(config)
        assert bos is not None
        self.bos_id, self.make_mask = bos, MASKS[backend]

    def __call__(self, tokens: Tensor, layers: Sequence[Any]) -> list[Any]:
        """Tokens (B, T) -> the mask of each layer; None for a layer without attention.

        Layers of one window share a mask.
        """
        documents = documents_of(tokens, self.bos_id)
        made: dict[tuple[int, bool], Any] = {}
        masks: list[Any] = [None] * len(layers)
        for number, layer in enumerate(layers):
            if layer is None:
                continue
            kind = layer.window, layer.paired
            if kind not in made:
                # the two heads of a pair are adjacent in a row of 2 T (paired_heads)
                ids = documents.repeat_interleave(2, dim=1) if layer.paired else documents
                made[kind] = self.make_mask(ids, layer.window)
            masks[number] = made[kind]
        return masks


def documents_of(tokens: Tensor, bos_id: int) -> Tensor:
    """Document index (B, T) of each token in its row; 0 before the first BOS."""
    return (tokens == bos_id).cumsum(dim=1)


def require_bos(config: Config, bos_id: int) -> None:
    """Raise ConfigErrors if the trick is on and documents start with another token."""
    if config.model.document_mask is None or bos_of(config) == bos_id:
        return
    path, hint = "model.document_mask.bos_id", f"Set model.document_mask.bos_id: {bos_id}."
    expected = f"{bos_id}, the first token of each document in the prepared data"
    raise ConfigErrors(
        [ConfigError(path=path, expected=expected, got=str(bos_of(config)), hint=hint)]
    )
