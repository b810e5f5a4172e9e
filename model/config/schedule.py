"""Schedules: learning rate, batch, context, windows, predicted tokens."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Warmdown:
    """Trick `warmdown`: constant learning rate, then linear decay."""

    fraction: float = 0.65
    """Share of all steps with linear decay."""
    final_lr: float = 0.05
    """Learning rate at the end, as a share of the peak."""


@dataclass(frozen=True, kw_only=True)
class BatchStages:
    """Trick `batch_size_schedule`: the batch grows in equal parts of the run
    (model/config/stages.py)."""

    factors: tuple[float, ...] = (0.5, 1.0, 1.5)
    """Ratio of each part's batch to the dial's. The default preserves the tokens of the run."""
    lr_factors: tuple[float, ...] = (0.66, 1.0, 1.14)
    """Ratio of each part's peak learning rate to the derived one, which is for the dial's batch.
    The default is modded-nanogpt's 1 : (16/8)^0.6 : (24/8)^0.5, with 1 where the factor is 1."""


@dataclass(frozen=True, kw_only=True)
class ContextStages:
    """Trick `sequence_length_schedule`: rows are cut into pieces at first
    (model/config/stages.py)."""

    pieces: tuple[int, ...] = (2, 1, 1)
    """Pieces per row in each equal part of the run."""


@dataclass(frozen=True, kw_only=True)
class WindowWarmup:
    """Trick `window_warmup_yarn`: attention windows grow over the run, rotary frequencies
    follow (model/tricks/window_warmup.py)."""

    shares: tuple[float, ...] = (0.1875, 0.4375, 0.6875)
    """Long window as a share of context_tokens in each equal part of the run, rounded up to whole
    tiles. After the last step it is the whole context."""
    first_scale: float = 0.83
    """Ratio of attention's scale in the first part to that of model.qk_norm (modded-nanogpt: 0.1 /
    0.12)."""


@dataclass(frozen=True, kw_only=True)
class MultiToken:
    """Trick `multi_token_prediction`: later tokens also count in the loss, with falling weights
    (model/tricks/multi_token.py)."""

    weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Weights of the next token and later ones at the start of the run."""


@dataclass(frozen=True, kw_only=True)
class Untie:
    """Trick `tie_then_untie`: embedding and head share a table at first (model/optim/tie.py)."""

    fraction: float = 2 / 3
    """Share of all steps after which the tables separate."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Schedules of the learning rate, common to all labels, and of tricks with stages."""

    warmup_steps: int | None = None
    """Linear warm-up. Null: 5 % of the steps, at most 2,000."""
    cosine_final_lr: float = 0.1
    """Final value of the cosine as a share of the peak, if no warm-down is set."""
    warmdown: Warmdown | None = None
    """Constant, then linear decay. Null: a cosine from the end of the warm-up."""
    batch_stages: BatchStages | None = None
    """Growing batch. Null: the dial's batch in every step."""
    context_stages: ContextStages | None = None
    """Shorter rows at first. Null: rows of context_tokens in every step."""
    window_warmup: WindowWarmup | None = None
    """Growing attention windows. Null: those of model.windows in every step."""
    multi_token: MultiToken | None = None
    """Prediction of several tokens. Null: of the next one only."""
    untie: Untie | None = None
    """Embedding and head tied at first. Null: model.tied_head applies to the whole run."""
