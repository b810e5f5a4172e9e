"""How much memory a run will need, by parts, from its sizes alone. No torch.

The peak is what stays for the whole run (`states`, `gradients`) plus the largest of what comes and
goes: the activations of all blocks with either the head or the backward pass of one block on top,
or the optimizer's own temporaries when no activation lives.

The unit of activations is one stream: tokens x D in the compute type. Which streams a block keeps
for its backward pass was counted in the graphs that torch's partitioner makes, forward and
backward, of `speedrun` and `gpt2`, and agrees within 3 % with two peaks measured on an H100
(LOG.md, 2026-11-22). Fused kernels (model/kernels) keep less; which can run is known only on the
machine, so `describe` tells both: with torch's own, which need the most, and with all that the
configuration allows. Code that is not compiled keeps more, by `EAGER_FACTOR`. The CUDA context, the
allocator's fragmentation and the process itself (on a CPU) are not in these figures.

B rows, T tokens a row, D width, L layers, V padded vocabulary.
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

# streams (tokens x D) that one block keeps for its backward pass; the first two for attention and
# for the MLP, where it has them
STREAMS_RESIDUAL = 1  # x before it
STREAMS_NORMED = 1  # the same after its norm: the input of its projections; fused, fp8: made again
STREAMS_ATTENTION = 4  # q, k, v and attention's output
STREAMS_MLP = 8  # 4 D wide, before and after its activation; fused, fp8: before
STREAMS_FP8 = 1  # fp8: what attention's projections read, two of half a stream
STREAMS_MIXED = 1  # residual_scalars: the stream before it is mixed with the embedding
STREAMS_TURNED = 2  # rotary and qk_norm: q and k before them; fused: none
STREAMS_VALUE = 1  # value_embeddings, every other layer: v before the table is added; fused: none
STREAMS_XSA = 2  # xsa, learnable_xsa: attention's output before it, and the values' directions
STREAMS_GATE = 1  # sparse_attention_gate: attention's output before it; with xsa kept already
STREAMS_MUDD = 2  # mudd_connections, at each place: the stream before it, and the values
STREAMS_BIGRAM = 2  # bigram_hash_embedding, once: the rows looked up, and their signs
# the gradients that live at once while one block runs backward: the MLP's hidden one (4 D), the
# stream's before and after
STREAMS_BACKWARD = 6
# fused: also q, k, v and the hidden layer again, and the gradient of x0 (and of the rows of token
# pairs) that each layer leaves. As
# measured, what the head had is still there when they come (LOG.md)
STREAMS_BACKWARD_FUSED = 18
STREAMS_SHARED = 1
# fp8: also the hidden gradient in 8 bits, as it is and transposed, and the hidden layer transposed
STREAMS_BACKWARD_FP8 = STREAMS_BACKWARD + 6

EAGER_FACTOR = 1.4  # uncompiled speedrun in bf16 keeps norms in fp32 too: 26.1 streams for 19.5
HEAD_CHUNK_TOKENS = 16_384  # rows of logits that the fused head has at a time: 1 GB (LOG.md)
COMPILED_LOGIT_BYTES = 2  # one bf16 tensor, of the logits and then of their gradients
FP8_LOGIT_BYTES = 2  # their gradients in 8 bits, as they are and transposed
EAGER_LOGIT_BYTES = 16  # fp32: the logit, its softcap, its log-softmax, its gradient

TABLES = ("embedding", "value_tables", "bigram_table")
MASTER_BYTES = 4  # weights in fp32, and so their gradients and moments
MUON_TEMPORARY_BYTES = 22  # a matrix element in an update: gradient, iterates in bf16, new weight


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes by part."""

    states: int
    """Weights, their copies in the compute type, the optimizers' moments, and averages."""
    gradients: int
    activations: int
    """What the forward pass through all blocks keeps."""
    head: int
    """Logits and their gradients, and the gradient of the head's table before it is added."""
    backward: int
    """Gradients inside the one block that is running backward."""
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
    """Estimate for one rank; `counts` are the parameters by label, `rows` those of one pass.

    `fused` names the places with a fused kernel: loss, qkv, products, muon. Of several ranks each
    has its share of the moments, and beside its own gradients its share of all ranks' sum.
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
        + kept_bytes(config, counts),
        gradients=weights if ranks == 1 else weights + weights // ranks,
        activations=round(eager * stream * block_streams(config, sizes, fused)),
        head=_head(config, sizes, rows, fused),
        backward=_backward(config, sizes, rows, fused),
        update=MUON_TEMPORARY_BYTES * _largest_stack(config, sizes) // ranks if muon else 0,
    )


def weight_bytes(config: Config, counts: Mapping[str, int]) -> int:
    """All parameters, embeddings' tables in the compute type."""
    tables = sum(counts.get(label, 0) for label in TABLES)
    return tables * compute_bytes(config) + (sum(counts.values()) - tables) * MASTER_BYTES


def moment_bytes(config: Config, counts: Mapping[str, int]) -> int:
    """The optimizers' moments over all ranks: two of each parameter, one of Muon's matrices."""
    muon = config.optimizer.muon is not None
    return 2 * weight_bytes(config, counts) - MASTER_BYTES * counts.get("matrices", 0) * muon


def average_bytes(config: Config, counts: Mapping[str, int]) -> int:
    """Averages of all parameters (trick `weight_average`); every rank has them all."""
    return sum(counts.values()) * MASTER_BYTES * (config.optimizer.weight_average is not None)


def kept_bytes(config: Config, counts: Mapping[str, int]) -> int:
    """The weights of training, while an evaluation has others in their place."""
    return weight_bytes(config, counts) * (config.optimizer.weight_average is not None)


def copied_bytes(config: Config, counts: Mapping[str, int]) -> int:
    """Copies of weights that their products read: in the compute type, or in 8 bits."""
    compute = compute_bytes(config)
    low = {"matrices": attention_in_fp8(config), "head": head_in_fp8(config)}
    sizes = {label: 1 if low.get(label) else compute for label in counts if label not in TABLES}
    return sum(counts[label] * size for label, size in sizes.items() if size < MASTER_BYTES)


def block_streams(config: Config, sizes: Sizes, fused: Collection[str] = ()) -> int:
    """Streams that all blocks keep together, compiled."""
    made_again = "products" in fused or mlp_in_fp8(config)
    each = STREAMS_RESIDUAL if made_again else STREAMS_RESIDUAL + STREAMS_NORMED
    mixed = STREAMS_MIXED if config.model.residual_scalars is not None else 0
    once = STREAMS_BIGRAM if config.model.bigram_hash_embedding is not None else 0
    once += STREAMS_MUDD * len(mudd_places(config, sizes.layers))
    mlp = each + (STREAMS_MLP // 2 if made_again else STREAMS_MLP)
    attentions = [
        each + _attention_streams(config, sizes, layer, fused)
        for layer, attends in enumerate(sizes.attentions)
        if attends
    ]
    return sum(attentions) + mlp * sum(sizes.mlps) + mixed * sizes.layers + once


def _attention_streams(config: Config, sizes: Sizes, layer: int, fused: Collection[str]) -> int:
    model = config.model
    kept = STREAMS_ATTENTION + (STREAMS_FP8 if attention_in_fp8(config) else 0)
    if model.xsa or layer in learnable_xsa_layers(config, sizes):
        kept += STREAMS_XSA
    elif model.sparse_attention_gate is not None:
        kept += STREAMS_GATE
    if "qkv" in fused:
        return kept
    kept += STREAMS_TURNED if model.rotary is not None or model.qk_norm is not None else 0
    has_table = model.value_embeddings is not None and has_value_embedding(layer, sizes.layers)
    return kept + (STREAMS_VALUE if has_table else 0)


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
    """Bytes of a number in the compute type."""
    return 2 if config.system.precision == "bf16" else 4


def _head(config: Config, sizes: Sizes, rows: int, fused: Collection[str]) -> int:
    tokens = rows * sizes.context
    gradients = sizes.width * (sizes.vocab * MASTER_BYTES + tokens * compute_bytes(config))
    low = config.system.precision == "bf16"
    compact = "loss" in fused or (config.system.compile and low)
    logit_bytes = COMPILED_LOGIT_BYTES if compact else EAGER_LOGIT_BYTES
    if head_in_fp8(config):
        logit_bytes += FP8_LOGIT_BYTES
    at_once = min(tokens, HEAD_CHUNK_TOKENS) if "loss" in fused else tokens
    return at_once * sizes.vocab * logit_bytes + gradients


def _largest_stack(config: Config, sizes: Sizes) -> int:
    """Elements of the largest stack of equal matrices that Muon steps at once: up or down of all
    MLPs, up and gate of SwiGLU, or the four of all attentions."""
    matrices = 2 if config.model.activation == "swiglu" else 1
    mlps = matrices * mlp_width(config, sizes.width) * sizes.width * sum(sizes.mlps)
    return max(mlps, 4 * sizes.width**2 * sum(sizes.attentions))
