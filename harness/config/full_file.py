"""The file of a full job and its strict schema.

Values under `set`, and `proxies.field` with its values, belong to the trainer and are passed on
unread; the trainer checks them before a GPU is used.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from harness.config.field_types import (
    Hours,
    NotNegative,
    NotNegativeInt,
    Positive,
    PositiveInt,
    Seed,
)
from harness.config.yaml_schema import (
    Strict,
    Where,
    check_name,
    check_seeds,
    convert,
    read_mapping,
    read_text,
)
from harness.errors import StudyFileError

MIN_PROXY_SIZES = 3  # a scaling law with an irreducible loss needs three
EXAMPLE = "ablations/full/toy.yaml"


class ProxiesFile(Strict, frozen=True, kw_only=True):
    """Smaller runs of the same recipe: one field, its values, and further settings."""

    field: str  # such as dial.depth
    values: list[Any]
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    seeds: list[Seed] = msgspec.field(default_factory=lambda: [1])


class TargetFile(Strict, frozen=True, kw_only=True):
    """The target of the job. The default is CORE of GPT-2 XL on the whole bundle."""

    core: Annotated[float, msgspec.Meta(ge=-1, le=1)] = 0.256525


class FullLimits(Strict, frozen=True, kw_only=True):
    """Limits of a job."""

    hours: Hours = 24.0  # of all attempts together
    restarts: NotNegativeInt = 3  # per command; each needs progress since the last


class FullFile(Strict, frozen=True, kw_only=True):
    """A full job. `base` is the path of a configuration, relative to the file."""

    full: str
    base: str
    ranks: PositiveInt  # on all nodes together
    proxies: ProxiesFile | None = None
    question: str = ""
    trainer: str = "native"
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    nodes: PositiveInt = 1
    seed: Seed = 1
    step_test_seconds: Positive = 30.0
    price_usd_per_gpu_hour: NotNegative | None = None
    target: TargetFile = TargetFile()
    baseline: str | None = None  # a name under baselines/
    limits: FullLimits = FullLimits()

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each node."""
        return self.ranks // self.nodes


def load_full(path: Path) -> FullFile:
    """Reads and checks a job file. Raises StudyFileError with the line of the error."""
    return parse_full(read_text(path, "the file of a full job", EXAMPLE), str(path))


def parse_full(text: str, name: str) -> FullFile:
    """As `load_full`, from text; errors begin with `name`."""
    plain, where = read_mapping(text, name, "full, base and ranks", "ablations/full/")
    full: FullFile = convert(plain, FullFile, where)
    check(full, where)
    return full


def with_overrides(file: FullFile, *, sets: dict[str, Any], price: float | None) -> FullFile:
    """A copy of the job file with values of the command line."""
    if price is not None:
        file = msgspec.structs.replace(file, price_usd_per_gpu_hour=price)
    new = msgspec.structs.replace(file, set={**file.set, **sets})
    check(new, lambda path: f"command line, for {path}")
    return new


def check(full: FullFile, where: Where) -> None:
    """Checks values, also those beyond their types. Raises StudyFileError."""
    convert(msgspec.to_builtins(full), FullFile, where)  # an override may be out of its range
    check_name(full.full, where("full"))
    check_seeds([full.seed], where("seed"))
    if full.ranks % full.nodes:
        expected = f"the same number of ranks on each of {full.nodes} nodes"
        hint = "`ranks` is the total over all nodes: use a multiple of `nodes`."
        raise StudyFileError(where("ranks"), expected, f"{full.ranks} ranks in total", hint)
    if full.proxies is not None:
        _check_proxies(full.proxies, full, where)


def _check_proxies(proxies: ProxiesFile, full: FullFile, where: Where) -> None:
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
        expected = "the field only in proxies.field"
        got = "a value for it in proxies.set too"
        hint = "Remove it from proxies.set."
        raise StudyFileError(where(f"proxies.set.{proxies.field}"), expected, got, hint)
