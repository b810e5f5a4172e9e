"""Trick `residual_scalars`: before each layer the stream is scaled and the embedding mixed back
in.

    x = resid_i x + x0_i x0          x, x0 (B, T, D); resid, x0 factors (L)

x0 is the normed embedding, after smear where smear is on. Why it should help: deep layers see the
token itself again, and a factor above 1 on the stream keeps early writing from being drowned.
Starts at 1.15 to 1.05 and 0.20 to 0.05, linear over the layers. Due to @Grad62304977
(modded-nanogpt 2024-11) and @karpathy (nanochat; x0 is worth -.0103, -.0077, -.0057, -.0039 bpb
at depth 8, 12, 16, 20). Off: a plain residual stream. Interactions: smear, backout and U-net
skips touch the same stream.
"""

from torch import Tensor, nn

from model.arch.parameter import Parameters
from model.arch.shared_tensor import Shared, summed

Mix = tuple[Tensor, Tensor, Tensor]
"""A layer's two factors, and x0."""


class ResidualScalars(nn.Module):
    """Two factors a layer, labels `resid_scalars` and `x0_scalars`."""

    def __init__(self, own: Parameters) -> None:
        super().__init__()
        self.resid, self.x0 = own["resid"], own["x0"]
        self.summed = summed  # the compiler's, where there is one

    def share(self, x0: Tensor) -> tuple[Tensor, ...]:
        """x0 under a name for every layer."""
        names: tuple[Tensor, ...] = Shared.apply(x0, self.x0.numel(), self.summed)
        return names

    def forward(self, layer: int, x0: Tensor) -> Mix:
        """What `mixed` needs before a layer; its factors are tensors, so all layers share code."""
        return self.resid[layer], self.x0[layer], x0


def mixed(x: Tensor, mix: Mix) -> Tensor:
    """The stream as the layer reads it."""
    resid, x0_factor, x0 = mix
    return resid * x + x0_factor * x0
