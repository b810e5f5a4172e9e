"""The architecture. `GPT.forward` reads from top to bottom as the network; a trick is one visible
line.

B batch, T tokens, D width, H heads, K head width (H K = D), L layers, V padded vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import Attend
from model.config import Config
from model.linear import Linear
from model.norm import norm_of, rms_norm
from model.parameter import Constant, Init, Normal, Uniform, compute_type, parameter
from model.shapes import Sizes, has_value_embedding
from model.tricks.backout import Backout
from model.tricks.residual_scalars import ResidualScalars
from model.tricks.rotary import Rotary
from model.tricks.smear import Smear
from model.tricks.unet_skips import UNetSkips
from model.tricks.value_embeddings import ValueEmbedding

GPT2_STD = 0.02


class GPT(nn.Module):
    """Tokens (B, T) to logits, or to losses. Training and evaluation share one forward pass."""

    def __init__(self, config: Config, sizes: Sizes, attend: Attend) -> None:
        super().__init__()
        model, layers, width = config.model, sizes.layers, sizes.width
        self.compute = compute_type(config)
        inits = Inits(config, sizes)
        self.embedding = Table(sizes.vocab, width, "embedding", inits.embedding, self.compute)
        self.positions = None
        if model.rotary is None:
            self.positions = Table(
                sizes.context, width, "positions", Normal(GPT2_STD), torch.float32
            )
        self.embedding_norm = norm_of("rmsnorm", width) if model.norm == "rmsnorm" else None
        self.smear = Smear(model.smear) if model.smear else None
        self.residual_scalars = None
        if model.residual_scalars is not None:
            self.residual_scalars = ResidualScalars(model.residual_scalars, layers)
        self.unet_skips = UNetSkips(model.unet_skips, layers) if model.unet_skips else None
        self.backout = Backout(model.backout, layers) if model.backout else None
        self.keeps_outputs = self.unet_skips is not None or self.backout is not None
        self.blocks = nn.ModuleList(Block(config, sizes, i, inits, attend) for i in range(layers))
        self.final_norm = norm_of(model.norm, width)
        self.head = None
        if not model.tied_head:
            self.head = Table(sizes.vocab, width, "head", inits.head, torch.float32)
        self.softcap = model.softcap.cap if model.softcap else None
        self.vocab_size = model.vocab_size

    def forward(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss in nats over targets (B, T), and each token's, detached (B T)."""
        losses = F.cross_entropy(
            self.logits(tokens).flatten(0, 1), targets.flatten(), reduction="none"
        )
        return losses.mean(), losses.detach()

    def logits(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) -> logits (B, T, vocab_size) in fp32: the architecture."""
        x = self.embedding(tokens).to(self.compute)  # (B, T, D)
        if self.positions is not None:
            x = x + self.positions.weight[: x.size(1)].to(x.dtype)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        if self.smear is not None:
            x = self.smear(x)
        x0 = x
        outputs: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            if self.residual_scalars is not None:
                x = self.residual_scalars(layer, x, x0)
            if self.unet_skips is not None:
                x = self.unet_skips(layer, x, outputs)
            x = block(x, tokens)
            if self.keeps_outputs:
                outputs.append(x)
        if self.backout is not None:
            x = self.backout(x, outputs[self.backout.layer])
        x = self.final_norm(x)
        head = self.embedding.weight if self.head is None else self.head.weight
        logits = F.linear(x, head.to(x.dtype))[..., : self.vocab_size].float()  # (B, T, vocab_size)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


class Block(nn.Module):
    """x (B, T, D) plus attention, plus MLP, each on a normed input."""

    def __init__(
        self, config: Config, sizes: Sizes, layer: int, inits: "Inits", attend: Attend
    ) -> None:
        super().__init__()
        self.attention_norm = norm_of(config.model.norm, sizes.width)
        self.attention = Attention(config, sizes, layer, inits, attend)
        self.mlp_norm = norm_of(config.model.norm, sizes.width)
        self.mlp = MLP(config, sizes.width, inits)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), tokens)
        return x + self.mlp(self.mlp_norm(x))


class Attention(nn.Module):
    """Multi-head causal attention over the layer's window."""

    def __init__(
        self, config: Config, sizes: Sizes, layer: int, inits: "Inits", attend: Attend
    ) -> None:
        super().__init__()
        model, width = config.model, sizes.width
        self.heads, self.head_width = sizes.heads, sizes.head_width
        self.window, self.attend = sizes.windows[layer], attend
        self.query = Linear(width, width, bias=model.bias, init=inits.inner)
        self.key = Linear(width, width, bias=model.bias, init=inits.inner)
        self.value = Linear(width, width, bias=model.bias, init=inits.inner)
        self.out = Linear(width, width, bias=model.bias, init=inits.residual)
        self.rotary = Rotary(model.rotary.base) if model.rotary else None
        self.qk_scale = model.qk_norm.scale if model.qk_norm else None
        self.value_embedding = None
        if model.value_embeddings is not None and has_value_embedding(layer, sizes.layers):
            self.value_embedding = ValueEmbedding(
                model.value_embeddings,
                vocab=sizes.vocab,
                heads=sizes.heads,
                head_width=sizes.head_width,
                width=width,
                dtype=compute_type(config),
            )

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        shape = (self.heads, self.head_width)
        q = self.query(x).unflatten(-1, shape)  # (B, T, H, K)
        k = self.key(x).unflatten(-1, shape)
        v = self.value(x).unflatten(-1, shape)
        if self.value_embedding is not None:
            v = self.value_embedding(v, x, tokens)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        if self.qk_scale is not None:
            q, k = rms_norm(q) * self.qk_scale, rms_norm(k) * self.qk_scale
        return self.out(self.attend(q, k, v, self.window).flatten(-2))


class MLP(nn.Module):
    """D -> 4 D -> D with GELU (GPT-2's tanh form) or squared ReLU."""

    def __init__(self, config: Config, width: int, inits: "Inits") -> None:
        super().__init__()
        self.squared_relu = config.model.activation == "relu2"
        self.up = Linear(width, 4 * width, bias=config.model.bias, init=inits.up)
        self.down = Linear(4 * width, width, bias=config.model.bias, init=inits.residual)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        if self.squared_relu:
            hidden = F.relu(hidden).square()
        else:
            hidden = F.gelu(hidden, approximate="tanh")
        return self.down(hidden)


class Table(nn.Module):
    """Rows (N, D) looked up by index."""

    def __init__(self, rows: int, width: int, label: str, init: Init, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = parameter(rows, width, label=label, init=init, dtype=dtype)

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight)


class Inits:
    """Initial distributions of the weights: GPT-2's, or zero residual projections (`zero_init`)."""

    def __init__(self, config: Config, sizes: Sizes) -> None:
        self.inner: Init = Normal(GPT2_STD)
        self.up: Init = Normal(GPT2_STD)
        self.residual: Init = Normal(GPT2_STD / (2 * sizes.layers) ** 0.5)
        self.embedding: Init = Normal(GPT2_STD)
        self.head: Init = Normal(GPT2_STD)
        if config.model.init == "zero_projections":
            bound = (3 / sizes.width) ** 0.5
            self.inner = Uniform(-bound, bound)
            self.up = Uniform(-0.4 * bound, 0.4 * bound)
            self.residual = Constant(0.0)
            self.head = Normal(0.001)
            if not config.model.tied_head:  # a table that is also the head keeps the head's scale
                self.embedding = Normal(0.8)
