"""Trick `backout`: subtract a share of the middle block's output before the head.

    x - factor x_mid          x, x_mid (B, T, D); x_mid the output of block L // 2, counted from 0

before the final norm. Why it should help: early layers write features that later layers need and
the head does not; this lets the model remove them. The factor starts at 0.2. Due to @classiclarryd
(modded-nanogpt 2025-10, PR 140). Off: the last block's output enters the final norm. Interactions:
residual scalars already scale the stream.
"""

from torch import Tensor, nn

from model.arch.parameter import Parameters


class Backout(nn.Module):
    """One scalar factor, label `backout`."""

    def __init__(self, params: Parameters, layers: int) -> None:
        super().__init__()
        self.layer, self.factor = layers // 2, params["factor"]

    def forward(self, x: Tensor, middle: Tensor) -> Tensor:
        return x - self.factor.to(x.dtype) * middle
