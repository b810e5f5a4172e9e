"""Learning rate, momentum, decay and loss weights over the run: pure functions of the position.

A position is a step (from 0), or lies between two steps if the horizon is timed
(model/config/horizon.py). Changes in stages of whole steps are in model/config/stages.py.
"""

from math import cos, pi

from model.config import MultiToken, Muon, Schedule
from model.config.stages import part_of


def lr_scale(position: float, steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Learning rate as a share of its peak.

    Linear warm-up over `warmup_steps`; then either GPT-2's cosine to `cosine_final_lr`, or 1 with
    linear decay over the last round(fraction * steps) steps to `final_lr`. With batch stages, their
    factors replace 1; the final rate does not change.
    """
    stages = schedule.batch_stages
    peak = 1.0 if stages is None else part_of(stages.lr_factors, position, steps)
    if position < warmup_steps:
        return peak * min(1.0, (position + 1) / warmup_steps)
    if schedule.warmdown is None:
        progress = (position - warmup_steps) / max(1, steps - warmup_steps)
        final = schedule.cosine_final_lr
        return final + (peak - final) * 0.5 * (1 + cos(pi * min(1.0, progress)))
    length = warmdown_steps(steps, schedule)
    if position <= steps - length:
        return peak
    left = (steps - position) / length
    return peak * left + (1 - left) * schedule.warmdown.final_lr


def warmdown_steps(steps: int, schedule: Schedule) -> int:
    """Steps of linear decay; 0 with a cosine."""
    return round(schedule.warmdown.fraction * steps) if schedule.warmdown is not None else 0


def muon_momentum(position: float, steps: int, muon: Muon, schedule: Schedule) -> float:
    """Momentum: warm-up (takes precedence over the warm-down), plateau, linear decay over the
    warm-down."""
    if position < muon.momentum_warmup_steps:
        share = position / muon.momentum_warmup_steps
        return muon.momentum_start + (muon.momentum - muon.momentum_start) * share
    length = warmdown_steps(steps, schedule)
    if length == 0 or position < steps - length:
        return muon.momentum
    share = (position - (steps - length)) / length
    return muon.momentum + (muon.momentum_end - muon.momentum) * share


def muon_decay_scale(position: float, steps: int) -> float:
    """Weight decay as a share of its initial value: a cosine to zero."""
    return 0.5 * (1 + cos(pi * position / steps))


def multi_token_weights(
    position: float, steps: int, settings: MultiToken | None
) -> tuple[float, ...]:
    """Weights of the next token and of later ones.

    With n weights the run has n equal parts. In each part but the last, the last remaining weight
    falls linearly to 0 and is dropped in the next part: [1, .5, .25 -> 0], [1, .5 -> 0], [1].
    """
    if settings is None:
        return (1.0,)
    parts = len(settings.weights)
    remaining = part_of(range(parts, 0, -1), position, steps)
    if remaining == 1:
        return settings.weights[:1]
    progress = parts * position / steps - (parts - remaining)
    return (*settings.weights[: remaining - 1], settings.weights[remaining - 1] * (1 - progress))
