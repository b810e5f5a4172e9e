"""The configuration of one run: every field, its default and what it means.

The trainer owns its configuration; the harness passes overrides and records the result. A field
with default `null` is either a trick that is off or a value that the dial derives
(`model.config.derive`); the field's description states which. The bare default is GPT-2 as
published in 2019; the reference recipe is `ablations/configs/speedrun.yaml`. A default never
changes, because identities omit values that equal it (`model.config.identity`): a changed default
is a new field or a new protocol.

`model.config.reader` reads and checks; `model.config.derive` has the rules between fields.
"""

from dataclasses import dataclass, field

from model.config.architecture import (
    Backout,
    BigramHashEmbedding,
    DocumentMask,
    DroppedLayers,
    Fp8,
    HalfRotary,
    LearnableXSA,
    LogitRescale,
    Model,
    MuddConnections,
    MuddGates,
    PairedHeads,
    QKNorm,
    ResidualScalars,
    Rotary,
    Smear,
    Softcap,
    SparseAttentionGate,
    UNetSkips,
    ValueEmbeddings,
    Windows,
)
from model.config.optimizer import (
    AdamW,
    AdamWCautiousDecay,
    Muon,
    NorMuon,
    Optimizer,
    WeightAverage,
)
from model.config.run import (
    Checkpointing,
    Core,
    Data,
    Dial,
    Evaluation,
    Logging,
    System,
    Wandb,
)
from model.config.schedule import (
    BatchStages,
    ContextStages,
    MultiToken,
    Schedule,
    Untie,
    Warmdown,
    WindowWarmup,
)

__all__ = [
    "AdamW",
    "AdamWCautiousDecay",
    "Backout",
    "BatchStages",
    "BigramHashEmbedding",
    "Checkpointing",
    "Config",
    "ContextStages",
    "Core",
    "Data",
    "Dial",
    "DocumentMask",
    "DroppedLayers",
    "Evaluation",
    "Fp8",
    "HalfRotary",
    "LearnableXSA",
    "Logging",
    "LogitRescale",
    "Model",
    "MuddConnections",
    "MuddGates",
    "MultiToken",
    "Muon",
    "NorMuon",
    "Optimizer",
    "PairedHeads",
    "QKNorm",
    "ResidualScalars",
    "Rotary",
    "Schedule",
    "Smear",
    "Softcap",
    "SparseAttentionGate",
    "System",
    "UNetSkips",
    "Untie",
    "ValueEmbeddings",
    "Wandb",
    "Warmdown",
    "WeightAverage",
    "WindowWarmup",
    "Windows",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run."""

    seed: int = 0
    """Seed of initialization and document order; not part of config_id."""
    dial: Dial = field(default_factory=Dial)
    """Size and horizon."""
    model: Model = field(default_factory=Model)
    """Architecture."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """Optimizers by label."""
    schedule: Schedule = field(default_factory=Schedule)
    """Learning rate over time."""
    data: Data = field(default_factory=Data)
    """Data source, order and tokenizer."""
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
