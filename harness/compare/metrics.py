"""Which metrics two sides are compared in, which way is worse, and how much worse still matters.

A margin is fixed before anybody looks. Where none is given, these hold:

    val_loss      0.002 nats per token: about 1.4 SD of the GPT-2-small speedrun
    val_bpb       0.0003 at full scale; at proxy scale as many SDs of the noise model as val_loss
    has core_soft     2 SD of the noise model speed         0.5 %

Where several metrics tell one story only the first that has a margin is judged (val_bpb before
val_loss; tokens/s before training time before step time): several tests of one thing would be one
test with more false alarms. All else is shown and decides nothing until a margin is given. Pure;
after the noise model, before `judgement`.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

from harness.compare.noise_model import NoiseRow
from harness.metrics import COMPARED

SPEED_MARGIN = 0.005  # relative
LOSS_MARGIN_NATS = 0.002
LOSS_SD_NATS = 0.0014  # of the speedrun's final loss: what the margin above was chosen for
FULL_SCALE_MARGIN_BPB = 0.0003
CORE_SOFT_MARGIN_SDS = 2.0
SCALED = {"val_bpb": LOSS_MARGIN_NATS / LOSS_SD_NATS, "core_soft": CORE_SOFT_MARGIN_SDS}
"""Metrics whose margin is so many SDs of the noise model: their noise depends on the recipe's
size.
"""


SPEED_ORDER = ("tokens_per_s", "train_time_s", "step_ms")
STORIES = (("val_bpb", "val_loss"), SPEED_ORDER)


@dataclass(frozen=True, kw_only=True)
class Margin:
    """`value` in the unit of the harm (of logarithms for speeds), and where it comes from."""

    value: float
    why: str


def same_story(names: Collection[str], has_margin: Callable[[str], bool]) -> set[str]:
    """The metrics among `names` whose story a better one tells, which are therefore only shown."""
    told: set[str] = set()
    for story in STORIES:
        there = [name for name in story if name in names]
        judged = next((name for name in there if has_margin(name)), None)
        told |= set(there) - {judged}
    return told


def default_margin(metric: str, row: NoiseRow | None, full_scale: bool) -> Margin | None:
    """The margin of a metric where none was given; None for what is only shown.

    `row` is the noise model's for this metric, if it has one.
    """
    if metric in SPEED_ORDER:
        return Margin(value=math.log1p(SPEED_MARGIN), why="the default for a speed")
    if metric == "val_loss":
        return Margin(value=LOSS_MARGIN_NATS, why="the default for a loss in nats")
    if metric == "val_bpb" and full_scale:
        return Margin(value=FULL_SCALE_MARGIN_BPB, why="the default at full scale")
    if metric in SCALED and row is not None:
        sds = SCALED[metric]
        return Margin(value=sds * row.sd, why=f"{sds:.2g} SD of the noise model")
    return None


def given(metric: str, value: float) -> Margin:
    """A margin from the command line; a speed's is relative, .005 for half a percent."""
    of_logs = metric in COMPARED and COMPARED[metric].scale == "log"
    return Margin(value=math.log1p(value) if of_logs else value, why="given")
