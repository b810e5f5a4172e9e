"""Where the tokens of a row stand, when they are not its first: a part of a text whose beginning
went through the model before."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PositionIds:
    """Positions of tokens."""

    index: Tensor
    """(B, T) position of each token in its text, from 0."""
    end: int
    """All positions are below it; said, so that nobody has to ask the device."""
