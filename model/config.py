"""The configuration of one run: every field, its default and what it means.

The trainer owns its configuration; the harness carries overrides here and keeps what comes back. A
field that is `null` by default is either a trick that is off or a value that the dial derives
(`model.derive`), and its sentence says which. The bare default is GPT-2 as published in 2019; the
reference recipe is `ablations/bases/speedrun.yaml`. A default never changes: identities leave out
whatever equals it (`model.identity`), so a changed default is a new field or a new protocol.

Reading and checking stand in `model.configfile`, rules between fields in `model.derive`.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Dial:
    """One dial, `depth`, sets width, heads, batch, learning rates, decay and horizon."""

    depth: int = 12
    """Number of blocks L."""
    ratio: float = 12.0
    """Planned training tokens per scaling parameter N."""
    steps: int | None = None
    """Optimizer steps; wins over the other horizons. Null: as many as the budget that is set holds,
    or else planned tokens over batch, rounded down."""
    tokens: int | None = None
    """Horizon in training tokens. Null: another horizon, or the plan."""
    flops: float | None = None
    """Horizon in training FLOPs (FLOPs a token of `derived` times tokens). Null: another horizon,
    or the plan."""
    train_time_s: float | None = None
    """Horizon in seconds of training, as the metric of this name counts them; the plan stays the
    upper bound (model/horizon.py says what that means for studies). Null: another horizon, or the
    plan."""
    batch_tokens: int | None = None
    """Tokens a step over all ranks. Null: the power of two nearest to 2^19 r^0.383."""
    params: int | None = None
    """N that the plan is made for. Null: this model's own N (block parameters and head)."""
    reference_params: int | None = None
    """N of the same recipe at depth 12, so r = params / reference_params. Null: computed."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Trick `windows`: alternating short and long attention windows (model/attention)."""

    pattern: str = "SSSL"
    """Tiled over the layers; the last layer is always L. S short window, L full context."""
    short_tokens: int | None = None
    """The short window. Null: a quarter of the context, rounded up to a multiple of 128."""


@dataclass(frozen=True, kw_only=True)
class HalfRotary:
    """Trick `half_rotary`: half of the channels stand still (model/tricks/half_rotary.py)."""

    base: float = 1024.0
    """The slowest pair that turns takes this many times as long for a turn as the fastest; used in
    place of rotary.base."""


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
    """Trick `smear`: a gated share of the token before (model/tricks/smear.py)."""

    gate_channels: int = 24
    """The gate reads this many leading channels."""


@dataclass(frozen=True, kw_only=True)
class BigramHashEmbedding:
    """Trick `bigram_hash_embedding`: a hashed table of token pairs
    (model/tricks/bigram_hash_embedding.py)."""

    table_multiple: int = 5
    """Rows of the table, in padded vocabularies."""
    init: float = 0.1
    """Initial factor of the looked-up row before every layer."""
    sign_rows: int | None = 8192
    """Rows of random signs that tell apart the pairs of one row. Null: no signs."""


@dataclass(frozen=True, kw_only=True)
class SparseAttentionGate:
    """Trick `sparse_attention_gate`: a gate on each head's output
    (model/tricks/sparse_attention_gate.py)."""

    gate_channels: int = 12
    """The gate of each head reads this many leading channels."""


@dataclass(frozen=True, kw_only=True)
class PairedHeads:
    """Trick `paired_heads`: two heads in one softmax (model/tricks/paired_heads.py)."""

    every: int = 2
    """Of the layers with a short window, the first is paired and then every n-th."""


@dataclass(frozen=True, kw_only=True)
class ValueEmbeddings:
    """Trick `value_embeddings`: token tables added to the values
    (model/tricks/value_embeddings.py)."""

    gate_channels: int = 12
    """The gate of each head reads this many leading channels."""
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
class Fp8:
    """Trick `fp8`: products of Linears in 8 bits while training (model/tricks/fp8.py)."""

    head: bool = True
    """Whether those of the head too."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The architecture."""

    context_tokens: int = 1024
    """T, tokens a row."""
    vocab_size: int = 32_768
    """V, tokens of the vocabulary with its specials; tables are padded to a multiple of 64."""
    head_width: int = 64
    """K, channels a head."""
    width: int | None = None
    """D. Null: 64 times depth, rounded up to a multiple of head_width."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """LayerNorm with weight and bias, or RMSNorm without parameters, which also follows the
    embedding."""
    activation: Literal["gelu", "relu2", "leaky_relu2", "swiglu"] = "gelu"
    """Of the MLP, whose hidden width is 4 D; with `swiglu` it is 8 D / 3, to the nearest multiple
    of 16, which keeps the MLP's parameters."""
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
    sparse_attention_gate: SparseAttentionGate | None = None
    """Gates on the outputs of heads. Null: none."""
    xsa: bool = False
    """Whether a head's output loses its part along the token's own value (model/tricks/xsa.py)."""
    partial_key_offset: bool = False
    """Whether layers that see the whole context take the still channels of their keys from the
    token before (model/tricks/partial_key_offset.py)."""
    paired_heads: PairedHeads | None = None
    """Heads in pairs. Null: every head attends to its own keys."""
    softcap: Softcap | None = None
    """Bounded logits. Null: logits as they are."""
    logit_rescale: LogitRescale | None = None
    """Logits through a shifted sigmoid. Null: logits as they are."""
    smear: Smear | None = None
    """Share of the token before. Null: none."""
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
    fp8: Fp8 | None = None
    """Products of Linears in 8 bits. Null: in the compute type."""


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW settings of one label. The defaults are those that nanoGPT trains GPT-2 with."""

    lr: float = 6e-4
    """Peak learning rate before scaling."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    decay: float = 0.1
    """Decoupled weight decay, multiplied by the learning rate; constant over the run."""
    batch_scaled: bool = False
    """Whether lr is multiplied by sqrt(batch_tokens / 2^19)."""
    width_scaled: bool = False
    """Whether lr is multiplied by (D / 768)^-0.5."""


@dataclass(frozen=True, kw_only=True)
class NorMuon:
    """Trick `muon_normuon`: a second moment per row or column of the orthogonal update."""

    beta2: float = 0.9
    """Decay of the second moment."""


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Trick `muon`: orthogonalised momentum for the matrices (model/optim/muon.py)."""

    lr: float = 0.02
    """Peak learning rate, times max(1, rows / cols)^0.5 of each matrix."""
    batch_scaled: bool = True
    """Whether lr is multiplied by sqrt(batch_tokens / 2^19)."""
    decay: float = 0.28
    """Weight decay, times sqrt(batch_tokens / 2^19) / r; falls to zero along a cosine."""
    momentum_start: float = 0.85
    """Momentum at step 0."""
    momentum: float = 0.97
    """Momentum after its warm-up."""
    momentum_end: float = 0.90
    """Momentum at the last step, reached linearly over the warm-down."""
    momentum_warmup_steps: int = 400
    """Steps of the momentum's warm-up, which wins over the warm-down."""
    iterations: int = 5
    """Steps of the orthogonalising iteration."""
    orthogonalize: Literal["newton_schulz", "polar_express"] = "newton_schulz"
    """The iteration's coefficients (sub-toggle muon_polar_express)."""
    normuon: NorMuon | None = None
    """Second moments of the update. Null: none."""
    equalize_rows: bool = False
    """MuonEq: rows to equal norms before orthogonalising (sub-toggle muon_equalize_rows)."""
    renormalize: bool = False
    """Muon+: Frobenius norm sqrt(min(m, n)) after orthogonalising (sub-toggle muon_renormalize)."""
    cautious_decay: bool = False
    """Decay only where update and weight agree in sign (sub-toggle muon_cautious_decay)."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """One field a label: every parameter carries exactly one of these labels.

    Labels of GPT-2 itself start at GPT-2's settings. A label that only a trick brings starts at
    the reference recipe's (nanochat at 92d63d4), or where that has no such trick at those it was
    found with, so a trick switched on alone brings its own settings and changes no other.
    """

    muon: Muon | None = None
    """Muon for the label `matrices`. Null: AdamW with the settings of `matrices`."""
    clip: float | None = 1.0
    """Bound on the global gradient norm. Null: no clipping."""
    table_interval_steps: int = 1
    """Embedding and head take a step every n steps, on the gradients of all n (trick
    `tables_every_second_step`)."""
    matrices: AdamW = AdamW()
    """Every 2-D weight in a block, while Muon is off."""
    embedding: AdamW = AdamW()
    """The token table (with a tied head: also the head)."""
    head: AdamW = AdamW()
    """The untied head."""
    positions: AdamW = AdamW()
    """Learned positions."""
    norms: AdamW = AdamW(decay=0.0)
    """Weights and biases of LayerNorms."""
    biases: AdamW = AdamW(decay=0.0)
    """Biases of Linears."""
    value_tables: AdamW = AdamW(
        lr=0.15,
        beta1=0.8,
        beta2=0.995,
        eps=1e-10,
        decay=0.01,
        batch_scaled=True,
        width_scaled=True,
    )
    """Tables of the value embeddings."""
    resid_scalars: AdamW = AdamW(lr=0.005, beta1=0.8, eps=1e-10, decay=0.05, batch_scaled=True)
    """Factors of the residual stream."""
    x0_scalars: AdamW = AdamW(lr=0.5, beta1=0.96, eps=1e-10, decay=0.0, batch_scaled=True)
    """Factors of the embedding and of the U-net skips."""
    smear: AdamW = AdamW(lr=0.2, beta1=0.8, eps=1e-10, decay=0.0)
    """Gate and factor of smear."""
    backout: AdamW = AdamW(lr=0.2, beta1=0.8, eps=1e-10, decay=0.0)
    """Factor of backout."""
    attention_gates: AdamW = AdamW(lr=0.008, beta2=0.99, eps=1e-10, decay=0.0)
    """Gates of the sparse attention gate; modded-nanogpt's settings."""
    bigram_table: AdamW = AdamW(
        lr=0.3,
        beta1=0.8,
        beta2=0.995,
        eps=1e-10,
        decay=0.001,
        batch_scaled=True,
        width_scaled=True,
    )
    """Table of the bigram hash embedding; the reference recipe's for the token table, as nanochat
    trained it."""
    bigram_scalars: AdamW = AdamW(lr=0.008, eps=1e-10, decay=0.0)
    """Factors of the bigram hash embedding; modded-nanogpt's settings."""


@dataclass(frozen=True, kw_only=True)
class Warmdown:
    """Trick `warmdown`: constant learning rate, then linear to its end."""

    fraction: float = 0.65
    """Share of all steps that the linear fall takes."""
    final_lr: float = 0.05
    """Learning rate at the end, as a share of the peak."""


@dataclass(frozen=True, kw_only=True)
class BatchStages:
    """Trick `batch_size_schedule`: the batch grows in equal parts of the run (model/stages.py)."""

    factors: tuple[float, ...] = (0.5, 1.0, 1.5)
    """Batch of each part over the dial's. The default keeps the tokens of the run."""
    lr_factors: tuple[float, ...] = (0.66, 1.0, 1.14)
    """Peak learning rate of each part over the derived one, which is meant for the dial's batch.
    The default is modded-nanogpt's 1 : (16/8)^0.6 : (24/8)^0.5, with 1 where the factor is 1."""


@dataclass(frozen=True, kw_only=True)
class ContextStages:
    """Trick `sequence_length_schedule`: rows are cut into shorter ones at first
    (model/stages.py)."""

    pieces: tuple[int, ...] = (2, 1, 1)
    """Pieces that a row is cut into in each equal part of the run."""


@dataclass(frozen=True, kw_only=True)
class WindowWarmup:
    """Trick `window_warmup_yarn`: attention windows grow over the run, and rotary positions with
    them (model/tricks/window_warmup.py)."""

    shares: tuple[float, ...] = (0.1875, 0.4375, 0.6875)
    """Long window of each equal part of the run over context_tokens, in whole tiles. After the last
    step it is the whole context."""
    first_scale: float = 0.83
    """Attention's scale in the first part over that of model.qk_norm (modded-nanogpt: 0.1 for
    0.12)."""


@dataclass(frozen=True, kw_only=True)
class MultiToken:
    """Trick `multi_token_prediction`: the tokens after the next one count too, less and less
    (model/tricks/multi_token.py)."""

    weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Weight of the next token and of those after it, at the start of the run."""


@dataclass(frozen=True, kw_only=True)
class Untie:
    """Trick `tie_then_untie`: the embedding is the head's table at first (model/optim/tie.py)."""

    fraction: float = 2 / 3
    """Share of all steps after which the two go their own ways."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What changes over a run: the learning rate, shared by all labels, and stages of tricks."""

    warmup_steps: int | None = None
    """Linear warm-up. Null: 5 % of the steps, at most 2,000."""
    cosine_final_lr: float = 0.1
    """End of the cosine as a share of the peak, where no warm-down is set."""
    warmdown: Warmdown | None = None
    """Hold, then fall linearly. Null: a cosine from the end of the warm-up."""
    batch_stages: BatchStages | None = None
    """Growing batch. Null: the dial's batch in every step."""
    context_stages: ContextStages | None = None
    """Shorter rows at first. Null: rows of context_tokens in every step."""
    window_warmup: WindowWarmup | None = None
    """Growing attention windows. Null: those of model.windows in every step."""
    multi_token: MultiToken | None = None
    """Prediction of several tokens. Null: of the next one only."""
    untie: Untie | None = None
    """Embedding and head tied at first. Null: as model.tied_head says, for the whole run."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is read, in which order and with which tokenizer (model/data)."""

    source: str = "python-docs"
    """`python-docs`, or a published data set that `model.data prepare` downloads (`climbmix`,
    `fineweb10B`), or a folder of parquet, jsonl, txt or `.bin` files (its last file is the
    validation split), or a folder that `model.data prepare` wrote. A folder's path is no part of an
    identity."""
    train_files: int | None = None
    """Only the first n training files. Null: all (of climbmix, a number must be set)."""
    tokenizer: str = "train"
    """`train` (a vocabulary of model.vocab_size from all training files; of climbmix, from the
    first 2e9 characters of those asked for), `gpt2`, or a tokenizer file. `.bin` files need
    `gpt2`."""
    order: Literal["seed", "file"] = "seed"
    """Documents shuffled by the seed, or in file order for every seed."""
    cache_dir: str = ".cache/data"
    """Where prepared tokens are kept, and downloads beside them; relative to the checkout. No part
    of an identity."""
    mirror: str | None = None
    """Address to download a published data set's files from. Null: where they were published. No
    part of an identity."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Validation."""

    tokens: int = 1_572_864
    """Validation tokens, rounded down to whole rows (at least one)."""
    every_steps: int | None = None
    """Evaluate every n steps. Null: only at the end."""
    at_start: bool = False
    """Whether to evaluate before the first step too."""


@dataclass(frozen=True, kw_only=True)
class Core:
    """The CORE metric of the model (model/core)."""

    bundle: str | None = None
    """A folder in nanochat's layout: core.yaml, eval_meta_data.csv, eval_data/. Null: the published
    one, downloaded once. Its path is no part of an identity; what it holds is recorded by hash."""
    max_per_task: int | None = None
    """Examples of each task, more than its shots. Null: all."""
    long_prompts: Literal["full", "crop_left"] | None = None
    """Prompts longer than context_tokens: `full` runs the model on all of them, `crop_left` keeps
    the last context_tokens. Null: full with rotary positions, crop_left with learned ones, which
    end there."""
    baselines: Literal["v1", "v2"] = "v1"
    """Table of random baselines: DCLM's first, which nanochat uses, or its present one."""
    every_steps: int | None = None
    """Evaluate every n steps too. Null: only at the end."""


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """When the state of a run is written to its checkpoints/, to be gone on from with --resume. No
    part of an identity: it changes no number of the run. Several ranks write one together, and go
    on from it as many."""

    every_steps: int | None = None
    """Write one every n steps, and at the end. Null: not by steps."""
    every_minutes: float | None = None
    """Write one when so many minutes have passed since the last, and at the end; by the clock of
    rank 0. Null: not by time."""
    at_stop: bool = True
    """Whether a run that is told to leave (SIGTERM, SIGINT, a harness that is gone) writes one."""
    keep: int = 2
    """How many are kept, the newest; one more while it is written. Two, so that a damaged one
    doesn't cost the run."""


@dataclass(frozen=True, kw_only=True)
class System:
    """The machine and how it is used."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is a GPU; the record says what ran."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Compute type. bf16 keeps fp32 master weights, and tables of embeddings in bf16."""
    attention: Literal["auto", "sdpa", "flex", "flash2", "flash3", "flash4"] = "auto"
    """Attention back-end (model/attention); one that is asked for and cannot run stops the run.
    `auto` takes the first that can of flash4, flex, flash2, sdpa; the record says which."""
    loss_kernel: Literal["auto", "torch", "triton"] = "auto"
    """Head, softcap and cross-entropy: left to torch, or in chunks of rows (model/kernels)."""
    qkv_kernel: Literal["auto", "torch", "triton"] = "auto"
    """Rotation and norm of queries and keys: left to torch, or one kernel (model/kernels)."""
    products_kernel: Literal["auto", "torch", "quack"] = "auto"
    """Products of blocks with residual and activation inside, symmetric ones of Muon
    (model/kernels). With model.fp8 on, those of Muon alone."""
    fp8_kernel: Literal["auto", "scaled_mm", "emulated"] = "auto"
    """Products in 8 bits, where model.fp8 asks for them: the GPU's own, or the same values
    multiplied in fp32, which is slow. `auto` is scaled_mm on a GPU, and stops the run where that
    cannot run, and emulated on a CPU."""
    muon_kernel: Literal["auto", "torch", "triton"] = "auto"
    """Muon's elementwise steps: left to torch, or two kernels (model/kernels)."""
    compile: bool = True
    """Whether the model goes through torch.compile."""
    compile_cache_dir: str = ".cache/compile"
    """Where compiled kernels are kept; relative to the checkout. No part of an identity."""
    device_batch_rows: int | None = None
    """Rows a forward pass. Null: all rows of a step, at most 32."""
    fit_memory: bool = False
    """Whether a run takes fewer rows a pass, and more passes, where the GPU's memory cannot hold
    as many. The batch stays as it is; the record says what ran. On a CPU it changes nothing."""
    share_gpu: bool = False
    """Whether to run on a GPU that other processes use; such a speed is no measurement."""
    threads: int | None = None
    """CPU threads. Null: all cores this process may use."""
    calibration_s: float = 2.0
    """Seconds for measuring matmul and copy rates into environment.json; 0 skips it."""


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """Sink: a run of Weights & Biases."""

    project: str = "gpt2-ablations"
    """The project it belongs to."""
    mode: Literal["online", "offline"] = "online"
    """`offline` keeps the run in the run's directory, for `wandb sync`."""


@dataclass(frozen=True, kw_only=True)
class Logging:
    """Where a run's events are shown beside events.jsonl (model/sinks.py). No part of an
    identity."""

    tensorboard: bool = False
    """TensorBoard's event files, in `tensorboard` of the run's directory."""
    wandb: Wandb | None = None
    """Weights & Biases. Null: none."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run."""

    seed: int = 0
    """Of initialisation and document order; no part of config_id."""
    dial: Dial = field(default_factory=Dial)
    """Size and horizon."""
    model: Model = field(default_factory=Model)
    """Architecture."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """Optimizers by label."""
    schedule: Schedule = field(default_factory=Schedule)
    """Learning rate over time."""
    data: Data = field(default_factory=Data)
    """Text, order, tokenizer."""
    eval: Evaluation = field(default_factory=Evaluation)
    """Validation."""
    core: Core | None = None
    """The CORE metric. Null: not evaluated."""
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    """Checkpoints."""
    system: System = field(default_factory=System)
    """Machine."""
    logging: Logging = field(default_factory=Logging)
    """Sinks."""
