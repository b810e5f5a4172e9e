"""What a turn of a speed A/B is: a few steps of two trainers that live at once, or a whole process.

Two resident trainers that take turns within seconds are the better clock, and cost one start a
launch. It takes a trainer that steps when told, and a device that holds both. Where either is
missing, each turn is a process of its own (`relay`): four starts a launch, and a host that has
longer to drift in between.

`auto` knows the memory from what earlier launches of the same configurations held, or by the
trainer's own estimate; what neither knew is read when both are ready, and `gate` then plans anew.
After `relay`, before `gate`. Starts nothing.
"""

from typing import Literal, get_args

import msgspec

from harness.config.yaml_schema import parse_choice
from harness.errors import UsageError
from harness.gate.ab_interleaved import Form, NoRoom, require_room
from harness.runner.trainer import NativeTrainer

Word = Literal["auto", "interleaved", "sequential"]
SMALL_BYTES = 2 * 2**30  # both together: every device that trains has more; it need not be asked


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the two sides will hold; None where that is not known.

    `device_bytes`: what there was where it was read, in case that this machine names no GPU.
    """

    a_bytes: float | None
    b_bytes: float | None
    device_bytes: float | None = None
    source: str = "by the trainer's estimate"


class AbMode(msgspec.Struct, frozen=True, kw_only=True):
    """The form of all launches of a gate, and why it is that one. `auto`: nobody asked for it."""

    form: Form
    why: str
    auto: bool = True

    @property
    def note(self) -> str:
        """For a plan: the form, the reason, and what it means."""
        if self.form == "sequential":
            what = "whole processes one after the other, four starts a launch"
        else:
            what = "both sides at once, a few steps each"
        return f"turns: A B B A of {what}: {self.why}"


def word_of(text: str) -> Word:
    """A word of the command line. Raises UsageError."""
    hint = "resident: both at once; relay: one process after the other; auto: as it fits."
    word: Word = parse_choice(text, get_args(Word), "--ab", hint)
    return word


def choose(asked: Word, trainer: NativeTrainer, memory: Memory) -> AbMode:
    """The form of a gate's launches. Raises UsageError where the trainer cannot do what is asked,
    and TrainerError where it does not say what its machine has."""
    if not trainer.paces:
        why = f"the trainer {trainer.name!r} takes no steps on command"
        if asked == "interleaved":
            raise UsageError(
                "--ab interleaved",
                "a trainer that answers `pace`",
                why,
                "Leave --ab out: its turns are then short runs.",
            )
        return AbMode(form="sequential", why=why)
    if asked != "auto":
        return AbMode(form=asked, why="asked for", auto=False)
    return _by_memory(trainer, memory)


def _by_memory(trainer: NativeTrainer, memory: Memory) -> AbMode:
    if memory.a_bytes is None or memory.b_bytes is None:
        return AbMode(form="interleaved", why="what they hold is not known and will be read")
    both, device = memory.a_bytes + memory.b_bytes, memory.device_bytes
    if both > SMALL_BYTES:
        device = _device_bytes(trainer) or device
    try:
        require_room(memory.a_bytes, memory.b_bytes, device)
    except NoRoom as error:
        return AbMode(form="sequential", why=f"{error.got} {memory.source}")
    of = f" of {device / 2**30:.1f}" if device is not None else ""
    return AbMode(form="interleaved", why=f"{both / 2**30:.1f} GiB{of} {memory.source}")


def _device_bytes(trainer: NativeTrainer) -> float | None:
    """Of the smallest GPU; None where there is none, and memory is read when both are ready."""
    gpus = trainer.machine().get("gpus") or []
    known = [float(gpu["memory_bytes"]) for gpu in gpus if gpu.get("memory_bytes")]
    return min(known, default=None)
