"""Where the training loss of a full run should be on its way: the early warning.

Signatures first; the bodies follow.
"""

from collections.abc import Sequence

import msgspec

from harness.full.forecast import Estimate
from harness.full.proxies import Scale

ALPHA = 0.01  # of a false alarm over a whole run, whatever the number of looks


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """The training loss of a proxy: (fraction of its steps done, nats a token), in order."""

    name: str
    scale: Scale
    points: list[tuple[float, float]]


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One planned look: the mean loss over the window that ends at `fraction` should be inside."""

    fraction: float
    loss: Estimate


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """A look at which the loss was not where it should be."""

    look: Look
    got: float


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """All looks of a run, planned before it starts."""

    looks: list[Look]
    window: float  # fraction of the run
    alpha: float
    notes: list[str]

    def at(self, fraction: float) -> Look | None:
        """The newest look that is due at a fraction; None before the first."""
        raise NotImplementedError

    def outside(self, points: Sequence[tuple[float, float]]) -> list[Outside]:
        """The looks that the run so far fails; `points` as those of a Curve."""
        raise NotImplementedError


def band(curves: Sequence[Curve], target: Scale, *, alpha: float = ALPHA) -> Band:
    """The band of the target's run. Raises ForecastError as `forecast` does."""
    raise NotImplementedError
