"""Trick `document_mask`: attention stays inside a document.

    query t sees key s    where 0 <= t - s <= window and document_s = document_t

document_t = how many BOS tokens stand in the row up to t; rows hold several documents, one behind
the other. Why it should help: what stands before is text of something else, and attention need not
learn to look away from it. Source: modded-nanogpt 2024-11-19 (@KoszarskyB) as FlexAttention over
one long row, since 2025-09 as FlashAttention-3 over rows of unequal length (@YouJiacheng,
@varunneal). nanochat tried it at depth 16 and saw -0.0002 bpb at equal speed (log of 2026-01-13).
Off: a query sees all keys of its window, whatever document they are of.

A variant of the record's in two ways. Its rows are whole documents without end, ours of T tokens
and packed by the plan, so here a document is cut where the row ends. And positions go on through a
row, which rotary positions do not see; learned ones do, as without the mask.

Interactions: only attention is masked. What looks one token back (smear, token pairs, offset keys)
still does so at a document's first token, as in the record. Paired heads: both heads of a token are
of its document. Windows, also while they grow, are inside the mask. Part of a document that
continues without BOS (one cut by `longest`, or a row that a stage cuts) belongs to what stands
before it in its row. FLOPs a token count whole windows, so they stay. Back-ends: `sdpa` by a
boolean mask (T^2 bytes a row and window), `flex` by a block mask; the flash back-ends have none
here, and `auto` passes over them.

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
    """Masks of a batch, in the form that the attention back-end takes."""

    def __init__(self, config: Config, backend: str) -> None:
        bos = bos_of(config)
        assert bos is not None
        self.bos_id, self.masked = bos, MASKS[backend]

    def __call__(self, tokens: Tensor, layers: Sequence[Any]) -> list[Any]:
        """Tokens (B, T) and the attention of each layer, null where it has none -> its mask; equal
        ones are made once."""
        documents = documents_of(tokens, self.bos_id)
        made: dict[tuple[int, bool], Any] = {}
        masks: list[Any] = [None] * len(layers)
        for number, layer in enumerate(layers):
            if layer is None:
                continue
            kind = layer.window, layer.paired
            if kind not in made:
                # a pair's two heads are neighbours in a row of 2 T (paired_heads)
                ids = documents.repeat_interleave(2, dim=1) if layer.paired else documents
                made[kind] = self.masked(ids, layer.window)
            masks[number] = made[kind]
        return masks


def documents_of(tokens: Tensor, bos_id: int) -> Tensor:
    """The number of each token's document in its row (B, T); 0 before the first BOS."""
    return (tokens == bos_id).cumsum(dim=1)


def require_bos(config: Config, bos_id: int) -> None:
    """Raises ConfigErrors where the trick is on and documents open with another token."""
    if config.model.document_mask is None or bos_of(config) == bos_id:
        return
    path, hint = "model.document_mask.bos_id", f"Set model.document_mask.bos_id: {bos_id}."
    expected = f"{bos_id}, which opens the documents of the prepared data"
    raise ConfigErrors(
        [ConfigError(path=path, expected=expected, got=str(bos_of(config)), hint=hint)]
    )
