"""Trick `backout`: a share of the network's middle is taken out before the head.

    x - factor x_mid          x, x_mid (B, T, D); x_mid the output of block L // 2, counted from 0

before the last norm. Why it should help: early layers write what later layers need and the head
does not; this lets the model back out of it. The factor starts at 0.2. Due to @classiclarryd
(modded-nanogpt 2025-10, PR 140). Off: the last block's output goes to the last norm. Interactions:
residual scalars already weigh the stream.
"""

from torch import Tensor, nn

from model.arch.parameter import Parameters


class Backout(nn.Module):
    """One factor, label `backout`."""

    def __init__(self, own: Parameters, layers: int) -> None:
        super().__init__()
        self.layer, self.factor = layers // 2, own["factor"]

    def forward(self, x: Tensor, middle: Tensor) -> Tensor:
        return x - self.factor.to(x.dtype) * middle
