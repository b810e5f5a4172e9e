"""Tokens a second of each stage of a run (model/config/stages.py).

Steps of different shapes have different speeds, so a mean over them would depend on the lengths of
the stages. A run of one stage has `tokens_per_s`; a run of several has one `stage_N_tokens_per_s`
for each, N from 1, instead. The first steps of a stage, in which allocator and clocks settle, and
steps that compiled do not count.
"""

from collections.abc import Sequence

from model.config.stages import Stage, stage_at

SETTLING_STEPS = 10


class StageThroughput:
    """Sums the settled steps of each stage."""

    def __init__(self, stages: Sequence[Stage], first_step: int = 0) -> None:
        """`first_step` is the first step of this process: a resumed one settles again."""
        self.stages, self.first_step = stages, first_step
        self._steps = [0] * len(stages)
        self._seconds = [0.0] * len(stages)

    def add(self, index: int, seconds: float) -> None:
        """Add a step (from 0) that compiled nothing."""
        stage = stage_at(self.stages, index)
        if index - max(stage.first_step, self.first_step) < SETTLING_STEPS:
            return
        place = self.stages.index(stage)
        self._steps[place] += 1
        self._seconds[place] += seconds

    def metrics(self, row_tokens: int) -> dict[str, float]:
        """Speeds of the stages with a settled step, for rows of `row_tokens`."""
        measured = {
            number: steps * stage.batch_rows * row_tokens / seconds
            for number, (stage, steps, seconds) in enumerate(
                zip(self.stages, self._steps, self._seconds, strict=True), start=1
            )
            if steps
        }
        if len(self.stages) == 1:
            return {"tokens_per_s": measured[1]} if measured else {}
        return {f"stage_{number}_tokens_per_s": speed for number, speed in measured.items()}
