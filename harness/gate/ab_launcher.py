"""Makes the A/B launches of a gate in the mode that was chosen for its two sides.

Where both sides turn out not to fit into memory once they have been started, `NotEnoughMemory` is
raised, and the gate is planned again in sequential mode.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.gate import ab_interleaved, ab_sequential, history
from harness.gate.ab_interleaved import AbLaunch, AbSide, NotEnoughMemory, SideFailed, SideName
from harness.gate.ab_mode import AbChoice
from harness.gate.result import GateResult
from harness.gate.sides import PreparedGate
from harness.runner.process import Stop


class AbLauncher:
    """Starts both sides of a gate at the first seed, launch by launch."""

    def __init__(self, prepared: PreparedGate, folder: Path, stop: Stop) -> None:
        """Raises TrainerError where a run cannot be made shorter."""
        self.mode, self.folder, self.stop = prepared.mode, folder, stop
        self.refactor = prepared.request.claim == "refactor"
        self.same_code = prepared.same_code
        a, b = _ab_side(prepared, "A"), _ab_side(prepared, "B")
        if not b.trainer.paces:
            a, b = ab_sequential.shortened(a), ab_sequential.shortened(b)
        self.sides = a, b

    def launch(self, number: int) -> AbLaunch:
        """Raises SideFailed, NotEnoughMemory, StepperStopped and TrainerError."""
        make = ab_sequential.launch if self.mode == "sequential" else ab_interleaved.launch
        # every launch of unchanged code adds to the noise model's row of trajectories
        trajectory = self.refactor and (number == 1 or self.same_code)
        try:
            return make(number, self.sides, self.folder, self.stop, trajectory=trajectory)
        except SideFailed as error:
            if self.mode == "interleaved" and error.failure.status == "out_of_memory":
                raise _not_enough_memory(error) from error
            raise


def _ab_side(prepared: PreparedGate, name: SideName) -> AbSide:
    side, baseline = prepared.a if name == "A" else prepared.b, prepared.request.baseline
    assert side is not None, "a speed A/B has two sides"
    return AbSide(
        name=name,
        trainer=side.trainer,
        config=side.recipe.job(baseline.now.seeds[0] if baseline else 1).config,
        run_timeout_s=prepared.request.run_timeout_s,
    )


def _not_enough_memory(error: SideFailed) -> NotEnoughMemory:
    """A side ran out of memory beside the other: which of them uses too much is not known."""
    return NotEnoughMemory(
        f"side {error.failure.side}",
        "memory for both sides at once",
        error.failure.reason,
        "Run them one after the other with --ab sequential, or gate a smaller configuration.",
    )


def in_sequential_mode(prepared: PreparedGate, error: NotEnoughMemory) -> PreparedGate:
    """The same gate in sequential mode. Raises `error` where --ab fixed the mode."""
    if prepared.ab is None or not prepared.ab.auto or prepared.mode == "sequential":
        raise error
    choice = AbChoice(mode="sequential", why=f"{error.got} when both were started")
    return msgspec.structs.replace(prepared, ab=choice)


def launch_seconds(prepared: PreparedGate, stored: Sequence[GateResult]) -> float | None:
    """Expected seconds of a launch: from earlier launches of this configuration, else from the
    baseline's start-up and step times; None where neither is known."""
    known = history.launch_seconds(stored, prepared.reference.config_id, prepared.mode)
    if known is not None or prepared.request.baseline is None:
        return known
    first = prepared.request.baseline.now.records[0]
    startup_s, training_s = first.metrics.get("startup_s"), first.metrics.get("train_time_s")
    if startup_s is None or not training_s or not first.steps:
        return None
    step_s = training_s / first.steps
    if prepared.mode == "sequential":
        return ab_sequential.launch_seconds(prepared.b.trainer.paces, startup_s, step_s)
    segment_s = max(ab_interleaved.SEGMENT_S, step_s)
    return startup_s + 4 * ab_interleaved.WINDOWS * segment_s
