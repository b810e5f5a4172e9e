"""Trick `mudd_connections`: each token mixes earlier streams into late ones.

    c = scale (W2 gelu(W1 x) + b)                   x (B, T, D), W1 (64, D), W2 (n, 64), c (B, T, n)
    x = x + sum over sources of  c_s source_s       and before a layer also  + c x
    v = v + sum over sources of  c'_s source_s      its values, + c' x, cut into heads (B, T, H, K)

before the last layer and, for the stream alone, before the head. Sources are what enters the first
layer and the outputs of layers 3 and 7 of 11 (scaled to the depth); for the head also what enters
the last layer. All are streams as they are, without a norm. W1 starts uniform in +-D^-0.5, W2 and b
at 0, so the first loss is that of the model without it.

Why it should help: a residual stream sums up all layers with one weight each, for every token;
here a token chooses which earlier states its values and its prediction are made from. Source:
MUDDFormer, arXiv 2502.12170 (Xiao and others), which mixes all layers into queries, keys, values
and stream of every layer; cut down to the last ones, without queries and keys, in modded-nanogpt PR
259 of 2026-04 (@Lisennlp, after remarks of @classiclarryd). Off: blocks are connected in a line.

A variant of the record's: there the same network also replaces the last layer's gate of the value
embedding, its residual factors, and backout, whose share is its initial b of -0.5; here those stay
tricks of their own and b starts at 0. Its head also takes the first value table, and its last layer
reads a saved activation; here neither. Weights have no decay (there 1e-5).

Interactions: backout and U-net skips also connect early and late layers; `mudd_gates` makes their
factors in the same way. Mixing happens before residual scalars. Its products count in the FLOPs a
token, its parameters not in the scaling rules.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from model.arch.parameter import Parameters
from model.config import Config
from model.config.shapes import MuddPlace, mudd_places
from model.tricks.mudd_gates import MuddGates, Network


class MuddConnections(nn.Module):
    """A network a place, label `mudd`."""

    def __init__(self, own: Parameters, config: Config, layers: int) -> None:
        super().__init__()
        settings = config.model.mudd_connections
        assert settings is not None
        self.places = nn.ModuleDict(
            {
                str(place.layer): Mixing(own.under(f"places.{place.layer}"), place, settings.scale)
                for place in mudd_places(config, layers)
            }
        )
        self.gates = None
        if settings.gates is not None:
            self.gates = MuddGates(own.under("gates"), config, settings.gates, layers)

    def forward(self, layer: int, x: Tensor, streams: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The stream (B, T, D) in front of a layer, and what its values get (B, T, D); `streams`
        are what entered the first layer and the outputs of all so far."""
        if str(layer) not in self.places:
            return x, None
        mixed: tuple[Tensor, Tensor | None] = self.places[str(layer)](x, streams)
        return mixed

    def compile_networks(self, compiled: Callable[..., Any]) -> None:
        """Compiles what it computes, place by place."""
        for place in self.places.values():
            place.forward = compiled(place.forward)
        for network in () if self.gates is None else (self.gates.early, self.gates.late):
            network.numbers = compiled(network.numbers)  # type: ignore[method-assign]


class Mixing(Network):
    """One place."""

    def __init__(self, own: Parameters, place: MuddPlace, scale: float) -> None:
        super().__init__(own)
        self.place, self.scale = place, scale

    def forward(self, x: Tensor, streams: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """As MuddConnections, at this place."""
        sources = [streams[0], *(streams[1 + source] for source in self.place.sources)]
        shares = (self.scale * self.numbers(x)).split(1, dim=-1)  # (B, T, 1) each
        if not self.place.in_layer:
            return x + weighted(shares, sources), None
        sources.append(x)
        half = len(sources)
        return x + weighted(shares[:half], sources), weighted(shares[half:], sources)


def weighted(shares: tuple[Tensor, ...], sources: list[Tensor]) -> Tensor:
    """The sum of sources (B, T, D), each times its share (B, T, 1)."""
    total = shares[0] * sources[0]
    for share, source in zip(shares[1:], sources[1:], strict=True):
        total = total + share * source
    return total
