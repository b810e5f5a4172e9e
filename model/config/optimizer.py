"""Fields of the optimizers, by parameter label."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW settings of one label. The defaults are nanoGPT's for GPT-2."""

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
class AdamWCautiousDecay:
    """Trick `adamw_cautious_decay`: decay where update and weight agree in sign
    (model/tricks/adamw_cautious_decay.py)."""

    labels: tuple[str, ...] | None = None
    """Labels with cautious decay. Null: all labels of AdamW."""


@dataclass(frozen=True, kw_only=True)
class WeightAverage:
    """Trick `weight_average`: evaluations use averaged weights
    (model/tricks/weight_average.py)."""

    decay: float = 0.99
    """Decay of the average per step; it covers about 1 / (1 - decay) steps."""
    start: float = 0.0
    """Share of all steps after which it starts, from the current weights. 0: the first step."""
    every_steps: int = 1
    """Update every n steps, with decay^n."""
    blend: float = 1.0
    """Share of the average in the evaluated weights; the rest is the current weights."""


@dataclass(frozen=True, kw_only=True)
class NorMuon:
    """Trick `muon_normuon`: a second moment per row or column of the orthogonal update."""

    beta2: float = 0.9
    """Decay of the second moment."""


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Trick `muon`: orthogonalized momentum for the matrices (model/optim/muon.py)."""

    lr: float = 0.02
    """Peak learning rate, times max(1, rows / cols)^0.5 of each matrix."""
    batch_scaled: bool = True
    """Whether lr is multiplied by sqrt(batch_tokens / 2^19)."""
    decay: float = 0.28
    """Weight decay, times sqrt(batch_tokens / 2^19) / r; falls to zero along a cosine."""
    momentum_start: float = 0.85
    """Momentum at step 0."""
    momentum: float = 0.97
    """Momentum after the warm-up."""
    momentum_end: float = 0.90
    """Momentum at the last step, reached linearly over the warm-down."""
    momentum_warmup_steps: int = 400
    """Steps of the momentum's warm-up, which takes precedence over the warm-down."""
    iterations: int = 5
    """Iterations of the orthogonalization."""
    orthogonalize: Literal["newton_schulz", "polar_express"] = "newton_schulz"
    """The iteration's coefficients (sub-toggle muon_polar_express)."""
    normuon: NorMuon | None = None
    """Second moments of the update. Null: none."""
    equalize_rows: bool = False
    """MuonEq: rows scaled to equal norms before orthogonalizing (sub-toggle muon_equalize_rows)."""
    renormalize: bool = False
    """Muon+: Frobenius norm sqrt(min(m, n)) after orthogonalizing (sub-toggle muon_renormalize)."""
    norm_floor: float = 1e-10
    """Lower bound on the norms of rows (MuonEq) and updates (Muon+), so that values near zero are
    not scaled to full size. nanochat: 1e-6, which affects rows of zero-initialized projections in
    the first steps."""
    cautious_decay: bool = False
    """Decay only where update and weight agree in sign (sub-toggle muon_cautious_decay)."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """One field per label: every parameter has exactly one of these labels.

    Labels of GPT-2 default to GPT-2's settings. The label of a trick defaults to the reference
    recipe's settings (nanochat at 92d63d4), or to those of its source if the recipe lacks the
    trick. Switching on a trick therefore changes no other settings.
    """

    muon: Muon | None = None
    """Muon for the label `matrices`. Null: AdamW with the settings of `matrices`."""
    clip: float | None = 1.0
    """Bound on the global gradient norm. Null: no clipping."""
    adamw_cautious_decay: AdamWCautiousDecay | None = None
    """Masked decay under AdamW. Null: all weights decay."""
    weight_average: WeightAverage | None = None
    """Averaged weights for evaluations. Null: evaluations use the weights."""
    table_interval_steps: int = 1
    """Embedding and head are updated every n steps, on the gradients of all n (trick
    `tables_every_second_step`)."""
    matrices: AdamW = AdamW()
    """Every 2-D weight of a block, if Muon is off."""
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
    xsa_strengths: AdamW = AdamW(lr=0.008, eps=1e-10, decay=0.0)
    """Strengths of the learnable XSA; modded-nanogpt's settings."""
    bigram_table: AdamW = AdamW(
        lr=0.3,
        beta1=0.8,
        beta2=0.995,
        eps=1e-10,
        decay=0.001,
        batch_scaled=True,
        width_scaled=True,
    )
    """Table of the bigram hash embedding; the reference recipe's settings of the token table, as
    in nanochat."""
    bigram_scalars: AdamW = AdamW(lr=0.008, eps=1e-10, decay=0.0)
    """Factors of the bigram hash embedding; modded-nanogpt's settings."""
    mudd: AdamW = AdamW(lr=0.002, beta2=0.99, eps=1e-10, decay=0.0)
    """Networks of the MUDD connections; modded-nanogpt's settings without its decay of 1e-5."""
    mudd_gates: AdamW = AdamW(lr=0.0008, beta2=0.99, eps=1e-10, decay=0.0)
    """Networks and scale of the MUDD gates; modded-nanogpt's settings without its decay."""
