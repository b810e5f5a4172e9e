"""Every parameter of a configuration: name, shape, label, initial distribution. No torch.

This is the only declaration of the model's parameters: `model.gpt` builds its tensors from it, and
`describe`, FLOPs per token and memory estimates count with it. H heads, K head width, D width, L
layers, V padded vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from model.config import Config
from model.config.shapes import (
    Sizes,
    bigram_rows,
    has_value_embedding,
    learnable_xsa_layers,
    mlp_width,
    mudd_gates_from,
    mudd_gates_of,
    mudd_places,
)

LABELS = (
    "matrices",
    "head",
    "embedding",
    "positions",
    "norms",
    "biases",
    "value_tables",
    "resid_scalars",
    "x0_scalars",
    "smear",
    "backout",
    "attention_gates",
    "xsa_strengths",
    "bigram_table",
    "bigram_scalars",
    "mudd",
    "mudd_gates",
)
GPT2_STD = 0.02
TABLE = {"lookup": True, "in_compute_type": True}
GATE = 0.02  # upper bound of initial gate weights


@dataclass(frozen=True)
class Normal:
    """N(0, std^2)."""

    std: float


@dataclass(frozen=True)
class Uniform:
    """From [low, high)."""

    low: float
    high: float


@dataclass(frozen=True)
class Constant:
    """A constant."""

    value: float


@dataclass(frozen=True)
class Linspace:
    """Evenly spaced values of a vector, including both ends."""

    first: float
    last: float


Init = Normal | Uniform | Constant | Linspace
ZERO, ONE = Constant(0.0), Constant(1.0)


@dataclass(frozen=True)
class Parameter:
    """One tensor of the model."""

    name: str
    shape: tuple[int, ...]
    label: str
    """Selects the optimizer settings."""
    init: Init
    lookup: bool = False
    """A lookup table, without a matmul."""
    in_compute_type: bool = False
    """Stored in the compute type; otherwise in fp32."""

    @property
    def count(self) -> int:
        return prod(self.shape)

    @property
    def in_matmul(self) -> bool:
        """Whether it counts in the matmul FLOPs; biases and norms of blocks count too, as in the
        scaling rules."""
        return not self.lookup and (self.name.startswith("blocks.") or len(self.shape) == 2)


def parameters(config: Config, sizes: Sizes) -> Iterator[Parameter]:
    """All parameters in the order of the model's modules."""
    model, width, layers = config.model, sizes.width, sizes.layers
    inits = _Inits(config, sizes)
    shape = (sizes.vocab, width)
    yield Parameter("embedding.weight", shape, "embedding", inits.embedding, **TABLE)
    if model.rotary is None:
        shape = (sizes.context, width)
        yield Parameter("positions.weight", shape, "positions", Normal(GPT2_STD), lookup=True)
    if (bigram := model.bigram_hash_embedding) is not None:
        at, shape = "bigram_hash_embedding", (bigram_rows(bigram, sizes), width)
        yield Parameter(f"{at}.table", shape, "bigram_table", ZERO, **TABLE)
        yield Parameter(f"{at}.factors", (layers,), "bigram_scalars", Constant(bigram.init))
    if model.smear is not None:
        yield Parameter("smear.factor", (1,), "smear", ZERO)
        yield Parameter("smear.gate", (1, model.smear.gate_channels), "smear", Uniform(0.0, GATE))
    if (scalars := model.residual_scalars) is not None:
        resid = Linspace(scalars.resid_first, scalars.resid_last)
        x0 = Linspace(scalars.x0_first, scalars.x0_last)
        yield Parameter("residual_scalars.resid", (layers,), "resid_scalars", resid)
        yield Parameter("residual_scalars.x0", (layers,), "x0_scalars", x0)
    if model.unet_skips is not None:
        skip = Constant(model.unet_skips.init)
        yield Parameter("unet_skips.factors", (layers // 2,), "x0_scalars", skip)
    if model.backout is not None:
        yield Parameter("backout.factor", (1,), "backout", Constant(model.backout.init))
    if model.mudd_connections is not None:
        yield from _mudd(config, sizes)
    for layer in range(layers):
        yield from _block(config, sizes, layer, inits)
    if model.norm == "layernorm":
        yield from _norm("final_norm", width)
    if not model.tied_head:
        yield Parameter("head.weight", (sizes.vocab, width), "head", inits.head)


def _block(config: Config, sizes: Sizes, layer: int, inits: "_Inits") -> Iterator[Parameter]:
    if sizes.attentions[layer]:
        yield from _attention(config, sizes, layer, inits)
    if sizes.mlps[layer]:
        yield from _mlp(config, sizes, layer, inits)


def _attention(config: Config, sizes: Sizes, layer: int, inits: "_Inits") -> Iterator[Parameter]:
    model, width, at = config.model, sizes.width, f"blocks.{layer}"
    if model.norm == "layernorm":
        yield from _norm(f"{at}.attention_norm", width)
    for name in ("query", "key", "value"):
        yield from _linear(f"{at}.attention.{name}", width, width, model.bias, inits.inner)
    yield from _linear(f"{at}.attention.out", width, width, model.bias, inits.residual)
    if (values := model.value_embeddings) is not None and has_value_embedding(layer, sizes.layers):
        bound = (3 / width) ** 0.5
        init, shape = Uniform(-bound, bound), (sizes.vocab, sizes.heads * sizes.head_width)
        at_ve = f"{at}.attention.value_embedding"
        yield Parameter(f"{at_ve}.table", shape, "value_tables", init, **TABLE)
        gate = (sizes.heads, values.gate_channels)
        yield Parameter(f"{at_ve}.gate", gate, "matrices", Uniform(0.0, GATE))
    if model.sparse_attention_gate is not None:
        gate = (sizes.heads, model.sparse_attention_gate.gate_channels)
        yield Parameter(f"{at}.attention.sparse_gate.gate", gate, "attention_gates", ZERO)
    if (xsa := model.learnable_xsa) is not None and layer in learnable_xsa_layers(config, sizes):
        at_xsa = f"{at}.attention.learnable_xsa"
        yield Parameter(f"{at_xsa}.strengths", (sizes.heads,), "xsa_strengths", Constant(xsa.init))


def _mlp(config: Config, sizes: Sizes, layer: int, inits: "_Inits") -> Iterator[Parameter]:
    model, width, at = config.model, sizes.width, f"blocks.{layer}"
    hidden = mlp_width(config, width)
    if model.norm == "layernorm":
        yield from _norm(f"{at}.mlp_norm", width)
    yield from _linear(f"{at}.mlp.up", width, hidden, model.bias, inits.up)
    if model.activation == "swiglu":
        yield from _linear(f"{at}.mlp.swiglu.gate", width, hidden, model.bias, inits.up)
    yield from _linear(f"{at}.mlp.down", hidden, width, model.bias, inits.residual)


def _mudd(config: Config, sizes: Sizes) -> Iterator[Parameter]:
    mudd, at, width = config.model.mudd_connections, "mudd_connections", sizes.width
    assert mudd is not None
    for place in mudd_places(config, sizes.layers):
        name = f"{at}.places.{place.layer}"
        yield from _network(name, width, mudd.hidden, place.shares, "mudd")
    if mudd.gates is not None:
        first = mudd_gates_from(mudd.gates, sizes.layers)
        counts = [len(factors) for factors in mudd_gates_of(config, sizes.layers)]
        for name, count in (("early", sum(counts[:first])), ("late", sum(counts[first:]))):
            name = f"{at}.gates.{name}"
            yield from _network(name, width, mudd.gates.hidden, count, "mudd_gates")
        yield Parameter(f"{at}.gates.scale", (1,), "mudd_gates", Constant(mudd.gates.scale))


def _network(name: str, width: int, hidden: int, out: int, label: str) -> Iterator[Parameter]:
    """Two layers with initial output 0."""
    bound = width**-0.5
    yield Parameter(f"{name}.up", (hidden, width), label, Uniform(-bound, bound))
    yield Parameter(f"{name}.down", (out, hidden), label, ZERO)
    yield Parameter(f"{name}.bias", (out,), label, ZERO)


def _norm(name: str, width: int) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (width,), "norms", ONE)
    yield Parameter(f"{name}.bias", (width,), "norms", ZERO)


def _linear(name: str, columns: int, rows: int, bias: bool, init: Init) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (rows, columns), "matrices", init)
    if bias:
        yield Parameter(f"{name}.bias", (rows,), "biases", ZERO)


class _Inits:
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
            self.residual = ZERO
            self.head = Normal(0.001)
            if not config.model.tied_head:  # a tied table has the head's scale
                self.embedding = Normal(0.8)
