"""The stages of a run: consecutive steps of one shape. No torch.

Four tricks change the computation of a step during a run. Each divides the run into equal parts:

    schedule.batch_stages         rows per step: part i uses factors[i] times the dial's batch
    schedule.context_stages       pieces per row: part i has rows of T / pieces[i]
    schedule.window_warmup        the long attention window (model/tricks/window_warmup.py)
    schedule.multi_token          number of predicted tokens (model/tricks/multi_token.py)

Part i of n covers the steps k with i / n <= k / steps < (i + 1) / n. Adjacent steps that agree in
all of them are one stage, so a run without these tricks has one stage. Everything here is a pure
function of configuration and steps: the rows of step k do not depend on ranks, speed or resumption.

A row that is cut keeps its tokens and targets: inputs and targets (T) become (pieces, T / pieces),
so every token is predicted once, with a shorter context. The packing plan, the data's identity and
the tokens of a step do not change. modded-nanogpt's stages differ: they truncate documents (896
tokens of each in the first third, then 2,048) and fill the batch with more documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from model.config import BatchStages, Config
from model.config.shapes import WINDOW_MULTIPLE, round_up

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps `first_step` to `first_step + steps` of a run."""

    first_step: int
    steps: int
    first_row: int
    """First row in the packing plan."""
    batch_rows: int
    """Rows of the packing plan per step, over all ranks."""
    pieces: int
    """Pieces that each row is cut into."""
    predicted: int
    """Tokens that each position predicts."""
    long_window_tokens: int
    """Window of long-window layers; the context unless windows are warmed up."""

    def rows(self, step: int) -> range:
        """Rows of the plan for `step` (of the run, from 0)."""
        start = self.first_row + (step - self.first_step) * self.batch_rows
        return range(start, start + self.batch_rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The fields in which stages differ."""
        return self.batch_rows, self.pieces, self.predicted, self.long_window_tokens

    @property
    def last_row(self) -> int:
        """One past the last row of the plan in this stage."""
        return self.first_row + self.steps * self.batch_rows


def part_of(parts: Sequence[Part], position: float, steps: int) -> Part:
    """The element of `parts` at `position` of `steps`; all parts are equally long."""
    return parts[min(len(parts) - 1, int(len(parts) * position / steps))]


def stages_of(config: Config, batch_rows: int, steps: int) -> tuple[Stage, ...]:
    """The stages of a run of `steps`; `batch_rows` is the dial's batch in rows."""
    found: list[Stage] = []
    starts = _starts(config, steps)
    for first, end in zip(starts, [*starts[1:], steps], strict=True):
        shape = _shape(config, batch_rows, first, steps)
        if found and shape == found[-1].shape:
            first = found.pop().first_step
        found.append(
            Stage(
                first_step=first,
                steps=end - first,
                first_row=found[-1].last_row if found else 0,
                batch_rows=shape[0],
                pieces=shape[1],
                predicted=shape[2],
                long_window_tokens=shape[3],
            )
        )
    return tuple(found)


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """The stage of a step (from 0); the last stage after the last step."""
    return next(stage for stage in reversed(stages) if stage.first_step <= step)


def factored_rows(batch_rows: int, stages: BatchStages | None) -> list[float]:
    """Rows per step of each part, not rounded."""
    return [batch_rows * factor for factor in (stages.factors if stages else (1.0,))]


def max_steps(within: Callable[[int], bool], estimate: float) -> int:
    """The largest number of steps, at least one, `within` a budget; searches near `estimate`."""
    low, high = 1, max(2, int(estimate) + 1)
    while within(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


def long_window(config: Config, share: float) -> int:
    """A share of the context, rounded up to whole tiles."""
    context = config.model.context_tokens
    return min(context, max(WINDOW_MULTIPLE, round_up(round(share * context), WINDOW_MULTIPLE)))


def _shape(config: Config, batch_rows: int, step: int, steps: int) -> tuple[int, int, int, int]:
    schedule = config.schedule
    rows = part_of(factored_rows(batch_rows, schedule.batch_stages), step, steps)
    pieces = part_of(schedule.context_stages.pieces, step, steps) if schedule.context_stages else 1
    predicted, window = 1, config.model.context_tokens
    if schedule.multi_token is not None:
        count = len(schedule.multi_token.weights)
        predicted = part_of(range(count, 0, -1), step, steps)
    if schedule.window_warmup is not None:
        window = long_window(config, part_of(schedule.window_warmup.shares, step, steps))
    return round(rows), pieces, predicted, window


def _starts(config: Config, steps: int) -> list[int]:
    """First steps of all parts of all schedules, in order."""
    schedule = config.schedule
    counts = {1}
    counts |= {len(schedule.batch_stages.factors)} if schedule.batch_stages else set()
    counts |= {len(schedule.context_stages.pieces)} if schedule.context_stages else set()
    counts |= {len(schedule.window_warmup.shares)} if schedule.window_warmup else set()
    counts |= {len(schedule.multi_token.weights)} if schedule.multi_token else set()
    # integer ceiling: the first step k with n k / steps >= i
    starts = {-(-i * steps // count) for count in counts for i in range(count)}
    return sorted(start for start in starts if start < steps)
