"""What a full run will reach, from runs of the same recipe at three depths or more.

Signatures first; the bodies follow.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from harness.errors import HarnessError
from harness.ledger import Ledger
from harness.record import Record
from harness.verdict import Known

LEAST_DEPTHS = 3
LEVEL = 0.9  # of every interval: each end is a one-sided limit at 5 %, as everywhere here


class ForecastError(HarnessError):
    """A forecast that cannot be made: too few depths, runs of another recipe, a target below."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its interval."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL

    def holds(self, value: float) -> bool:
        """Whether a value lies inside."""
        return self.low <= value <= self.high


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How large a run is, from its trainer's derived values; `parameters` are those that scale."""

    depth: int
    parameters: int
    tokens: int
    flops: float


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """One completed run of the recipe at a smaller scale. `recipe`: what all of them must share."""

    name: str
    scale: Scale
    seed: int
    val_bpb: float
    core: float | None = None
    core_soft: float | None = None
    recipe: dict[str, str] = {}


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """A law as it was fitted to one metric: what a graph and a reader need."""

    metric: Literal["val_bpb", "core", "core_soft"]
    law: str  # in words and symbols
    coefficients: dict[str, Estimate]
    depths: list[int]
    runs: list[int]  # at each depth
    at: list[float]  # FLOPs of each depth (val_bpb), or its mean val_bpb (core, core_soft)
    means: list[float]
    residuals: list[float]  # mean minus law
    scatter: Estimate  # SD of a depth about the law, relative to the metric for val_bpb
    replicate_sd: float | None
    replicate_df: float
    replicate_from: str
    lack_of_fit_p: float | None
    target_at: float
    curve: list[tuple[float, Estimate]]  # the law with its interval, from the first depth on
    held_out: tuple[Estimate, float] | None  # the deepest from the others, and what it was


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What the target will reach. `p_core` is P(CORE of one run > `core_target`)."""

    target: Scale
    val_bpb: Estimate
    core: Estimate | None
    core_soft: Estimate | None
    core_target: float | None
    p_core: float | None
    fits: list[Fitted]
    notes: list[str]  # what it rests on, and what it does not know; sentences


def proxy_of(record: Record) -> Proxy:
    """A completed record as a proxy. Raises ForecastError where it lacks what is needed."""
    raise NotImplementedError


def scale_of(derived: Mapping[str, object]) -> Scale:
    """The scale of a run from its derived values. Raises ForecastError."""
    raise NotImplementedError


def recipe_of(record: Record) -> dict[str, str]:
    """What runs of one recipe share at every depth."""
    raise NotImplementedError


def replicate_noise(ledger: Ledger, scale: str | None, gpu: str | None) -> dict[str, Known]:
    """SDs of one run by metric (val_bpb, core, core_soft) as far as the ledger knows them."""
    raise NotImplementedError


def forecast(
    proxies: Sequence[Proxy],
    target: Scale,
    *,
    noise: Mapping[str, Known] | None = None,
    core_target: float | None = None,
    level: float = LEVEL,
) -> Forecast:
    """The forecast. Raises ForecastError: fewer than three depths, several recipes, no larger."""
    raise NotImplementedError
