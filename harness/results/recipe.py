"""The scale of a recipe and the device it ran on, which its noise depends on."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from harness import format
from harness.results.record import Record

VarianceSource = Literal["nondeterminism", "seed", "launch", "sequential", "host"]


FULL_SCALE_LAYERS, FULL_SCALE_TOKENS = 20, 1e9  # a smaller recipe is a proxy


class NoiseScope(msgspec.Struct, frozen=True, kw_only=True):
    """What noise depends on: the scale of a recipe and its device; None where unknown."""

    scale: str | None
    device: str | None


def recipe_scale(record: Record) -> str | None:
    """The scale of a record's recipe, such as "native d4, 63M tokens"; None if unknown.

    It has the depth or else the number of parameters, and the tokens, because a shorter run has
    another noise.
    """
    return scale_from_derived(record.trainer, record.derived)


def scale_from_derived(trainer: str, derived: Mapping[str, Any]) -> str | None:
    """`recipe_scale` from a trainer's name and its derived values."""
    layers = _layers(derived)
    parameters, tokens = derived.get("parameters_total"), derived.get("tokens")
    if not isinstance(tokens, int | float) or (layers is None and parameters is None):
        return None
    size = f"d{layers}" if layers is not None else f"{count(float(parameters or 0))} parameters"
    return f"{trainer} {size}, {count(float(tokens))} tokens"


def noise_scope(record: Record) -> NoiseScope:
    """The scope of a record's noise."""
    return NoiseScope(scale=recipe_scale(record), device=device_name(record.environment))


def is_full_scale(record: Record) -> bool:
    """Whether a recipe is as large as those that reach GPT-2's CORE score."""
    return full_scale_from_derived(record.derived)


def full_scale_from_derived(derived: Mapping[str, Any]) -> bool:
    """`is_full_scale` from a trainer's derived values."""
    tokens = derived.get("tokens")
    enough = isinstance(tokens, int | float) and tokens >= FULL_SCALE_TOKENS
    return enough and (_layers(derived) or 0) >= FULL_SCALE_LAYERS


def _layers(derived: Mapping[str, Any]) -> int | None:
    sizes = derived.get("sizes")
    layers = sizes.get("layers") if isinstance(sizes, dict) else None
    return layers if isinstance(layers, int) else None


def count(number: float) -> str:
    """Formats a number with two digits, such as 62,914,560 as '63M'."""
    return format.count(number, 2)


def device_name(environment: dict[str, Any]) -> str | None:
    """The GPU model of an environment, or the CPU's name if it has no GPU."""
    gpus = environment.get("gpus")
    if isinstance(gpus, list) and gpus:
        names = sorted({str(gpu.get("name")) for gpu in gpus if isinstance(gpu, dict)})
        return " + ".join(names) or None
    cpu = environment.get("cpu")
    return str(cpu.get("name")) if isinstance(cpu, dict) and cpu.get("name") else None
