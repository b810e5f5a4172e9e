"""The file of a full job and its strict schema.

Values under `set`, and `proxies.field` with its values, belong to the trainer and are passed on
unread; the trainer checks them before a GPU is used.
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

MIN_PROXY_SIZES = 3  # a scaling law with an irreducible loss needs three
EXAMPLE = "ablations/full/toy.yaml"


class ProxiesFile(Strict, frozen=True, kw_only=True):
    """Smaller runs of the same recipe: one field, its values, and further settings."""

    field: str  # such as dial.depth
    values: list[Any]
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    seeds: list[int] = msgspec.field(default_factory=lambda: [1])


class TargetFile(Strict, frozen=True, kw_only=True):
    """The target of the job. The default is CORE of GPT-2 XL on the whole bundle."""

    core: float = 0.256525


class FullLimits(Strict, frozen=True, kw_only=True):
    """Limits of a job."""

    hours: float = 24.0  # of all attempts together
    restarts: int = 3  # per command; each needs progress since the last


class FullFile(Strict, frozen=True, kw_only=True):
    """A full job. `base` is the path of a configuration, relative to the file."""

    full: str
    base: str
    ranks: int  # on all nodes together
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
        """Ranks on each node."""
        return self.ranks // self.nodes


_PARTS: dict[str, type[msgspec.Struct]] = {
    "proxies": ProxiesFile,
    "target": TargetFile,
    "limits": FullLimits,
}


def load_full(path: Path) -> FullFile:
    """Reads and checks a job file. Raises StudyFileError with the line of the error."""
    return parse_full(read_text(path, "the file of a full job", EXAMPLE), str(path))


def parse_full(text: str, name: str) -> FullFile:
    """As `load_full`, from text; errors begin with `name`."""
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


def with_overrides(file: FullFile, *, sets: dict[str, Any], price: float | None) -> FullFile:
    """A copy of the job file with values of the command line."""
    if price is not None:
        file = msgspec.structs.replace(file, price_usd_per_gpu_hour=price)
    new = msgspec.structs.replace(file, set={**file.set, **sets})
    check(new, lambda path: f"command line, for {path}")
    return new


def check(full: FullFile, where: Callable[[str], str]) -> None:
    """Checks values beyond their types; `where` locates a field. Raises StudyFileError."""
    check_name(full.full, where("full"))
    check_seeds([full.seed], where("seed"))
    price = full.price_usd_per_gpu_hour
    ranges: list[tuple[str, float, bool, str]] = [
        ("ranks", full.ranks, full.ranks >= 1, "of at least 1"),
        ("nodes", full.nodes, full.nodes >= 1, "of at least 1"),
        ("step_test_seconds", s := full.step_test_seconds, s > 0, "above 0"),
        ("price_usd_per_gpu_hour", price or 0.0, price is None or price >= 0, "of at least 0"),
        ("limits.hours", full.limits.hours, full.limits.hours > 0, "above 0"),
        ("target.core", core := full.target.core, core <= 1, "of at most 1"),
        ("limits.restarts", full.limits.restarts, full.limits.restarts >= 0, "of at least 0"),
    ]
    for path, value, good, wanted in ranges:
        if not (good and math.isfinite(value)):
            raise StudyFileError(
                where(path), f"a number {wanted}", repr(value), "Correct the value."
            )
    if full.ranks % full.nodes:
        raise StudyFileError(
            where("ranks"),
            f"the same number of ranks on each of {full.nodes} nodes",
            f"{full.ranks} ranks in total",
            "`ranks` is the total over all nodes: use a multiple of `nodes`.",
        )
    if full.proxies is not None:
        _check_proxies(full.proxies, full, where)


def _check_proxies(proxies: ProxiesFile, full: FullFile, where: Callable[[str], str]) -> None:
    check_seeds(proxies.seeds, where("proxies.seeds"))
    different = {repr(value) for value in proxies.values}
    if len(different) < MIN_PROXY_SIZES or len(different) < len(proxies.values):
        raise StudyFileError(
            where("proxies.values"),
            f"at least {MIN_PROXY_SIZES} different values",
            repr(proxies.values),
            "Any scaling law fits fewer sizes. Add values, or leave `proxies` out and start with "
            "--without-forecast.",
        )
    if proxies.field in proxies.set:
        raise StudyFileError(
            where(f"proxies.set.{proxies.field}"),
            "the field only in proxies.field",
            "a value for it in proxies.set too",
            "Remove it from proxies.set.",
        )
