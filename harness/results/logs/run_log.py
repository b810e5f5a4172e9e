"""One run as its log tells it: final metrics, and what a comparison has to know about them."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.errors import HarnessError
from harness.results.recipe import VarianceSource

NOT_A_NUMBER = "its last {} is not a number"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class LogError(HarnessError):
    """A log that cannot be read, or does not hold what a comparison needs."""


class LoggedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run. `metrics` are final values, finite; `ending` says why a run is not a whole one.

    `environment` holds the facts a speed depends on, as far as the log has them, and
    `environment_known` whether they are enough to tell two machines apart. `diverged`: it ended by
    a fault of what was trained, a loss that is not finite or a want of memory, and not by being
    stopped. `varied` is the source of variance that replicates of this run show. Moments are
    seconds on the clock of the machine.
    """

    source: str
    family: str  # whose log it is: only runs of one family have the same metrics
    metrics: dict[str, float]
    steps: int
    evaluated_at: int | None = None  # the last step that was evaluated
    planned_steps: int | None = None
    ending: str | None = None
    diverged: bool = False
    scale: str | None = None
    full_scale: bool = False
    gpu: str | None = None
    environment: dict[str, str] = {}
    environment_known: bool = False
    varied: VarianceSource = "seed"
    seed: int | None = None
    identity: dict[str, str] = {}  # what may not differ between the sides, by field
    evaluation: dict[str, str] = {}  # how CORE was evaluated: for its scores, what identity is
    answers: Path | None = None  # its outcomes of CORE, example by example
    config_id: str | None = None
    started_at: float | None = None
    warnings: list[str] = []


def strip_colors(text: str) -> str:
    """The text without terminal colours."""
    return _ANSI.sub("", text)


def split_finite(metrics: dict[str, float]) -> tuple[dict[str, float], list[str]]:
    """The metrics that are numbers, and the names of those that are not."""
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    return {name: value for name, value in metrics.items() if name not in bad}, bad


def truncation_reason(evaluated_at: int, reached: int, planned: int) -> str | None:
    """Why a run is not a whole one, from its last evaluation and its last step; None if it is."""
    if evaluated_at >= planned:
        return None
    late = " before its evaluation" if reached >= planned else ""
    return f"it breaks off at step {max(evaluated_at, reached):,} of {planned:,}{late}"


def first_backward_step(
    steps: Sequence[int], times: Sequence[float], warm_up_steps: int
) -> int | None:
    """The first step at which a clock goes backwards; a restart while warming up is no fault."""
    for (_, before), (step, now) in zip(
        pairs := list(zip(steps, times, strict=True)), pairs[1:], strict=False
    ):
        if now < before and step > warm_up_steps:
            return step
    return None
