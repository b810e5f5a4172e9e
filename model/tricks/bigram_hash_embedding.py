"""Trick `bigram_hash_embedding`: a table of token pairs, added to the stream before every layer.

    x = x + factor_i e          e = table[hash(t-1, t)] * signs[(t-1) xor t mod S]       (B, T, D)

hash is (36313 token_t xor 27191 token_{t-1}) mod (R - 1); the first token of a row has the last of
the R rows (5 vocabularies) to itself. Dozens of pairs share a row: multiplied by one of S (8192)
rows of random signs, each reads the row in its own way, and what others write there is noise that
averages out (the hashing trick, Chen and others, arXiv 1504.04788). Why it should help: what
follows a pair of tokens is looked up, for no product at all. @classiclarryd (modded-nanogpt PR
201), signs @trianxy (PR 299); nanochat adopted it without signs, and dropped it at depth 25, where
it paid no longer (log of 2026-01-28). The table starts at 0, factors at 0.1, so the first loss
stays. Signs are fixed as the hash is, whatever the seed. Off: no table. Interactions: smear gives
the pair to the stream too.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.parameter import Parameters
from model.arch.shared_tensor import Shared, summed
from model.config import BigramHashEmbedding as Settings

SPREAD_THIS, SPREAD_BEFORE = 36313, 27191  # modded-nanogpt's; large, so that all of a table is used
SIGN_SEED = 0  # of the signs, which are part of the hash

Share = tuple[Tensor, Tensor]
"""A layer's factor, and the pairs' rows."""


class BigramHashEmbedding(nn.Module):
    """Table (R, D), label `bigram_table`; a factor a layer, label `bigram_scalars`."""

    signs: Tensor | None

    def __init__(self, own: Parameters, settings: Settings) -> None:
        super().__init__()
        self.table, self.factors = own["table"], own["factors"]
        signs = None
        if settings.sign_rows is not None:
            signs = random_signs(settings.sign_rows, self.table.size(1)).to(self.table)
        self.register_buffer("signs", signs, persistent=False)
        self.summed: Callable[[tuple[Tensor, ...]], Tensor] = summed  # the compiler's, if any

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) -> what their pairs add (B, T, D)."""
        embedded = F.embedding(hashed(tokens, self.table.size(0)), self.table)
        if self.signs is None:
            return embedded
        row = F.pad((tokens[:, 1:] ^ tokens[:, :-1]) % self.signs.size(0), (1, 0))
        return embedded * F.embedding(row, self.signs)

    def share(self, embedded: Tensor) -> tuple[Share, ...]:
        """What `added` needs before each layer."""
        names = Shared.apply(embedded, self.factors.numel(), self.summed)
        return tuple(zip(self.factors.unbind(), names, strict=True))


def hashed(tokens: Tensor, rows: int) -> Tensor:
    """The table's row of each token (B, T) and the one before it."""
    pairs = (SPREAD_THIS * tokens[:, 1:]) ^ (SPREAD_BEFORE * tokens[:, :-1])
    return F.pad(pairs % (rows - 1), (1, 0), value=rows - 1)


def random_signs(rows: int, width: int) -> Tensor:
    """(rows, width) of -1 and 1, always the same."""
    generator = torch.Generator("cpu").manual_seed(SIGN_SEED)
    return 2 * torch.randint(2, (rows, width), generator=generator, device="cpu") - 1


def added(x: Tensor, share: Share) -> Tensor:
    """The stream with the pairs' rows."""
    factor, embedded = share
    return x + factor * embedded
