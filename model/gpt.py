"""The architecture. `GPT.stream` reads from top to bottom like the network; each trick is one
visible line.

B batch, T tokens, D width, H heads, K head width (H K = D), L layers, V padded vocabulary.
"""

import warnings
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arch.linear import Linear, joint_linear, linear
from model.arch.norm import RMSNorm, norm_of, rms_norm
from model.arch.parameter import Parameters
from model.arch.position_ids import PositionIds
from model.attention import BACKENDS
from model.config import Config
from model.config.kernel_eligibility import attention_in_fp8, head_in_fp8, mlp_in_fp8
from model.config.shapes import Sizes, has_value_embedding, learnable_xsa_layers, paired_layers
from model.kernels import Kernels, compute_type, fused
from model.kernels.fp8 import Fp8
from model.tricks.backout import Backout
from model.tricks.bigram_hash_embedding import BigramHashEmbedding, BigramInput, add_bigrams
from model.tricks.document_mask import DocumentMask
from model.tricks.learnable_xsa import LearnableXSA
from model.tricks.logit_rescale import rescale_logits
from model.tricks.mudd_connections import MuddConnections
from model.tricks.mudd_gates import GatesByLayer, MuddGates
from model.tricks.multi_token import multi_token_losses
from model.tricks.paired_heads import interleave_heads, pair_cos_sin, separate_heads
from model.tricks.partial_key_offset import offset_keys
from model.tricks.residual_scalars import ResidualMix, ResidualScalars, mix_residual
from model.tricks.rotary import CosSin, Rotary, apply_rotary, select_positions
from model.tricks.smear import Smear
from model.tricks.sparse_attention_gate import SparseAttentionGate
from model.tricks.swiglu import SwiGLU
from model.tricks.unet_skips import Skip, UNetSkips, add_skip
from model.tricks.value_embeddings import ValueEmbedding
from model.tricks.xsa import remove_value_component

LEAKY_SLOPE = 0.5  # as in openai/parameter-golf PR 493 (@parinzee) and nanochat; squared


class GPT(nn.Module):
    """Computes the mean loss, the loss of each token, or logits of tokens (B, T)."""

    def __init__(self, config: Config, sizes: Sizes, kernels: Kernels) -> None:
        super().__init__()
        model, layers = config.model, sizes.layers
        self.compute = compute_type(config)
        params = Parameters.of(config, sizes)
        self.fp8 = Fp8(model.fp8, kernels.fp8) if model.fp8 else None
        attention_fp8 = self.fp8 if attention_in_fp8(config) else None
        mlp_fp8 = self.fp8 if mlp_in_fp8(config) else None
        self.embedding = Table(params.under("embedding"))
        self.positions = None
        if model.rotary is None:
            self.positions = Table(params.under("positions"))
        self.rotary = Rotary(model.rotary, sizes.head_width) if model.rotary else None
        self.heads, self.paired = sizes.heads, paired_layers(config, sizes)
        self.document_mask = None
        if model.document_mask is not None:
            self.document_mask = DocumentMask(config, kernels.attention)
        self.bigram_hash_embedding = None
        if model.bigram_hash_embedding is not None:
            self.bigram_hash_embedding = BigramHashEmbedding(
                params.under("bigram_hash_embedding"), model.bigram_hash_embedding
            )
        self.embedding_norm = RMSNorm() if model.norm == "rmsnorm" else None
        self.smear = Smear(params.under("smear")) if model.smear else None
        self.residual_scalars = None
        if model.residual_scalars is not None:
            self.residual_scalars = ResidualScalars(params.under("residual_scalars"))
        self.unet_skips = self.backout = None
        if model.unet_skips is not None:
            self.unet_skips = UNetSkips(params.under("unet_skips"), layers)
        if model.backout is not None:
            self.backout = Backout(params.under("backout"), layers)
        self.mudd_connections = None
        if model.mudd_connections is not None:
            self.mudd_connections = MuddConnections(
                params.under("mudd_connections"), config, layers
            )
        readers = (self.unet_skips, self.backout, self.mudd_connections)
        self.keep_outputs = any(reader is not None for reader in readers)
        self.blocks = nn.ModuleList(
            Block(params.under(f"blocks.{i}"), config, sizes, i, kernels, attention_fp8, mlp_fp8)
            for i in range(layers)
        )
        self.final_norm = norm_of(params.under("final_norm"))
        self.head = None
        if not model.tied_head:
            self.head = Table(params.under("head"))
        self.head_fp8 = self.fp8 if head_in_fp8(config) else None
        self.head_scales = None
        if self.head_fp8 is not None:
            self.head_scales = self.head_fp8.scales_of(self.head_weight)
        self.softcap = model.softcap.cap if model.softcap else None
        self.logit_rescale = model.logit_rescale
        self.vocab_size = model.vocab_size
        self.fused_loss = fused(kernels.loss, "loss")

    def forward(self, tokens: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean loss in nats over targets (B, T), for training; only this pass uses fp8.

        With `weights` (n), the weighted loss of the n tokens after each position."""
        with nullcontext() if self.fp8 is None else self.fp8.training():
            return self.mean_loss(tokens, targets, weights)

    def mean_loss(self, tokens: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """As `forward`, without enabling fp8."""
        x = self.stream(tokens).flatten(0, 1)
        if weights is not None:
            return self.torch_weighted_losses(x, targets, weights).mean()
        if self.fused_loss is not None:
            fp8 = self.head_fp8 is not None and self.head_fp8.is_active_for(self.head_weight)
            return self.fused_loss.mean_loss(x, *self._head(targets), fp8=fp8)
        return self.torch_losses(x, targets).mean()

    def token_losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Loss in nats of each target (B, T), detached: (B T)."""
        x = self.stream(tokens).flatten(0, 1)
        if self.fused_loss is not None:
            return self.fused_loss.token_losses(x, *self._head(targets))
        return self.torch_losses(x, targets).detach()

    def logits(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) -> logits (B, T, vocab_size) in fp32."""
        return self.torch_logits(self.stream(tokens))

    def stream(self, tokens: Tensor, position_ids: PositionIds | None = None) -> Tensor:
        """Tokens (B, T) -> the head's input (B, T, D): the architecture.

        `position_ids` are the tokens' positions; null means 0 to T - 1.
        """
        x = self.embed_tokens(tokens, position_ids)  # (B, T, D)
        cos_sin = self.cos_sin_by_layer(x, position_ids)
        masks: list[Any] = [None] * len(self.blocks)
        mix: ResidualMix | None = None
        bigrams: BigramInput | None = None
        skip: Skip | None = None
        values: Tensor | None = None
        gates: GatesByLayer = {}
        embedded = x
        outputs: list[Tensor] = []
        if self.document_mask is not None:
            masks = self.document_mask(tokens, [block.attention for block in self.blocks])
        if self.bigram_hash_embedding is not None:
            shares = self.bigram_hash_embedding.per_layer(self.bigram_hash_embedding(tokens))
        if self.residual_scalars is not None:
            x0 = self.residual_scalars.per_layer(x)
        for layer, block in enumerate(self.blocks):
            if self.residual_scalars is not None:
                mix = self.residual_scalars(layer, x0[layer])
            if self.bigram_hash_embedding is not None:
                bigrams = shares[layer]
            if self.unet_skips is not None:
                skip = self.unet_skips(layer, outputs)
            if self.mudd_gates is not None:
                gates |= self.mudd_gates(layer, x)
                mix, bigrams, skip = gates[layer].apply(mix, bigrams, skip)
            if self.mudd_connections is not None:
                x, values = self.mudd_connections(layer, x, [embedded, *outputs])
            x = block(x, tokens, cos_sin[layer], mix, bigrams, skip, masks[layer], values)
            if self.keep_outputs:
                outputs.append(x)
        if self.mudd_connections is not None:
            x, _ = self.mudd_connections(len(self.blocks), x, [embedded, *outputs])
        middle = None if self.backout is None else outputs[self.backout.layer]
        return self.finalize_stream(x, middle)

    def embed_tokens(self, tokens: Tensor, position_ids: PositionIds | None = None) -> Tensor:
        """Tokens (B, T) -> the input of the first block (B, T, D)."""
        x = self.embedding(tokens).to(self.compute)
        if self.positions is not None:
            rows = slice(x.size(1)) if position_ids is None else position_ids.index
            x = x + self.positions.weight[rows].to(x.dtype)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        if self.smear is not None:
            x = self.smear(x)
        return x

    def cos_sin_by_layer(
        self, x: Tensor, position_ids: PositionIds | None = None
    ) -> list[CosSin | None]:
        """Rotary tables of each layer; None without rotary positions."""
        if self.rotary is None:
            return [None] * len(self.blocks)
        end = x.size(1) if position_ids is None else position_ids.end
        cos_sin = select_positions(self.rotary(end, x.device, x.dtype), position_ids)
        if not any(self.paired):
            return [cos_sin] * len(self.blocks)
        paired_cos_sin = pair_cos_sin(self.rotary(2 * end, x.device, x.dtype), self.heads)
        paired_cos_sin = select_positions(paired_cos_sin, position_ids)
        return [paired_cos_sin if paired else cos_sin for paired in self.paired]

    def finalize_stream(self, x: Tensor, middle: Tensor | None) -> Tensor:
        """Output of the last block (B, T, D) -> the head's input (B, T, D)."""
        if self.backout is not None:
            x = self.backout(x, middle)
        return self.final_norm(x)

    def torch_logits(self, x: Tensor) -> Tensor:
        """(..., D) -> logits (..., vocab_size) in fp32."""
        logits = linear(x, self.head_weight, None, self.head_fp8, self.head_scales)
        logits = logits[..., : self.vocab_size].float()
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        if self.logit_rescale is not None:
            logits = rescale_logits(logits, self.logit_rescale)
        return logits

    def torch_losses(self, x: Tensor, targets: Tensor) -> Tensor:
        """x (B T, D) and targets (B, T) -> losses (B T)."""
        return F.cross_entropy(self.torch_logits(x), targets.flatten(), reduction="none")

    def torch_weighted_losses(self, x: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """x (B T, D), targets (B, T) and weights (n) -> weighted losses (B T)."""
        return multi_token_losses(self.torch_logits(x), targets, weights)

    def compile_regions(self, backend: str = "inductor") -> None:
        """Compile the model by regions; blocks of one kind share one graph.

        Blocks differ in window, value embedding or a dropped part: 12 layers with the pattern SSSL
        have 3 kinds. A single graph of all 12 blocks takes longer to compile and is not faster
        (LOG.md).
        """
        # the compiler reads .grad of every graph input, which triggers this warning
        warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not")
        compiled = partial(torch.compile, dynamic=False, fullgraph=True, backend=backend)
        for block in self.blocks:
            block.compile(dynamic=False, fullgraph=True, backend=backend)
        self.embed_tokens = compiled(self.embed_tokens)  # type: ignore[method-assign]
        self.finalize_stream = compiled(self.finalize_stream)  # type: ignore[method-assign]
        self.torch_losses = compiled(self.torch_losses)  # type: ignore[method-assign]
        self.torch_weighted_losses = compiled(self.torch_weighted_losses)  # type: ignore[method-assign]
        if self.residual_scalars is not None:
            self.residual_scalars.sum_gradients = compiled(self.residual_scalars.sum_gradients)
        if self.mudd_connections is not None:
            self.mudd_connections.compile_networks(compiled)
        if self.bigram_hash_embedding is not None:
            self.bigram_hash_embedding.compile(dynamic=False, fullgraph=True, backend=backend)
            self.bigram_hash_embedding.sum_gradients = compiled(
                self.bigram_hash_embedding.sum_gradients
            )

    @property
    def mudd_gates(self) -> MuddGates | None:
        """The gates of the MUDD connections, if on."""
        return None if self.mudd_connections is None else self.mudd_connections.gates

    @property
    def head_weight(self) -> Tensor:
        """(V, D); the embedding's weight if the head is tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def _head(self, targets: Tensor) -> tuple[Tensor, Tensor, float | None, int]:
        return self.head_weight, targets.flatten(), self.softcap, self.vocab_size


class Block(nn.Module):
    """x (B, T, D) plus attention, plus MLP, each on a normed input.

    Additions to the stream before the block are arguments (`mix`, `bigrams`, `skip`), so that they
    are part of the block's compiled graph.
    """

    def __init__(
        self,
        params: Parameters,
        config: Config,
        sizes: Sizes,
        layer: int,
        kernels: Kernels,
        attention_fp8: Fp8 | None,
        mlp_fp8: Fp8 | None,
    ) -> None:
        super().__init__()
        if mlp_fp8 is not None:  # the fused products multiply in bf16
            kernels = replace(kernels, products="torch")
        self.attention = self.mlp = None  # None in dropped layers (trick `dropped_layers`)
        if sizes.attentions[layer]:
            self.attention_norm = norm_of(params.under("attention_norm"))
            self.attention = Attention(
                params.under("attention"), config, sizes, layer, kernels, attention_fp8
            )
        if sizes.mlps[layer]:
            self.mlp_norm = norm_of(params.under("mlp_norm"))
            self.mlp = MLP(params.under("mlp"), config, kernels, mlp_fp8)

    def forward(
        self,
        x: Tensor,
        tokens: Tensor,
        cos_sin: CosSin | None,
        mix: ResidualMix | None = None,
        bigrams: BigramInput | None = None,
        skip: Skip | None = None,
        mask: Any = None,
        values: Tensor | None = None,
    ) -> Tensor:
        if mix is not None:
            x = mix_residual(x, mix)
        if bigrams is not None:
            x = add_bigrams(x, bigrams)
        if skip is not None:
            x = add_skip(x, skip)
        if self.attention is not None:
            x = self.attention(self.attention_norm(x), tokens, cos_sin, x, mask, values)
        if self.mlp is not None:
            x = self.mlp(self.mlp_norm(x), residual=x)
        return x


class Attention(nn.Module):
    """The residual plus multi-head causal attention over the layer's window."""

    def __init__(
        self,
        params: Parameters,
        config: Config,
        sizes: Sizes,
        layer: int,
        kernels: Kernels,
        fp8: Fp8 | None,
    ) -> None:
        super().__init__()
        model = config.model
        self.heads, self.head_width = sizes.heads, sizes.head_width
        self.window, self.attend = sizes.windows[layer], BACKENDS[kernels.attention]
        self.query = Linear(params.under("query"), fp8)
        self.key = Linear(params.under("key"), fp8)
        self.value = Linear(params.under("value"), fp8)
        self.out = Linear(params.under("out"), fp8)
        self.qk_scale = model.qk_norm.scale if model.qk_norm else None
        self.paired = paired_layers(config, sizes)[layer]
        self.offsets_keys = model.partial_key_offset and self.window >= sizes.context
        self.xsa = model.xsa
        self.learnable_xsa = None
        if layer in learnable_xsa_layers(config, sizes):
            self.learnable_xsa = LearnableXSA(params.under("learnable_xsa"))
        self.sparse_gate = None
        if model.sparse_attention_gate is not None:
            self.sparse_gate = SparseAttentionGate(params.under("sparse_gate"))
        self.fused_qkv = fused(kernels.qkv, "qkv")
        self.fused_products = fused(kernels.products, "products")
        self.value_embedding = None
        if model.value_embeddings is not None and has_value_embedding(layer, sizes.layers):
            self.value_embedding = ValueEmbedding(
                params.under("value_embedding"), model.value_embeddings, sizes
            )

    def forward(
        self,
        x: Tensor,
        tokens: Tensor,
        cos_sin: CosSin | None,
        residual: Tensor,
        mask: Any = None,
        values: Tensor | None = None,
    ) -> Tensor:
        q, k, v = self.heads_of(x, cos_sin)  # (B, T, H, K)
        if self.value_embedding is not None:
            v = self.value_embedding(v, x, tokens)
        if values is not None:
            v = v + values.view_as(v)
        if self.offsets_keys:
            k = offset_keys(k)
        visible = (self.window,) if mask is None else (self.window, mask)
        if self.paired:
            y = self.attend(interleave_heads(q), interleave_heads(k), interleave_heads(v), *visible)
            y = separate_heads(y)
        else:
            y = self.attend(q, k, v, *visible)
        if self.xsa:
            y = remove_value_component(y, v)
        if self.learnable_xsa is not None:
            y = self.learnable_xsa(y, v)
        if self.sparse_gate is not None:
            y = self.sparse_gate(y, x)
        y = y.flatten(-2)
        if self.fused_products is not None:
            return self.fused_products.add_product(residual, y, self.out.weight)
        return residual + self.out(y)

    def heads_of(self, x: Tensor, cos_sin: CosSin | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, T, H, K); the first two rotated, then normed."""
        if self.fused_qkv is not None:
            weights = (self.query.weight, self.key.weight, self.value.weight)
            return self.fused_qkv.normed_heads(x, weights, cos_sin, self.qk_scale, self.heads)
        # one product for all three: the product sums their gradients with respect to x
        qkv = joint_linear(x, self.query, self.key, self.value)  # (B, T, 3 D)
        q, k, v = qkv.unflatten(-1, (3, self.heads, self.head_width)).unbind(-3)
        if cos_sin is not None:
            q, k = apply_rotary(q, cos_sin), apply_rotary(k, cos_sin)
        if self.qk_scale is not None:
            q, k = rms_norm(q) * self.qk_scale, rms_norm(k) * self.qk_scale
        return q, k, v


class MLP(nn.Module):
    """The residual plus D -> 4 D -> D with GELU (GPT-2's tanh form), squared ReLU, squared leaky
    ReLU, or gated (trick `swiglu`)."""

    def __init__(
        self, params: Parameters, config: Config, kernels: Kernels, fp8: Fp8 | None
    ) -> None:
        super().__init__()
        self.activation = config.model.activation
        self.fused_products = fused(kernels.products, "products")
        self.up = Linear(params.under("up"), fp8)
        self.swiglu = SwiGLU(params.under("swiglu"), fp8) if self.activation == "swiglu" else None
        self.down = Linear(params.under("down"), fp8)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        if self.fused_products is not None:
            weights = (self.up.weight, self.down.weight)
            return self.fused_products.add_mlp(residual, x, *weights, self.activation)
        if self.swiglu is not None:
            return residual + self.down(self.swiglu(x, self.up))
        hidden = self.up(x)
        if self.activation == "relu2":
            hidden = F.relu(hidden).square()
        elif self.activation == "leaky_relu2":
            hidden = F.leaky_relu(hidden, LEAKY_SLOPE).square()
        else:
            hidden = F.gelu(hidden, approximate="tanh")
        return residual + self.down(hidden)


class Table(nn.Module):
    """Rows (N, D) looked up by index."""

    def __init__(self, params: Parameters) -> None:
        super().__init__()
        self.weight = params["weight"]

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight)
