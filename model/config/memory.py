"""Estimate of a run's memory by part, from its sizes alone. No torch.

The peak is the memory held for the whole run (`states`, `gradients`) plus the largest temporary
part: the activations of all blocks together with either the head or the backward pass of one block,
or the optimizer's temporaries while no activations exist.

The unit of activations is one stream: tokens x D in the compute type. The number of streams that a
block saves for its backward pass was counted in the forward and backward graphs of torch's
partitioner, for `speedrun` and `gpt2`. It agrees within 3 % with two peaks measured on an H100
(LOG.md, 2026-11-22). Fused kernels (model/kernels) save fewer; the machine determines which can
run, so `describe` reports two figures: with torch's kernels, which need the most memory, and with
all that the configuration allows. Uncompiled code saves more, by `EAGER_FACTOR`. The figures
exclude the CUDA context, the allocator's fragmentation and the process itself (on a CPU).

B rows, T tokens per row, D width, L layers, V padded vocabulary.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from model.config import Config
from model.config.kernel_eligibility import attention_in_fp8, head_in_fp8, mlp_in_fp8
from model.config.shapes import (
    Sizes,
    has_value_embedding,
    learnable_xsa_layers,
    mlp_width,
    mudd_places,
)

# streams (tokens x D) that one block saves for its backward pass; the first two for attention and
# for the MLP, if present
STREAMS_RESIDUAL = 1  # its input x
STREAMS_NORMED = 1  # the normed input of its projections; fused, fp8: recomputed
STREAMS_ATTENTION = 4  # q, k, v and attention's output
STREAMS_MLP = 8  # 4 D wide, before and after its activation; fused, fp8: before
STREAMS_FP8 = 1  # fp8: inputs of attention's projections, two of half a stream
STREAMS_MIXED = 1  # residual_scalars: the stream before mixing with the embedding
STREAMS_ROTATED = 2  # rotary and qk_norm: q and k before them; fused: none
STREAMS_VALUE = 1  # value_embeddings, every other layer: v before the table is added; fused: none
STREAMS_XSA = 2  # xsa, learnable_xsa: attention's output and the normalized values
STREAMS_GATE = 1  # sparse_attention_gate: attention's output; xsa saves it already
STREAMS_MUDD = 2  # mudd_connections, at each place: its input stream, and the values
STREAMS_BIGRAM = 2  # bigram_hash_embedding, once: the looked-up rows and their signs
# gradients allocated at once in the backward pass of one block: of the MLP's hidden layer (4 D),
# of the block's input and output
STREAMS_BACKWARD = 6
# fused: also q, k, v and the recomputed hidden layer, and the gradient of x0 (and of token pairs)
# from each layer. By measurement, the head's memory is still allocated at that point (LOG.md)
STREAMS_BACKWARD_FUSED = 18
STREAMS_SHARED = 1
# fp8: also the hidden gradient in fp8, plain and transposed, and the transposed hidden layer
STREAMS_BACKWARD_FP8 = STREAMS_BACKWARD + 6

EAGER_FACTOR = 1.4  # uncompiled speedrun in bf16 also saves norms in fp32: 26.1 streams, not 19.5
HEAD_CHUNK_TOKENS = 16_384  # rows of logits per chunk of the fused head: 1 GB (LOG.md)
COMPILED_LOGIT_BYTES = 2  # one bf16 tensor, for logits and then their gradients
FP8_LOGIT_BYTES = 2  # their gradients in fp8, plain and transposed
EAGER_LOGIT_BYTES = 16  # fp32: the logit, its softcap, its log-softmax, its gradient

TABLES = ("embedding", "value_tables", "bigram_table")
MASTER_BYTES = 4  # fp32 weights, gradients and moments
MUON_TEMPORARY_BYTES = 22  # per matrix element of an update: gradient, bf16 iterates, new weight


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes by part."""

    states: int
    """Weights, their copies in the compute type, the optimizers' moments, and averages."""
    gradients: int
    activations: int
    """Tensors that the forward pass through all blocks saves."""
    head: int
    """Logits, their gradients, and the head's gradient before accumulation."""
    backward: int
    """Gradients inside one block's backward pass."""
    update: int
    """Temporaries of an optimizer step."""

    @property
    def peak(self) -> int:
        passing = self.activations + max(self.head, self.backward)
        return self.states + self.gradients + max(passing, self.update)

    def as_json(self) -> dict[str, int]:
        """The parts by name."""
        return asdict(self)


def memory_of(
    config: Config,
    sizes: Sizes,
    counts: Mapping[str, int],
    rows: int,
    fused: Collection[str] = (),
    ranks: int = 1,
) -> Memory:
    """Estimate for one rank; `counts` are parameters by label, `rows` the rows of one pass.

    `fused` lists the places with a fused kernel: loss, qkv, products, muon. With several ranks,
    each holds its shard of the moments, and its shard of the reduced gradients in addition to its
    local gradients.
    """
    muon = config.optimizer.muon is not None
    weights, moments = weight_bytes(config, counts), moment_bytes(config, counts)
    stream = rows * sizes.context * sizes.width * compute_bytes(config)
    eager = 1.0 if config.system.compile else EAGER_FACTOR
    return Memory(
        states=weights
        + copied_bytes(config, counts)
        + moments // ranks
        + average_bytes(config, counts)
        + backup_bytes(config, counts),
        gradients=weights if ranks == 1 else weights + weights // ranks,
        activations=round(eager * stream * block_streams(config, sizes, fused)),
        head=_head(config, sizes, rows, fused),
        backward=_backward(config, sizes, rows, fused),
        update=MUON_TEMPORARY_BYTES * _largest_stack(config, sizes) // ranks if muon else 0,
    )


def weight_bytes(config: Config, counts: Mapping[str, int]) -> int:
    """All parameters, with embedding tables in the compute type."""
    tables = sum(counts.get(label, 0) for label in TABLES)
    return tables * compute_bytes(config) + (sum(counts.values()) - tables) * MASTER_BYTES


def moment_bytes(config: Config, counts: Mapping[str, int]) -> int:
    """Moments of all ranks: two per parameter, one per matrix under Muon."""
    muon = config.optimizer.muon is not None
    return 2 * weight_bytes(config, counts) - MASTER_BYTES * counts.get("matrices", 0) * muon


def average_bytes(config: Config, counts: Mapping[str, int]) -> int:
    """Averages of all parameters (trick `weight_average`), replicated on every rank."""
    return sum(counts.values()) * MASTER_BYTES * (config.optimizer.weight_average is not None)


def backup_bytes(config: Config, counts: Mapping[str, int]) -> int:
    """Backup of the training weights while an evaluation uses averages."""
    return weight_bytes(config, counts) * (config.optimizer.weight_average is not None)


def copied_bytes(config: Config, counts: Mapping[str, int]) -> int:
    """Copies of weights for matrix products: in the compute type, or in fp8."""
    compute = compute_bytes(config)
    in_fp8 = {"matrices": attention_in_fp8(config), "head": head_in_fp8(config)}
    sizes = {label: 1 if in_fp8.get(label) else compute for label in counts if label not in TABLES}
    return sum(counts[label] * size for label, size in sizes.items() if size < MASTER_BYTES)


def block_streams(config: Config, sizes: Sizes, fused: Collection[str] = ()) -> int:
    """Streams that all blocks save together, compiled."""
    recomputed = "products" in fused or mlp_in_fp8(config)
    each = STREAMS_RESIDUAL if recomputed else STREAMS_RESIDUAL + STREAMS_NORMED
    mixed = STREAMS_MIXED if config.model.residual_scalars is not None else 0
    once = STREAMS_BIGRAM if config.model.bigram_hash_embedding is not None else 0
    once += STREAMS_MUDD * len(mudd_places(config, sizes.layers))
    mlp = each + (STREAMS_MLP // 2 if recomputed else STREAMS_MLP)
    attentions = [
        each + _attention_streams(config, sizes, layer, fused)
        for layer, attends in enumerate(sizes.attentions)
        if attends
    ]
    return sum(attentions) + mlp * sum(sizes.mlps) + mixed * sizes.layers + once


def _attention_streams(config: Config, sizes: Sizes, layer: int, fused: Collection[str]) -> int:
    model = config.model
    saved = STREAMS_ATTENTION + (STREAMS_FP8 if attention_in_fp8(config) else 0)
    if model.xsa or layer in learnable_xsa_layers(config, sizes):
        saved += STREAMS_XSA
    elif model.sparse_attention_gate is not None:
        saved += STREAMS_GATE
    if "qkv" in fused:
        return saved
    saved += STREAMS_ROTATED if model.rotary is not None or model.qk_norm is not None else 0
    has_table = model.value_embeddings is not None and has_value_embedding(layer, sizes.layers)
    return saved + (STREAMS_VALUE if has_table else 0)


def _backward(config: Config, sizes: Sizes, rows: int, fused: Collection[str]) -> int:
    stream = rows * sizes.context * sizes.width * compute_bytes(config)
    fp8 = mlp_in_fp8(config)
    if "products" not in fused or fp8:
        streams = STREAMS_BACKWARD_FP8 if fp8 else STREAMS_BACKWARD
        return round(stream * streams * (1.0 if config.system.compile else EAGER_FACTOR))
    read_by_all = (config.model.residual_scalars, config.model.bigram_hash_embedding)
    shared = STREAMS_SHARED * sizes.layers * sum(trick is not None for trick in read_by_all)
    return stream * (STREAMS_BACKWARD_FUSED + shared) + _head(config, sizes, rows, fused)


def compute_bytes(config: Config) -> int:
    """Bytes per number of the compute type."""
    return 2 if config.system.precision == "bf16" else 4


def _head(config: Config, sizes: Sizes, rows: int, fused: Collection[str]) -> int:
    tokens = rows * sizes.context
    gradients = sizes.width * (sizes.vocab * MASTER_BYTES + tokens * compute_bytes(config))
    is_bf16 = config.system.precision == "bf16"
    compact = "loss" in fused or (config.system.compile and is_bf16)
    logit_bytes = COMPILED_LOGIT_BYTES if compact else EAGER_LOGIT_BYTES
    if head_in_fp8(config):
        logit_bytes += FP8_LOGIT_BYTES
    at_once = min(tokens, HEAD_CHUNK_TOKENS) if "loss" in fused else tokens
    return at_once * sizes.vocab * logit_bytes + gradients


def _largest_stack(config: Config, sizes: Sizes) -> int:
    """Elements of Muon's largest stack of equal matrices: up or down of all MLPs, up and gate of
    SwiGLU, or the four matrices of all attentions."""
    matrices = 2 if config.model.activation == "swiglu" else 1
    mlps = matrices * mlp_width(config, sizes.width) * sizes.width * sum(sizes.mlps)
    return max(mlps, 4 * sizes.width**2 * sum(sizes.attentions))
