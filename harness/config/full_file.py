"""The file of a full job and its strict schema: what is trained, on what, and what foretells it.

Text in, a `FullFile` out; first of the files about full jobs. What stands under `set`, and under
`proxies.field` with its values, belongs to the trainer and passes through unread: it is asked
whether they mean anything before a GPU is taken.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from harness.config.yaml_schema import (
    Strict,
    check_name,
    check_seeds,
    location,
    read_mapping,
    read_text,
    schema_error,
)
from harness.errors import StudyFileError

LEAST_PROXIES = 3  # a law with a curvature takes three depths; the forecast says so too
EXAMPLE = "ablations/full/toy.yaml"


class ProxiesFile(Strict, frozen=True, kw_only=True):
    """Smaller runs of the same recipe: one field, its values, and what else they set."""

    field: str  # such as dial.depth
    values: list[Any]
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    seeds: list[int] = msgspec.field(default_factory=lambda: [1])


class TargetFile(Strict, frozen=True, kw_only=True):
    """What the job is to reach. The default is GPT-2 XL's score on the whole bundle."""

    core: float = 0.256525


class FullLimits(Strict, frozen=True, kw_only=True):
    """Where a job stops."""

    hours: float = 24.0  # of all its attempts together
    restarts: int = 3  # of one command, each after progress since the one before


class FullFile(Strict, frozen=True, kw_only=True):
    """A full job as its file says it. `base` is a configuration's path, relative to the file."""

    full: str
    base: str
    ranks: int  # of the job, over all its nodes
    proxies: ProxiesFile | None = None
    question: str = ""
    trainer: str = "native"
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    nodes: int = 1
    seed: int = 1
    step_test_seconds: float = 30.0
    price_usd_per_gpu_hour: float | None = None
    target: TargetFile = TargetFile()
    baseline: str | None = None  # a name under baselines/
    limits: FullLimits = FullLimits()

    @property
    def ranks_per_node(self) -> int:
        """On each of its nodes."""
        return self.ranks // self.nodes


_PARTS: dict[str, type[msgspec.Struct]] = {
    "proxies": ProxiesFile,
    "target": TargetFile,
    "limits": FullLimits,
}


def load_full(path: Path) -> FullFile:
    """Reads and checks the file of a job. Raises StudyFileError with the line of the fault."""
    return parse_full(read_text(path, "the file of a full job", EXAMPLE), str(path))


def parse_full(text: str, name: str) -> FullFile:
    """As `load_full`, from text; `name` stands in its errors."""
    plain, lines = read_mapping(text, name, "full, base and ranks", "ablations/full/")
    try:
        full = msgspec.convert(plain, FullFile)
    except msgspec.ValidationError as error:
        raise schema_error(str(error), name, lines, "", _known_keys) from None
    check(full, lambda path: location(name, lines, path))
    return full


def _known_keys(path: str) -> list[str]:
    kind = _PARTS.get(path.partition(".")[0], FullFile)
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def changed(file: FullFile, *, sets: dict[str, Any], price: float | None) -> FullFile:
    """A job's file with what the command line says in place of what the file says."""
    if price is not None:
        file = msgspec.structs.replace(file, price_usd_per_gpu_hour=price)
    new = msgspec.structs.replace(file, set={**file.set, **sets})
    check(new, lambda path: f"command line, in place of {path}")
    return new


def check(full: FullFile, where: Callable[[str], str]) -> None:
    """What the types cannot say; `where` names the place of a field. Raises StudyFileError."""
    check_name(full.full, where("full"))
    check_seeds([full.seed], where("seed"))
    price = full.price_usd_per_gpu_hour
    ranges: list[tuple[str, float, bool, str]] = [
        ("ranks", full.ranks, full.ranks >= 1, "of 1 or above"),
        ("nodes", full.nodes, full.nodes >= 1, "of 1 or above"),
        ("step_test_seconds", s := full.step_test_seconds, s > 0, "above 0"),
        ("price_usd_per_gpu_hour", price or 0.0, price is None or price >= 0, "of 0 or above"),
        ("limits.hours", full.limits.hours, full.limits.hours > 0, "above 0"),
        ("target.core", core := full.target.core, core <= 1, "of 1 or below"),
        ("limits.restarts", full.limits.restarts, full.limits.restarts >= 0, "of 0 or above"),
    ]
    for path, value, good, wanted in ranges:
        if not (good and math.isfinite(value)):
            raise StudyFileError(
                where(path), f"a number {wanted}", repr(value), "Write such a number."
            )
    if full.ranks % full.nodes:
        raise StudyFileError(
            where("ranks"),
            f"as many ranks on each of {full.nodes} nodes",
            f"{full.ranks} ranks in all",
            "`ranks` counts those of all nodes: write a multiple of `nodes`.",
        )
    if full.proxies is not None:
        _check_proxies(full.proxies, full, where)


def _check_proxies(proxies: ProxiesFile, full: FullFile, where: Callable[[str], str]) -> None:
    check_seeds(proxies.seeds, where("proxies.seeds"))
    different = {repr(value) for value in proxies.values}
    if len(different) < LEAST_PROXIES or len(different) < len(proxies.values):
        raise StudyFileError(
            where("proxies.values"),
            f"{LEAST_PROXIES} different values or more",
            repr(proxies.values),
            "Fewer scales bend to any law. Add values, or leave `proxies` out and start "
            "with --without-forecast.",
        )
    if proxies.field in proxies.set:
        raise StudyFileError(
            where(f"proxies.set.{proxies.field}"),
            "the field once, under proxies.values",
            "a value for it under proxies.set too",
            "Remove it there.",
        )
