"""Trick `residual_scalars`: before each layer, scale the stream and add the scaled embedding.

    x = resid_i x + x0_i x0          x, x0 (B, T, D); resid, x0 factors (L)

x0 is the normed embedding, after smear where smear is on. Why it should help: deep layers see the
token itself again, and a stream factor above 1 keeps early features from being drowned out. Factors
start at 1.15 to 1.05 and 0.20 to 0.05, linear over the layers. Due to @Grad62304977 (modded-nanogpt
2024-11) and @karpathy (nanochat; x0 is worth -.0103, -.0077, -.0057, -.0039 bpb at depth 8, 12, 16,
20). Off: a plain residual stream. Interactions: smear, backout and U-net skips modify the same
stream.
"""

from torch import Tensor, nn

from model.arch.parameter import Parameters
from model.arch.shared_tensor import FanOut, sum_gradients

ResidualMix = tuple[Tensor, Tensor, Tensor]
"""Factors resid and x0 of a layer, and the tensor x0 (B, T, D)."""


class ResidualScalars(nn.Module):
    """Two factors per layer, labels `resid_scalars` and `x0_scalars`."""

    def __init__(self, params: Parameters) -> None:
        super().__init__()
        self.resid, self.x0 = params["resid"], params["x0"]
        self.sum_gradients = sum_gradients  # GPT.compile_regions replaces it

    def per_layer(self, x0: Tensor) -> tuple[Tensor, ...]:
        """One view of x0 per layer."""
        copies: tuple[Tensor, ...] = FanOut.apply(x0, self.x0.numel(), self.sum_gradients)
        return copies

    def forward(self, layer: int, x0: Tensor) -> ResidualMix:
        """The input of `mix_residual`; factors are tensors, so all layers share one graph."""
        return self.resid[layer], self.x0[layer], x0


def mix_residual(x: Tensor, mix: ResidualMix) -> Tensor:
    """resid * x + x0_factor * x0."""
    resid, x0_factor, x0 = mix
    return resid * x + x0_factor * x0
