"""How long a run trains: steps, from the budget that was set. No torch.

    dial.steps           that many; wins over the others
    dial.tokens          the most steps whose tokens are within it
    dial.flops           the most steps whose training FLOPs are within it
    (none)               the most steps whose tokens are within the plan, ratio times N
    dial.train_time_s    ends the run when its training time is used up; the steps of tokens, FLOPs
                         or the plan are the upper bound, for which data is planned

Under `train_time_s` the schedules cannot know their last step. They run by the larger of two
shares, of the seconds that are used and of the upper bound's steps: at half of the budget the
learning rate stands where it would at half of the steps. The share is 1 at the end whichever bound
came first.

Several ranks go by the clock of rank 0, as all heard it at the step before
(model/distributed/step_status.py): such a run may be over one step later than it would be on one
rank.

What that means for studies. Such a run is no pure function of its configuration: a faster machine
trains for more steps, so two records of one plan_id differ by more than rounding, and val_bpb holds
speed and quality together. All arms inherit the budget from the base, and comparing them is fair in
one sense only: after equal time. Steps cannot be pinned on top: `pins` leaves dial.steps out, and a
configuration with both is refused, which refuses a study's shorter horizons too (they are set in
steps) and with them time-to-target. For effects split into speed and quality set a horizon that is
counted, not timed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from model.config import Config
from model.config.stages import Stage, most_steps, stages_of

Kind = Literal["steps", "tokens", "flops", "ratio", "train_time_s"]
Cost = Callable[[tuple[Stage, ...]], float]


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """Where a run ends."""

    kind: Kind
    """The field that decides."""
    steps: int
    """The last step; under train_time_s the upper bound."""


def horizon_of(
    config: Config, *, batch_rows: int, planned_tokens: int, tokens: Cost, flops: Cost
) -> Horizon:
    """The horizon of a checked configuration; `tokens` and `flops` are what stages take."""
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
    steps = most_steps(
        lambda number: cost(stages_of(config, batch_rows, number)) <= budget, budget / one_step
    )
    return Horizon(kind=kind if dial.train_time_s is None else "train_time_s", steps=steps)


def position_of(step: int, steps: int, train_time_s: float, budget_s: float | None) -> float:
    """Where the schedules stand before `step` (from 0), counted in steps; `steps` is the end.

    A horizon that is counted stands at the step itself, a timed one (`budget_s`) never before it.
    """
    return step if budget_s is None else max(step, steps * train_time_s / budget_s)
