"""Fields of one run: size and horizon, data, evaluation, checkpoints, machine, sinks."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Dial:
    """The dial: `depth` sets width, heads, batch, learning rates, decay and horizon."""

    depth: int = 12
    """Number of blocks L."""
    ratio: float = 12.0
    """Planned training tokens per scaling parameter N."""
    steps: int | None = None
    """Optimizer steps; overrides the other horizons. Null: the largest number within the budget
    that is set, or else planned tokens over batch, rounded down."""
    tokens: int | None = None
    """Horizon in training tokens. Null: another horizon, or the plan."""
    flops: float | None = None
    """Horizon in training FLOPs (FLOPs per token of `derived` times tokens). Null: another horizon,
    or the plan."""
    train_time_s: float | None = None
    """Horizon in seconds of training, as in the metric of this name; the plan remains the upper
    bound (for consequences see model/config/horizon.py). Null: another horizon, or the plan."""
    batch_tokens: int | None = None
    """Tokens per step over all ranks. Null: the power of two nearest to 2^19 r^0.383."""
    params: int | None = None
    """N of the plan. Null: this model's own N (block parameters and head)."""
    reference_params: int | None = None
    """N of the same recipe at depth 12, so r = params / reference_params. Null: computed."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Data source, order and tokenizer (model/data)."""

    source: str = "python-docs"
    """`python-docs`, or a published data set that `model.data prepare` downloads (`climbmix`,
    `fineweb10B`), or a folder of parquet, jsonl, txt or `.bin` files (its last file is the
    validation split), or a folder that `model.data prepare` wrote. A folder's path is not part of
    an identity."""
    train_files: int | None = None
    """Only the first n training files. Null: all (of climbmix, a number must be set)."""
    tokenizer: str = "train"
    """`train` (a vocabulary of model.vocab_size from all training files; of climbmix, from the
    first 2e9 characters of the selected files), `gpt2`, or a tokenizer file. `.bin` files need
    `gpt2`."""
    order: Literal["seed", "file"] = "seed"
    """Documents shuffled by the seed, or in file order for every seed."""
    cache_dir: str = ".cache/data"
    """Folder of prepared tokens and downloads; relative to the checkout. Not part of an
    identity."""
    mirror: str | None = None
    """Address of a mirror of a published data set. Null: the original address. Not part of an
    identity."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Validation."""

    tokens: int = 1_572_864
    """Validation tokens, rounded down to whole rows (at least one)."""
    every_steps: int | None = None
    """Evaluate every n steps. Null: only at the end."""
    at_start: bool = False
    """Whether to evaluate also before the first step."""


@dataclass(frozen=True, kw_only=True)
class Core:
    """The CORE metric of the model (model/core)."""

    bundle: str | None = None
    """A folder in nanochat's layout: core.yaml, eval_meta_data.csv, eval_data/. Null: the published
    one, downloaded once. Its path is not part of an identity; a hash records its content."""
    max_per_task: int | None = None
    """Examples per task; must exceed its shots. Null: all."""
    long_prompts: Literal["full", "crop_left"] | None = None
    """Prompts longer than context_tokens: `full` runs the model on all tokens, `crop_left` on the
    last context_tokens. Null: full with rotary positions, crop_left with learned ones, which end
    there."""
    baselines: Literal["v1", "v2"] = "v1"
    """Table of random baselines: DCLM's first (used by nanochat), or its current one."""
    every_steps: int | None = None
    """Evaluate also every n steps. Null: only at the end."""


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """When a run writes its state to checkpoints/, for --resume. Not part of an identity, because
    it does not affect results. All ranks write one checkpoint together."""

    every_steps: int | None = None
    """Write a checkpoint every n steps, and at the end. Null: not by steps."""
    every_minutes: float | None = None
    """Write a checkpoint this many minutes after the last one, and at the end; by the clock of rank
    0. Null: not by time."""
    at_stop: bool = True
    """Whether a run writes a checkpoint when it is stopped (SIGTERM, SIGINT, harness ended)."""
    keep: int = 2
    """Number of newest checkpoints to keep; one more while writing. Two, so that one damaged
    checkpoint does not lose the run."""


@dataclass(frozen=True, kw_only=True)
class System:
    """The machine and how it is used."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` uses CUDA if there is a GPU; the record contains the choice."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Compute type. bf16 uses fp32 master weights and bf16 embedding tables."""
    attention: Literal["auto", "sdpa", "flex", "flash2", "flash3", "flash4"] = "auto"
    """Attention back-end (model/attention); a named back-end that cannot run is an error. `auto`
    uses the first available of flash4, flex, flash2, sdpa; the record contains the choice."""
    loss_kernel: Literal["auto", "torch", "triton"] = "auto"
    """Head, softcap and cross-entropy: torch, or a kernel by chunks of rows (model/kernels)."""
    qkv_kernel: Literal["auto", "torch", "triton"] = "auto"
    """Rotation and norm of queries and keys: torch, or one kernel (model/kernels)."""
    products_kernel: Literal["auto", "torch", "quack"] = "auto"
    """Matrix products of blocks fused with residual and activation, and symmetric products of Muon
    (model/kernels). With model.fp8 on, those of Muon only."""
    fp8_kernel: Literal["auto", "scaled_mm", "emulated"] = "auto"
    """fp8 products, if model.fp8 is on: the GPU's own (`scaled_mm`), or the same values multiplied
    in fp32, which is slow. `auto` is emulated on a CPU and scaled_mm on a GPU; a GPU without it is
    an error."""
    muon_kernel: Literal["auto", "torch", "triton"] = "auto"
    """Muon's elementwise steps: torch, or two kernels (model/kernels)."""
    compile: bool = True
    """Whether to use torch.compile."""
    compile_cache_dir: str = ".cache/compile"
    """Folder of compiled kernels; relative to the checkout. Not part of an identity."""
    device_batch_rows: int | None = None
    """Rows per forward pass. Null: all rows of a step, at most 32."""
    fit_memory: bool = False
    """Whether to use fewer rows per pass, and more passes, if the GPU's memory is too small. The
    batch does not change; the record contains the choice. No effect on a CPU."""
    share_gpu: bool = False
    """Whether to run on a GPU that other processes use; its speed is not a valid measurement."""
    threads: int | None = None
    """CPU threads. Null: all cores available to this process."""
    calibration_s: float = 2.0
    """Seconds to measure matmul and copy rates for environment.json; 0 skips it."""


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """Sink: a run of Weights & Biases."""

    project: str = "gpt2-ablations"
    """The project of the run."""
    mode: Literal["online", "offline"] = "online"
    """`offline` stores the run in the run directory, for `wandb sync`."""


@dataclass(frozen=True, kw_only=True)
class Logging:
    """Sinks of a run's events in addition to events.jsonl (model/runtime/sinks.py). Not part of an
    identity."""

    tensorboard: bool = False
    """TensorBoard event files, in `tensorboard` of the run directory."""
    wandb: Wandb | None = None
    """Weights & Biases. Null: none."""
