"""Fields of the architecture: the tricks first, then `Model`, which contains them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Trick `windows`: alternating short and long attention windows (model/attention)."""

    pattern: str = "SSSL"
    """Repeated over the layers; the last layer is always L. S short window, L full context."""
    short_tokens: int | None = None
    """The short window. Null: a quarter of the context, rounded up to a multiple of 128."""


@dataclass(frozen=True, kw_only=True)
class DocumentMask:
    """Trick `document_mask`: attention stays inside a document (model/tricks/document_mask.py)."""

    bos_id: int | None = None
    """The first token of each document. Null: that of data.tokenizer `train` (vocab_size - 9) or
    `gpt2` (vocab_size - 1); with a tokenizer file, set it."""


@dataclass(frozen=True, kw_only=True)
class HalfRotary:
    """Trick `half_rotary`: half of the channels are not rotated (model/tricks/half_rotary.py)."""

    base: float = 1024.0
    """Wavelength of the slowest rotated pair over that of the fastest; replaces rotary.base."""


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Trick `rotary`: rotary position embedding (model/tricks/rotary.py)."""

    base: float = 100_000.0
    """Wavelength base of the slowest channel pair."""
    half: HalfRotary | None = None
    """Rotation of half of the channels. Null: of all."""


@dataclass(frozen=True, kw_only=True)
class QKNorm:
    """Trick `qk_norm`: queries and keys to unit root mean square, then scaled."""

    scale: float = 1.2
    """Factor on both queries and keys after the norm."""


@dataclass(frozen=True, kw_only=True)
class Softcap:
    """Trick `softcap`: logits squeezed through cap tanh(z / cap)."""

    cap: float = 15.0
    """The bound on a logit's magnitude."""


@dataclass(frozen=True, kw_only=True)
class LogitRescale:
    """Trick `logit_rescale`: logits as bound sigmoid((z + shift) / scale)
    (model/tricks/logit_rescale.py)."""

    bound: float = 23.0
    """Logits end between 0 and this."""
    shift: float = 5.0
    """Added to a logit first."""
    scale: float = 7.5
    """Divides the shifted logit."""


@dataclass(frozen=True, kw_only=True)
class Smear:
    """Trick `smear`: a gated share of the previous token (model/tricks/smear.py)."""

    gate_channels: int = 24
    """Leading channels that the gate reads."""


@dataclass(frozen=True, kw_only=True)
class BigramHashEmbedding:
    """Trick `bigram_hash_embedding`: a hashed table of token pairs
    (model/tricks/bigram_hash_embedding.py)."""

    table_multiple: int = 5
    """Rows of the table, in padded vocabularies."""
    init: float = 0.1
    """Initial factor of the embedded pair before every layer."""
    sign_rows: int | None = 8192
    """Rows of random signs that distinguish the pairs of one table row. Null: no signs."""


@dataclass(frozen=True, kw_only=True)
class SparseAttentionGate:
    """Trick `sparse_attention_gate`: a gate on each head's output
    (model/tricks/sparse_attention_gate.py)."""

    gate_channels: int = 12
    """Leading channels that the gate of each head reads."""


@dataclass(frozen=True, kw_only=True)
class PairedHeads:
    """Trick `paired_heads`: two heads in one softmax (model/tricks/paired_heads.py)."""

    every: int = 2
    """Of the layers with a short window, the first is paired and then every n-th."""


@dataclass(frozen=True, kw_only=True)
class LearnableXSA:
    """Trick `learnable_xsa`: heads learn what share of their token's own value to remove
    (model/tricks/learnable_xsa.py)."""

    layers: tuple[int, ...] | None = None
    """Layers with the trick, counted from 0. Null: all with attention and without paired heads."""
    init: float = 0.0
    """Initial strength of every head; its tanh is the share that is removed."""


@dataclass(frozen=True, kw_only=True)
class DroppedLayers:
    """Trick `dropped_layers`: layers without attention, layers without an MLP
    (model/config/dropped_layers.py)."""

    attention: tuple[int, ...] | None = None
    """Layers without attention, counted from 0. Null: layer 6 L // 11 of L."""
    mlp: tuple[int, ...] = ()
    """Layers without an MLP."""


@dataclass(frozen=True, kw_only=True)
class ValueEmbeddings:
    """Trick `value_embeddings`: token tables added to the values
    (model/tricks/value_embeddings.py)."""

    gate_channels: int = 12
    """Leading channels that the gate of each head reads."""
    gate_scale: float = 3.0
    """The gate is gate_scale times a sigmoid."""


@dataclass(frozen=True, kw_only=True)
class ResidualScalars:
    """Trick `residual_scalars`: resid_i x + x0_i x0 (model/tricks/residual_scalars.py)."""

    resid_first: float = 1.15
    """Initial factor of the residual stream at the first layer; linear to the last."""
    resid_last: float = 1.05
    """Initial factor of the residual stream at the last layer."""
    x0_first: float = 0.20
    """Initial factor of the embedding at the first layer; linear to the last."""
    x0_last: float = 0.05
    """Initial factor of the embedding at the last layer."""


@dataclass(frozen=True, kw_only=True)
class Backout:
    """Trick `backout`: subtracts the middle of the network (model/tricks/backout.py)."""

    init: float = 0.2
    """Initial factor of the middle block's output."""


@dataclass(frozen=True, kw_only=True)
class UNetSkips:
    """Trick `unet_skips`: early blocks feed late ones (model/tricks/unet_skips.py)."""

    init: float = 1.0
    """Initial factor of every skip."""


@dataclass(frozen=True, kw_only=True)
class MuddGates:
    """Trick `mudd_gates`: factors of other tricks for each token (model/tricks/mudd_gates.py)."""

    from_layer: int | None = None
    """Gates of this layer and later ones read its input; earlier gates read the embedding. Null:
    layer 4 of 11, as in modded-nanogpt, scaled to the depth."""
    hidden: int = 64
    """Hidden width of the two gate networks."""
    scale: float = 0.1
    """Initial value of the learned factor on their outputs."""


@dataclass(frozen=True, kw_only=True)
class MuddConnections:
    """Trick `mudd_connections`: per-token shares of earlier streams
    (model/tricks/mudd_connections.py)."""

    sources: tuple[int, ...] | None = None
    """Layers, from 0, whose outputs are mixed in, in addition to the embedding. Null: the fourth
    and the eighth of eleven, as in modded-nanogpt, scaled to the depth."""
    layers: tuple[int, ...] | None = None
    """Layers before which the sources are mixed into the stream and into the values. Null: the
    last layer. The sources are also mixed in before the head."""
    hidden: int = 64
    """Hidden width of the network that computes the shares."""
    scale: float = 0.1
    """Factor on the computed shares."""
    gates: MuddGates | None = None
    """Per-token factors of residual scalars, token pairs and U-net skips. Null: one factor for
    all tokens."""


@dataclass(frozen=True, kw_only=True)
class Fp8:
    """Trick `fp8`: matrix products of Linears in fp8 during training (model/kernels/fp8.py)."""

    head: bool = True
    """Whether to include the head."""
    places: Literal["all", "head", "mlp"] = "all"
    """Which products: all (the head according to `head`), the head only, or MLPs only."""
    scales: Literal["dynamic", "delayed", "static"] = "dynamic"
    """Scales from the tensor's current maximum, from maxima of recent steps, or fixed."""
    history_steps: int = 1
    """Delayed scales: number of recent steps. modded-nanogpt: 1."""
    headroom: float = 1.8
    """Delayed scales: representable range over the maximum; modded-nanogpt's value for
    activations."""
    static_input: float = 100.0
    """Static scales: the largest input of a Linear. This and the next two values are those of
    modded-nanogpt's head."""
    static_weight: float = 1.6
    """Static scales: the largest weight."""
    static_gradient: float = 96.0
    """Static scales: the largest gradient of the summed losses of a pass."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The architecture."""

    context_tokens: int = 1024
    """T, tokens per row."""
    vocab_size: int = 32_768
    """V, vocabulary size including special tokens; tables are padded to a multiple of 64."""
    head_width: int = 64
    """K, channels per head."""
    width: int | None = None
    """D. Null: 64 times depth, rounded up to a multiple of head_width."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """LayerNorm with weight and bias, or RMSNorm without parameters, which also follows the
    embedding."""
    activation: Literal["gelu", "relu2", "leaky_relu2", "swiglu"] = "gelu"
    """Activation of the MLP, whose hidden width is 4 D; with `swiglu` it is 8 D / 3, to the nearest
    multiple of 16, for equal parameters."""
    bias: bool = True
    """Whether Linears have biases."""
    tied_head: bool = True
    """Whether the head is the embedding table."""
    init: Literal["gpt2", "zero_projections"] = "gpt2"
    """N(0, 0.02) with scaled residual projections, or uniform with zero residual projections."""
    rotary: Rotary | None = None
    """Rotary positions. Null: learned positions."""
    qk_norm: QKNorm | None = None
    """Norm of queries and keys. Null: none."""
    windows: Windows | None = None
    """Attention windows. Null: full causal attention in every layer."""
    document_mask: DocumentMask | None = None
    """Attention within a document. Null: attention also to preceding documents of the row."""
    sparse_attention_gate: SparseAttentionGate | None = None
    """Gates on the outputs of heads. Null: none."""
    xsa: bool = False
    """Whether to remove from a head's output its token's own value (model/tricks/xsa.py)."""
    learnable_xsa: LearnableXSA | None = None
    """Learned shares of that removal. Null: none."""
    partial_key_offset: bool = False
    """Whether layers with the whole context take the unrotated channels of their keys from the
    previous token (model/tricks/partial_key_offset.py)."""
    paired_heads: PairedHeads | None = None
    """Heads in pairs. Null: every head attends to its own keys."""
    dropped_layers: DroppedLayers | None = None
    """Layers without attention or MLP. Null: every layer has both."""
    softcap: Softcap | None = None
    """Bounded logits. Null: no bound."""
    logit_rescale: LogitRescale | None = None
    """Logits through a shifted sigmoid. Null: no rescaling."""
    smear: Smear | None = None
    """A gated share of the previous token. Null: none."""
    bigram_hash_embedding: BigramHashEmbedding | None = None
    """A table of token pairs. Null: none."""
    value_embeddings: ValueEmbeddings | None = None
    """Token tables for the values of every other layer. Null: none."""
    residual_scalars: ResidualScalars | None = None
    """Learned factors of stream and embedding. Null: a plain residual stream."""
    backout: Backout | None = None
    """Subtraction of the middle block's output. Null: none."""
    unet_skips: UNetSkips | None = None
    """Skips from early to late blocks. Null: none."""
    mudd_connections: MuddConnections | None = None
    """Per-token shares of earlier streams. Null: none."""
    fp8: Fp8 | None = None
    """Matrix products of Linears in fp8. Null: in the compute type."""
