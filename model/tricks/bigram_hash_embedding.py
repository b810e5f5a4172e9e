"""Trick `bigram_hash_embedding`: a table of token pairs, added to the stream before every layer.

    x = x + factor_i e          e = table[hash(t-1, t)] * signs[(t-1) xor t mod S]       (B, T, D)

hash is (36313 token_t xor 27191 token_{t-1}) mod (R - 1). The last of the R rows (5 vocabularies)
is reserved for the first token of a row. Dozens of pairs share a row: multiplied by one of S (8192)
rows of random signs, each pair reads the row differently, and the contributions of other pairs
average out as noise (the hashing trick, Chen and others, arXiv 1504.04788). Why it should help: a
lookup predicts what follows a token pair, without a matrix product. @classiclarryd (modded-nanogpt
PR 201), signs @trianxy (PR 299); nanochat adopted it without signs, and dropped it at depth 25,
where it no longer paid (log of 2026-01-28). The table starts at 0 and factors at 0.1, so the
initial loss does not change. Signs are part of the hash and do not depend on the seed. Off: no
table. Interactions: smear also adds the previous token to the stream.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.parameter import Parameters
from model.arch.shared_tensor import FanOut, sum_gradients
from model.config import BigramHashEmbedding as Settings

HASH_CURRENT, HASH_PREVIOUS = 36313, 27191  # modded-nanogpt's; large, to cover the whole table
SIGN_SEED = 0  # fixed: the signs are part of the hash

BigramInput = tuple[Tensor, Tensor]
"""Factor of a layer (1) and embedded pairs (B, T, D)."""


class BigramHashEmbedding(nn.Module):
    """Table (R, D), label `bigram_table`; one factor per layer, label `bigram_scalars`."""

    signs: Tensor | None

    def __init__(self, params: Parameters, settings: Settings) -> None:
        super().__init__()
        self.table, self.factors = params["table"], params["factors"]
        signs = None
        if settings.sign_rows is not None:
            signs = random_signs(settings.sign_rows, self.table.size(1)).to(self.table)
        self.register_buffer("signs", signs, persistent=False)
        # GPT.compile_regions replaces it with the compiled function
        self.sum_gradients: Callable[[tuple[Tensor, ...]], Tensor] = sum_gradients

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) -> embedded pairs (B, T, D)."""
        embedded = F.embedding(hash_pairs(tokens, self.table.size(0)), self.table)
        if self.signs is None:
            return embedded
        row = F.pad((tokens[:, 1:] ^ tokens[:, :-1]) % self.signs.size(0), (1, 0))
        return embedded * F.embedding(row, self.signs)

    def per_layer(self, embedded: Tensor) -> tuple[BigramInput, ...]:
        """The input of `add_bigrams` for each layer."""
        copies = FanOut.apply(embedded, self.factors.numel(), self.sum_gradients)
        return tuple(zip(self.factors.unbind(), copies, strict=True))


def hash_pairs(tokens: Tensor, rows: int) -> Tensor:
    """Table row (B, T) of each token and its predecessor."""
    pairs = (HASH_CURRENT * tokens[:, 1:]) ^ (HASH_PREVIOUS * tokens[:, :-1])
    return F.pad(pairs % (rows - 1), (1, 0), value=rows - 1)


def random_signs(rows: int, width: int) -> Tensor:
    """Fixed (rows, width) tensor of -1 and 1."""
    generator = torch.Generator("cpu").manual_seed(SIGN_SEED)
    return 2 * torch.randint(2, (rows, width), generator=generator, device="cpu") - 1


def add_bigrams(x: Tensor, bigrams: BigramInput) -> Tensor:
    """x + factor * embedded."""
    factor, embedded = bigrams
    return x + factor * embedded
