"""Trick `mudd_gates`: per-token factors of other tricks.

    f_t = f + scale (W2 gelu(W1 y_t) + b)           f a learned factor, y (B, T, D), f_t (B, T, 1)

for the factors of the embedding (residual scalars), of token pairs (bigram hash embedding) and of
U-net skips, where those are on. For the first 4 of 11 layers (scaled to the depth) y is the
embedding x0; for the others it is the input of the fifth. Two networks in all, of 64 hidden
channels; W1 starts uniform in +-D^-0.5, W2 and b at 0, so the initial loss is that of fixed
factors; the scale is learned, from 0.1.

Why it should help: how much of its own embedding, or of a skip, a token needs depends on the token.
Source: modded-nanogpt PR 315 of 2026-05 (@Lisennlp), which calls it MUDD gates. Off: one factor for
all tokens. Differences from the record: there these networks also compute the strengths of XSA,
gates of attention heads in two layers, and the weights of dynamically composed heads; here they do
not. There the fixed part of a factor is b; here it is the trick's own factor, with its own learning
rate, plus b.

Interactions: needs `mudd_connections`, as in the record, and residual scalars, so that every layer
has a factor.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.parameter import Parameters
from model.config import Config
from model.config import MuddGates as Settings
from model.config.shapes import mudd_gates_from, mudd_gates_of
from model.tricks.bigram_hash_embedding import BigramInput
from model.tricks.residual_scalars import ResidualMix
from model.tricks.unet_skips import Skip


@dataclass(frozen=True, kw_only=True)
class LayerGates:
    """Additions to the factors of one layer, each (B, T, 1)."""

    x0: Tensor | None = None
    bigrams: Tensor | None = None
    skip: Tensor | None = None

    def apply(
        self, mix: ResidualMix | None, bigrams: BigramInput | None, skip: Skip | None
    ) -> tuple[ResidualMix | None, BigramInput | None, Skip | None]:
        """The block's inputs with per-token factors."""
        if mix is not None and self.x0 is not None:
            mix = (mix[0], mix[1] + self.x0, mix[2])
        if bigrams is not None and self.bigrams is not None:
            bigrams = (bigrams[0] + self.bigrams, bigrams[1])
        if skip is not None and self.skip is not None:
            skip = (skip[0] + self.skip, skip[1])
        return mix, bigrams, skip


GatesByLayer = dict[int, LayerGates]
"""Gates by layer index."""


class Network(nn.Module):
    """y (..., D) -> (..., n): up (64, D), down (n, 64), bias (n)."""

    def __init__(self, params: Parameters) -> None:
        super().__init__()
        self.up, self.down, self.bias = params["up"], params["down"], params["bias"]

    def project(self, y: Tensor) -> Tensor:
        """W2 gelu(W1 y) + b."""
        hidden = F.gelu(F.linear(y, self.up.to(y.dtype)))
        return F.linear(hidden, self.down.to(y.dtype), self.bias.to(y.dtype))


class MuddGates(nn.Module):
    """Two networks and their common scale, label `mudd_gates`."""

    def __init__(self, params: Parameters, config: Config, settings: Settings, layers: int) -> None:
        super().__init__()
        self.early, self.late = Network(params.under("early")), Network(params.under("late"))
        self.scale = params["scale"]
        self.from_layer = mudd_gates_from(settings, layers)
        self.factors = mudd_gates_of(config, layers)

    def forward(self, layer: int, x: Tensor) -> GatesByLayer:
        """Gates computed from a layer's input: at layer 0 and `from_layer`; empty elsewhere."""
        if layer not in (0, self.from_layer):
            return {}
        network = self.late if layer else self.early
        last = len(self.factors) if layer else self.from_layer
        numbers = iter((self.scale.to(x.dtype) * network.project(x)).split(1, dim=-1))
        return {
            of: LayerGates(**{factor: next(numbers) for factor in self.factors[of]})
            for of in range(layer, last)
        }
