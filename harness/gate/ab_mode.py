"""Chooses the mode of a speed A/B: interleaved where both trainers fit on the device, else
sequential.

Interleaved is the more precise mode and starts each side once per launch. It needs a trainer that
supports `pace` (stepping on command) and a device that holds both sides. Otherwise each segment is
a process of its own (`ab_sequential`): four starts per launch, and more time for the host to drift.

`auto` takes the memory from earlier launches of the same configurations, or from the trainer's
estimate. Where neither is known, memory is read once both sides are ready, and the gate is planned
again if they do not fit. Starts nothing.
"""

from typing import Literal, get_args

import msgspec

from harness.config.yaml_schema import parse_choice
from harness.errors import UsageError
from harness.gate.ab_interleaved import AbMode, NotEnoughMemory, check_memory
from harness.runner.trainer import NativeTrainer

AbOption = Literal["auto", "interleaved", "sequential"]
SMALL_BYTES = 2 * 2**30  # every GPU used for training has more, so it need not be queried


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What each side will allocate; None where unknown.

    `device_bytes`: the device's memory in the launch that was measured, for a machine that lists no
    GPU.
    """

    a_bytes: float | None
    b_bytes: float | None
    device_bytes: float | None = None
    source: str = "by the trainer's estimate"


class AbChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The mode of all launches of a gate, and why. `auto`: chosen here, not on the command line."""

    mode: AbMode
    why: str
    auto: bool = True

    @property
    def note(self) -> str:
        """One line for the plan: the mode, what it means, and why it was chosen."""
        if self.mode == "sequential":
            what = "whole processes one after the other, four starts per launch"
        else:
            what = "both sides at once, a few steps each"
        return f"{self.mode} A/B: {what}, in the order A B B A ({self.why})"


def parse_ab(text: str) -> AbOption:
    """The value of --ab. Raises UsageError."""
    hint = (
        "interleaved: both sides at once; sequential: one process after the other; "
        "auto: interleaved where both fit."
    )
    option: AbOption = parse_choice(text, get_args(AbOption), "--ab", hint)
    return option


def choose(option: AbOption, trainer: NativeTrainer, memory: MemoryEstimate) -> AbChoice:
    """The mode of a gate's launches.

    Raises:
        UsageError: `interleaved` was requested and the trainer cannot step on command.
        TrainerError: the trainer does not describe its machine.
    """
    if not trainer.paces:
        why = f"the trainer {trainer.name!r} cannot step on command"
        if option == "interleaved":
            raise UsageError(
                "--ab interleaved",
                "a trainer that supports `pace`",
                why,
                "Leave --ab out: the segments are then short runs.",
            )
        return AbChoice(mode="sequential", why=why)
    if option != "auto":
        return AbChoice(mode=option, why="requested with --ab", auto=False)
    return _by_memory(trainer, memory)


def _by_memory(trainer: NativeTrainer, memory: MemoryEstimate) -> AbChoice:
    if memory.a_bytes is None or memory.b_bytes is None:
        return AbChoice(
            mode="interleaved", why="memory is not known yet and will be read once both are ready"
        )
    both, device = memory.a_bytes + memory.b_bytes, memory.device_bytes
    if both > SMALL_BYTES:
        device = _device_bytes(trainer) or device
    try:
        check_memory(memory.a_bytes, memory.b_bytes, device)
    except NotEnoughMemory as error:
        return AbChoice(mode="sequential", why=f"{error.got} {memory.source}")
    of = f" of {device / 2**30:.1f}" if device is not None else ""
    return AbChoice(mode="interleaved", why=f"{both / 2**30:.1f}{of} GiB {memory.source}")


def _device_bytes(trainer: NativeTrainer) -> float | None:
    """Memory of the smallest GPU; None without a GPU."""
    gpus = trainer.machine().get("gpus") or []
    known = [float(gpu["memory_bytes"]) for gpu in gpus if gpu.get("memory_bytes")]
    return min(known, default=None)
