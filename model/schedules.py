"""Learning rate, momentum and decay over the run: pure functions of the step (from 0)."""

from math import cos, pi

from model.config import Muon, Schedule


def lr_scale(step: int, steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Learning rate as a share of its peak.

    Linear warm-up over `warmup_steps`; then either GPT-2's cosine to `cosine_final_lr`, or 1 and
    a linear fall over the last round(fraction * steps) steps to `final_lr`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule.warmdown is None:
        progress = (step - warmup_steps) / max(1, steps - warmup_steps)
        final = schedule.cosine_final_lr
        return final + (1 - final) * 0.5 * (1 + cos(pi * min(1.0, progress)))
    length = warmdown_steps(steps, schedule)
    if step <= steps - length:
        return 1.0
    left = (steps - step) / length
    return left + (1 - left) * schedule.warmdown.final_lr


def warmdown_steps(steps: int, schedule: Schedule) -> int:
    """Steps of the linear fall; 0 with a cosine."""
    return round(schedule.warmdown.fraction * steps) if schedule.warmdown is not None else 0


def muon_momentum(step: int, steps: int, muon: Muon, schedule: Schedule) -> float:
    """Momentum: a warm-up that wins over the warm-down, a plateau, a linear fall over the
    warm-down."""
    if step < muon.momentum_warmup_steps:
        share = step / muon.momentum_warmup_steps
        return muon.momentum_start + (muon.momentum - muon.momentum_start) * share
    length = warmdown_steps(steps, schedule)
    if length == 0 or step < steps - length:
        return muon.momentum
    share = (step - (steps - length)) / length
    return muon.momentum + (muon.momentum_end - muon.momentum) * share


def muon_decay_scale(step: int, steps: int) -> float:
    """Weight decay as a share of its start: a cosine to zero."""
    return 0.5 * (1 + cos(pi * step / steps))
