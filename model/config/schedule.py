"""Fields of what changes over a run: learning rate, batch, context, windows, predictions."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Warmdown:
    """Trick `warmdown`: constant learning rate, then linear to its end."""

    fraction: float = 0.65
    """Share of all steps that the linear fall takes."""
    final_lr: float = 0.05
    """Learning rate at the end, as a share of the peak."""


@dataclass(frozen=True, kw_only=True)
class BatchStages:
    """Trick `batch_size_schedule`: the batch grows in equal parts of the run
    (model/config/stages.py)."""

    factors: tuple[float, ...] = (0.5, 1.0, 1.5)
    """Batch of each part over the dial's. The default keeps the tokens of the run."""
    lr_factors: tuple[float, ...] = (0.66, 1.0, 1.14)
    """Peak learning rate of each part over the derived one, which is meant for the dial's batch.
    The default is modded-nanogpt's 1 : (16/8)^0.6 : (24/8)^0.5, with 1 where the factor is 1."""


@dataclass(frozen=True, kw_only=True)
class ContextStages:
    """Trick `sequence_length_schedule`: rows are cut into shorter ones at first
    (model/config/stages.py)."""

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
