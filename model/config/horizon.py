"""The number of steps of a run, from the budget that is set. No torch.

    dial.steps           this number of steps; overrides the others
    dial.tokens          the largest number of steps within these tokens
    dial.flops           the largest number of steps within these training FLOPs
    (none)               the largest number of steps within the planned tokens, ratio times N
    dial.train_time_s    stops the run when this training time is used up; the steps of tokens,
                         FLOPs or the plan are the upper bound, for which data is planned

Under `train_time_s` the last step is unknown to the schedules. Their position is the larger of two
shares: used seconds of the budget, and completed steps of the upper bound. At half of the budget
the learning rate is that of half of the steps. The share is 1 at the end, whichever bound is
reached first.

All ranks use the clock of rank 0, as exchanged at the previous step
(model/distributed/step_status.py): such a run may exceed its budget by one step more than on one
rank.

Consequences for studies: the result of a timed run is no pure function of its configuration. A
faster machine trains for more steps, so two records of one plan_id differ by more than rounding,
and val_bpb reflects speed and quality together. All arms inherit the budget from the base and are
comparable only after equal time. Steps cannot be pinned: `pins` omits dial.steps, and a
configuration with both is refused. This also excludes a study's shorter horizons (set in steps) and
so time-to-target. To separate speed from quality, set a horizon in steps, tokens or FLOPs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from model.config import Config
from model.config.stages import Stage, max_steps, stages_of

Kind = Literal["steps", "tokens", "flops", "ratio", "train_time_s"]
Cost = Callable[[tuple[Stage, ...]], float]


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The end of a run."""

    kind: Kind
    """The field that sets the horizon."""
    steps: int
    """Number of steps; under train_time_s the upper bound."""


def horizon_of(
    config: Config, *, batch_rows: int, planned_tokens: int, tokens: Cost, flops: Cost
) -> Horizon:
    """The horizon of a checked configuration; `tokens` and `flops` are the costs of stages."""
    dial = config.dial
    if dial.steps is not None:
        return Horizon(kind="steps", steps=dial.steps)
    kind: Kind
    if dial.tokens is not None:
        kind, budget, cost = "tokens", float(dial.tokens), tokens
    elif dial.flops is not None:
        kind, budget, cost = "flops", dial.flops, flops
    else:
        kind, budget, cost = "ratio", float(planned_tokens), tokens
    one_step = cost(stages_of(config, batch_rows, 1))
    steps = max_steps(
        lambda number: cost(stages_of(config, batch_rows, number)) <= budget, budget / one_step
    )
    return Horizon(kind=kind if dial.train_time_s is None else "train_time_s", steps=steps)


def position_of(step: int, steps: int, train_time_s: float, budget_s: float | None) -> float:
    """Position of the schedules before `step` (from 0), in steps; `steps` is the end.

    Equals `step` without `budget_s`; with a time budget it is never smaller than `step`.
    """
    return step if budget_s is None else max(step, steps * train_time_s / budget_s)
