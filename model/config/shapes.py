"""Sizes of a model by formula: width, heads, windows, rows of tables. No torch.

T tokens, D width, H heads, K head width, L layers, V padded vocabulary.
"""

from dataclasses import dataclass

from model.config import BigramHashEmbedding, Config, MuddGates
from model.config.dropped_layers import without_attention, without_mlp

VOCAB_MULTIPLE = 64  # padding for full tiles in the head's matmul
WINDOW_MULTIPLE = 128  # whole tiles of the attention kernels
SWIGLU_MULTIPLE = 16  # rows of whole 16 bytes, also in 8-bit formats
TRAINED_SPECIAL_TOKENS = 9  # at the end of a trained vocabulary, BOS first
FP8_MULTIPLE = 16  # sides of an fp8 product: rows of whole 16 bytes
FP8_MIN_SIDE = 128  # smaller products gain nothing (nanochat, torchao)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes derived from the dial and the model section."""

    layers: int
    width: int
    heads: int
    head_width: int
    context: int
    vocab: int
    """V: rows of the tables."""
    windows: tuple[int, ...]
    """Per layer: a query sees itself and this many previous keys; `context` means all. 0 for a
    layer without attention (trick `dropped_layers`)."""
    mlps: tuple[bool, ...]
    """Per layer: whether it has an MLP."""

    @property
    def attentions(self) -> tuple[bool, ...]:
        """Per layer: whether it has attention."""
        return tuple(window > 0 for window in self.windows)


def sizes_of(config: Config, depth: int | None = None) -> Sizes:
    """Sizes at the configured depth, or at another `depth` with the dial's width."""
    model = config.model
    layers = config.dial.depth if depth is None else depth
    own_width = model.width if depth is None else None
    width = own_width or round_up(64 * layers, model.head_width)
    return Sizes(
        layers=layers,
        width=width,
        heads=width // model.head_width,
        head_width=model.head_width,
        context=model.context_tokens,
        vocab=round_up(model.vocab_size, VOCAB_MULTIPLE),
        windows=windows_of(config, layers),
        mlps=tuple(layer not in without_mlp(config) for layer in range(layers)),
    )


def windows_of(config: Config, layers: int, long_tokens: int | None = None) -> tuple[int, ...]:
    """Window of each layer in tokens. If the long window is reduced to `long_tokens`, the short
    window is at most half of it, in whole tiles."""
    full, windows = config.model.context_tokens, config.model.windows
    dropped = without_attention(config, layers)
    attending = [layer for layer in range(layers) if layer not in dropped]
    if windows is None:
        return tuple(full if layer in attending else 0 for layer in range(layers))
    short = windows.short_tokens or round_up(-(-full // 4), WINDOW_MULTIPLE)
    if long_tokens is not None and long_tokens < full:
        half = max(WINDOW_MULTIPLE, long_tokens // 2 // WINDOW_MULTIPLE * WINDOW_MULTIPLE)
        full, short = long_tokens, min(short, half, long_tokens)
    tiled = [windows.pattern[i % len(windows.pattern)] for i in range(layers)]
    lengths = [full if letter == "L" else short for letter in tiled]
    if attending:
        lengths[attending[-1]] = full
    return tuple(lengths[layer] if layer in attending else 0 for layer in range(layers))


def has_value_embedding(layer: int, layers: int) -> bool:
    """Whether a layer has a value embedding: every other layer, including the last."""
    return (layers - 1 - layer) % 2 == 0


def paired_layers(config: Config, sizes: Sizes) -> tuple[bool, ...]:
    """Per layer: whether its heads attend in pairs (trick `paired_heads`)."""
    paired = config.model.paired_heads
    short = [i for i, window in enumerate(sizes.windows) if 0 < window < sizes.context]
    chosen = short[:: paired.every] if paired is not None else []
    return tuple(layer in chosen for layer in range(sizes.layers))


@dataclass(frozen=True, kw_only=True)
class MuddPlace:
    """A place where trick `mudd_connections` mixes in earlier streams."""

    layer: int
    """Before this layer; the number of layers means before the head."""
    sources: tuple[int, ...]
    """Layers whose outputs are mixed in, in addition to the first layer's input."""
    in_layer: bool
    """Whether a layer follows: then values also get shares, and the stream a share of itself."""

    @property
    def shares(self) -> int:
        """Number of shares per token."""
        each = 1 + len(self.sources)
        return 2 * (each + 1) if self.in_layer else each


def mudd_places(config: Config, layers: int) -> tuple[MuddPlace, ...]:
    """The places of trick `mudd_connections`, in order. The output directly before a place is its
    stream and not a source. The head also uses the last layer's input."""
    if (mudd := config.model.mudd_connections) is None:
        return ()
    sources = mudd.sources if mudd.sources is not None else (3 * layers // 11, 7 * layers // 11)
    at = mudd.layers if mudd.layers is not None else (layers - 1,)
    places = {layer: {source for source in sources if source < layer - 1} for layer in at}
    places[layers] = {source for source in sources if source < layers - 1} | {layers - 2}
    return tuple(
        MuddPlace(layer=layer, sources=tuple(sorted(chosen)), in_layer=layer < layers)
        for layer, chosen in places.items()
    )


def mudd_gates_from(settings: MuddGates, layers: int) -> int:
    """The layer whose input computes the late gates of trick `mudd_gates`."""
    return max(1, 4 * layers // 11) if settings.from_layer is None else settings.from_layer


def mudd_gates_of(config: Config, layers: int) -> tuple[tuple[str, ...], ...]:
    """Per layer: the factors that trick `mudd_gates` computes: x0, bigrams, skip."""
    model = config.model
    fixed = [
        *(["x0"] if model.residual_scalars is not None else []),
        *(["bigrams"] if model.bigram_hash_embedding is not None else []),
    ]
    late = ["skip"] if model.unet_skips is not None else []
    first_skip = layers - layers // 2
    return tuple(tuple(fixed + (late if i >= first_skip else [])) for i in range(layers))


def bos_of(config: Config) -> int | None:
    """The BOS token of trick `document_mask`; None if it is off or no rule applies."""
    mask, vocab = config.model.document_mask, config.model.vocab_size
    if mask is None or mask.bos_id is not None:
        return None if mask is None else mask.bos_id
    from_end = {"train": TRAINED_SPECIAL_TOKENS, "gpt2": 1}.get(config.data.tokenizer)
    return None if from_end is None else vocab - from_end


def learnable_xsa_layers(config: Config, sizes: Sizes) -> tuple[int, ...]:
    """Layers with learned strengths (trick `learnable_xsa`)."""
    if (settings := config.model.learnable_xsa) is None:
        return ()
    if settings.layers is not None:
        return settings.layers
    paired = paired_layers(config, sizes)
    return tuple(i for i in range(sizes.layers) if sizes.attentions[i] and not paired[i])


def bigram_rows(settings: BigramHashEmbedding, sizes: Sizes) -> int:
    """Rows of the table of token pairs; the last is for the first token of a row."""
    return settings.table_multiple * sizes.vocab


def mlp_width(config: Config, width: int) -> int:
    """Channels of the MLP's hidden layer.

    SwiGLU has three matrices instead of two, so 8 D / 3 channels instead of 4 D result in equal
    parameters.
    """
    if config.model.activation != "swiglu":
        return 4 * width
    return max(1, round(8 * width / 3 / SWIGLU_MULTIPLE)) * SWIGLU_MULTIPLE


def fits_fp8(rows: int, columns: int) -> bool:
    """Whether products with a weight of this shape can use fp8."""
    return rows % FP8_MULTIPLE == columns % FP8_MULTIPLE == 0 and min(rows, columns) >= FP8_MIN_SIDE


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is at least `value`."""
    return -(-value // multiple) * multiple
