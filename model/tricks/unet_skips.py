"""Trick `unet_skips`: the first half of the network feeds the second, mirror-wise.

    input of block L-1-i  +=  s_i output of block i          i < L // 2; s (L // 2), starting at 1

Why it should help: as in a U-net, late layers get early features without carrying them through
the middle. Due to @brendanh0gan (modded-nanogpt 2024-11); nanochat has none. Off: blocks are
connected in a line. Interactions: residual scalars and backout also connect early and late
layers; their gains overlap.
"""

from torch import Tensor, nn

from model.arch.parameter import Parameters

Skip = tuple[Tensor, Tensor]
"""A pair's factor, and the output of its first block."""


class UNetSkips(nn.Module):
    """One factor a pair of blocks, label `x0_scalars`."""

    def __init__(self, own: Parameters, layers: int) -> None:
        super().__init__()
        self.layers, self.factors = layers, own["factors"]

    def forward(self, layer: int, outputs: list[Tensor]) -> Skip | None:
        """What `skipped` needs before a layer; null in the first half."""
        mirror = self.layers - 1 - layer
        if mirror >= self.layers // 2:
            return None
        return self.factors[mirror], outputs[mirror]


def skipped(x: Tensor, skip: Skip) -> Tensor:
    """The stream with the mirror block's output added."""
    factor, output = skip
    return x + factor * output
