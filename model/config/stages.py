"""The stages of a run: stretches of steps that have one shape. No torch.

Four tricks change what a step computes while a run goes on. Each has its own few equal parts:

    schedule.batch_stages         rows a step: part i takes factors[i] times the dial's batch
    schedule.context_stages       pieces that each row is cut into: part i has rows of T / pieces[i]
    schedule.window_warmup        the long attention window (model/tricks/window_warmup.py)
    schedule.multi_token          tokens that are predicted ahead (model/tricks/multi_token.py)

Part i of n covers the steps k with i / n <= k / steps < (i + 1) / n. Neighbouring steps that agree
in all of them are one stage, so a run without these tricks has one. Everything here is a pure
function of configuration and steps: which rows step k takes depends on neither ranks, speed nor
where a run was resumed.

A row that is cut keeps its tokens and its targets: inputs and targets (T) become (pieces, T /
pieces), so every token is predicted once, with less before it. That leaves the packing plan, the
data's identity and the tokens of a step as they are. It is a variant of modded-nanogpt's stages,
which truncate documents (896 tokens of each in the first third, then 2,048) and fill the batch with
more of them.
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
    """Of the packing plan."""
    batch_rows: int
    """Rows of the packing plan a step, over all ranks."""
    pieces: int
    """Shorter rows that each of them is cut into."""
    predicted: int
    """Tokens that each position predicts."""
    long_window_tokens: int
    """Of the layers that see furthest; the context, unless windows are warmed up."""

    def rows(self, step: int) -> range:
        """Rows of the plan that `step` (of the run, from 0) takes."""
        start = self.first_row + (step - self.first_step) * self.batch_rows
        return range(start, start + self.batch_rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """What tells it from other stages."""
        return self.batch_rows, self.pieces, self.predicted, self.long_window_tokens

    @property
    def last_row(self) -> int:
        """One past the last row of the plan that it takes."""
        return self.first_row + self.steps * self.batch_rows


def part_of(parts: Sequence[Part], position: float, steps: int) -> Part:
    """The one of `parts`, equally long each, that `position` of `steps` stands in."""
    return parts[min(len(parts) - 1, int(len(parts) * position / steps))]


def stages_of(config: Config, batch_rows: int, steps: int) -> tuple[Stage, ...]:
    """The stages of a run of `steps`; `batch_rows` are those of the dial's batch."""
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
    """The stage of a step (from 0); behind the last step, the last one goes on."""
    return next(stage for stage in reversed(stages) if stage.first_step <= step)


def factored_rows(batch_rows: int, stages: BatchStages | None) -> list[float]:
    """Rows a step of each part as the factors say, whole or not."""
    return [batch_rows * factor for factor in (stages.factors if stages else (1.0,))]


def most_steps(within: Callable[[int], bool], estimate: float) -> int:
    """The most steps, at least one, that are `within` a budget; looked for near an estimate."""
    low, high = 1, max(2, int(estimate) + 1)
    while within(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


def long_window(config: Config, share: float) -> int:
    """A share of the context in whole tiles, at least one."""
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
    # rounded up, in whole numbers: the first step k with n k / steps >= i
    starts = {-(-i * steps // count) for count in counts for i in range(count)}
    return sorted(start for start in starts if start < steps)
