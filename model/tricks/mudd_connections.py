"""Trick `mudd_connections`: each token mixes earlier streams into late ones.

    c = scale (W2 gelu(W1 x) + b)                   x (B, T, D), W1 (64, D), W2 (n, 64), c (B, T, n)
    x = x + sum over sources of  c_s source_s       and before a layer also  + c x
    v = v + sum over sources of  c'_s source_s      its values, + c' x, cut into heads (B, T, H, K)

before the last layer and, for the stream alone, before the head. Sources are the input of the first
layer and the outputs of layers 3 and 7 of 11 (scaled to the depth); for the head also the input of
the last layer. Sources are not normed. W1 starts uniform in +-D^-0.5, W2 and b at 0, so the initial
loss is that of the model without it.

Why it should help: a residual stream sums all layers with one weight each, for every token; here a
token selects the earlier states for its values and its prediction. Source: MUDDFormer, arXiv
2502.12170 (Xiao and others), which mixes all layers into queries, keys, values and stream of every
layer; modded-nanogpt PR 259 of 2026-04 (@Lisennlp, after remarks of @classiclarryd) reduced it to
the last layers, without queries and keys. Off: blocks are connected in sequence.

Differences from the record: there the same network also replaces the last layer's gate of the value
embedding, its residual factors, and backout, whose share is its initial b of -0.5; here those
remain separate tricks and b starts at 0. Its head also takes the first value table, and its last
layer reads a saved activation; here neither. Weights have no decay (there 1e-5).

Interactions: backout and U-net skips also connect early and late layers; `mudd_gates` computes
their factors in the same way. Mixing happens before residual scalars. Its products count in the
FLOPs per token; its parameters do not count in the scaling rules.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from model.arch.parameter import Parameters
from model.config import Config
from model.config.shapes import MuddPlace, mudd_places
from model.tricks.mudd_gates import MuddGates, Network


class MuddConnections(nn.Module):
    """One network per place, label `mudd`."""

    def __init__(self, params: Parameters, config: Config, layers: int) -> None:
        super().__init__()
        settings = config.model.mudd_connections
        assert settings is not None
        self.places = nn.ModuleDict(
            {
                str(place.layer): MuddMixing(
                    params.under(f"places.{place.layer}"), place, settings.scale
                )
                for place in mudd_places(config, layers)
            }
        )
        self.gates = None
        if settings.gates is not None:
            self.gates = MuddGates(params.under("gates"), config, settings.gates, layers)

    def forward(self, layer: int, x: Tensor, streams: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The mixed stream (B, T, D) before a layer, and the addition to its values (B, T, D).

        `streams` are the first layer's input and all outputs so far."""
        if str(layer) not in self.places:
            return x, None
        mixed: tuple[Tensor, Tensor | None] = self.places[str(layer)](x, streams)
        return mixed

    def compile_networks(self, compiled: Callable[..., Any]) -> None:
        """Compile each place and each gate network separately."""
        for place in self.places.values():
            place.forward = compiled(place.forward)
        for network in () if self.gates is None else (self.gates.early, self.gates.late):
            network.project = compiled(network.project)  # type: ignore[method-assign]


class MuddMixing(Network):
    """The mixing network of one place."""

    def __init__(self, params: Parameters, place: MuddPlace, scale: float) -> None:
        super().__init__(params)
        self.place, self.scale = place, scale

    def forward(self, x: Tensor, streams: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """See `MuddConnections.forward`."""
        sources = [streams[0], *(streams[1 + source] for source in self.place.sources)]
        shares = (self.scale * self.project(x)).split(1, dim=-1)  # (B, T, 1) each
        if not self.place.in_layer:
            return x + weighted_sum(shares, sources), None
        sources.append(x)
        half = len(sources)
        return x + weighted_sum(shares[:half], sources), weighted_sum(shares[half:], sources)


def weighted_sum(shares: tuple[Tensor, ...], sources: list[Tensor]) -> Tensor:
    """Sum of share (B, T, 1) * source (B, T, D)."""
    total = shares[0] * sources[0]
    for share, source in zip(shares[1:], sources[1:], strict=True):
        total = total + share * source
    return total
