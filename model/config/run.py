"""Fields of one run: its size and horizon, text, evaluation, checkpoints, machine, sinks."""

from dataclasses import dataclass
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
    upper bound (model/config/horizon.py says what that means for studies). Null: another horizon,
    or the plan."""
    batch_tokens: int | None = None
    """Tokens a step over all ranks. Null: the power of two nearest to 2^19 r^0.383."""
    params: int | None = None
    """N that the plan is made for. Null: this model's own N (block parameters and head)."""
    reference_params: int | None = None
    """N of the same recipe at depth 12, so r = params / reference_params. Null: computed."""


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
    """Where a run's events are shown beside events.jsonl (model/runtime/sinks.py). No part of an
    identity."""

    tensorboard: bool = False
    """TensorBoard's event files, in `tensorboard` of the run's directory."""
    wandb: Wandb | None = None
    """Weights & Biases. Null: none."""
