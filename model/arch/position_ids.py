"""Positions of tokens that do not start at 0, for example after a cached prefix."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PositionIds:
    """Positions of tokens in their texts."""

    index: Tensor
    """(B, T) position of each token in its text, from 0."""
    end: int
    """Upper bound of all positions (exclusive); stored to avoid a device synchronization."""
