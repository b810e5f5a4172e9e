"""Trick `unet_skips`: blocks of the first half feed their mirror blocks in the second half.

    input of block L-1-i  +=  s_i output of block i          i < L // 2; s (L // 2), starting at 1

Why it should help: as in a U-net, late layers receive early features without carrying them through
the middle. Due to @brendanh0gan (modded-nanogpt 2024-11); nanochat has none. Off: blocks are
connected in sequence. Interactions: residual scalars and backout also connect early and late
layers; their gains overlap.
"""

from torch import Tensor, nn

from model.arch.parameter import Parameters

Skip = tuple[Tensor, Tensor]
"""Factor of a pair of blocks and the output (B, T, D) of its first block."""


class UNetSkips(nn.Module):
    """One factor per pair of blocks, label `x0_scalars`."""

    def __init__(self, params: Parameters, layers: int) -> None:
        super().__init__()
        self.layers, self.factors = layers, params["factors"]

    def forward(self, layer: int, outputs: list[Tensor]) -> Skip | None:
        """The input of `add_skip` for a layer; None in the first half."""
        mirror = self.layers - 1 - layer
        if mirror >= self.layers // 2:
            return None
        return self.factors[mirror], outputs[mirror]


def add_skip(x: Tensor, skip: Skip) -> Tensor:
    """x + factor * output."""
    factor, output = skip
    return x + factor * output
