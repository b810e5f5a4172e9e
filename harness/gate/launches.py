"""Makes the launches of a gate, in the form that its two sides take.

Both at once or one after the other (`ab_mode` decides which). Where memory turns out too small
when both have been started, that is `NoRoom`, and the gate is planned again one after the other.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.gate import ab_interleaved, ab_sequential, history
from harness.gate.ab_mode import AbMode
from harness.gate.result import GateResult
from harness.gate.sides import GateSide, Prepared
from harness.runner.process import Stop


class Launcher:
    """The two sides of a gate as they are started, each at the first seed there is."""

    def __init__(self, prepared: Prepared, folder: Path, stop: Stop) -> None:
        """Raises TrainerError where a run cannot be made shorter."""
        assert prepared.a is not None, "a speed has two sides"
        self.form, self.folder, self.stop = prepared.form, folder, stop
        self.refactor = prepared.asked.claim == "refactor"
        self.alike = prepared.alike
        a, b = (_started(prepared, name) for name in ("A", "B"))
        if not b.trainer.paces:
            a, b = ab_sequential.shortened(a), ab_sequential.shortened(b)
        self.sides = a, b

    def launch(self, number: int) -> ab_interleaved.AbLaunch:
        """Raises ab.Trouble, ab.NoRoom, StepperStopped and TrainerError."""
        make = ab_sequential.launch if self.form == "sequential" else ab_interleaved.launch
        trajectory = self.refactor and (
            number == 1 or self.alike
        )  # alike, each teaches the noise model
        try:
            return make(number, self.sides, self.folder, self.stop, trajectory=trajectory)
        except ab_interleaved.Trouble as trouble:
            if self.form == "interleaved" and trouble.failure.status == "out_of_memory":
                raise _no_room(trouble) from trouble
            raise


def _started(prepared: Prepared, name: ab_interleaved.Name) -> ab_interleaved.AbSide:
    side, stored = prepared.a if name == "A" else prepared.b, prepared.asked.baseline
    assert isinstance(side, GateSide)
    return ab_interleaved.AbSide(
        name=name,
        trainer=side.trainer,
        config=side.recipe.job(stored.now.seeds[0] if stored else 1).config,
        run_limit_s=prepared.asked.run_limit_s,
    )


def _no_room(trouble: ab_interleaved.Trouble) -> ab_interleaved.NoRoom:
    """Out of memory beside the other side: which of them holds too much is not told apart."""
    return ab_interleaved.NoRoom(
        path=f"side {trouble.failure.side}",
        expected="memory for both sides at once",
        got=trouble.failure.reason,
        hint="--ab sequential starts them one after the other; or gate a smaller recipe.",
    )


def in_relay(prepared: Prepared, error: ab_interleaved.NoRoom) -> Prepared:
    """The gate with its sides one after the other, where the form was the harness's to choose.

    Raises the error where it was asked for.
    """
    if prepared.ab_mode is None or not prepared.ab_mode.auto or prepared.form == "sequential":
        raise error
    turns = AbMode(form="sequential", why=f"{error.got} when both were started")
    return msgspec.structs.replace(prepared, ab_mode=turns)


def launch_seconds(prepared: Prepared, stored: Sequence[GateResult]) -> float | None:
    """From launches of this configuration, else from the baseline's starts and steps."""
    form = prepared.form
    known = history.launch_seconds(stored, prepared.reference.config_id, form)
    if known is not None or prepared.asked.baseline is None:
        return known
    first = prepared.asked.baseline.now.records[0]
    startup, training = first.metrics.get("startup_s"), first.metrics.get("train_time_s")
    if startup is None or not training or not first.steps:
        return None
    step_s = training / first.steps
    if form == "sequential":
        return ab_sequential.launch_seconds(prepared.b.trainer.paces, startup, step_s)
    return startup + 4 * ab_interleaved.WINDOWS * max(ab_interleaved.TURN_S, step_s)
