"""The types of numbers and names in files: what is out of range is refused before a run.

No type accepts NaN or an infinity: `.nan` and `.inf` are valid YAML, and 1e999 is valid JSON, but a
limit of infinity never ends anything and NaN compares as false with everything.
"""

from typing import Annotated

from msgspec import Meta

LARGEST = 1e15  # of a number that a user writes: more seconds, dollars or tokens are a typing error
LARGEST_INT = 10**15
LONGEST_MINUTES = 5_256_000  # ten years
LARGEST_SEED = 2**63 - 1
SMALLEST_RATE = 1e-9  # of errors: quantiles of a smaller one are rounding errors
MOST_SEEDS = 100_000  # in one list: of more, a plan does not fit into memory

Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
FiniteInt = Annotated[int, Meta(ge=-LARGEST_INT, le=LARGEST_INT)]
Positive = Annotated[float, Meta(gt=0, le=LARGEST)]
NotNegative = Annotated[float, Meta(ge=0, le=LARGEST)]
PositiveInt = Annotated[int, Meta(ge=1, le=LARGEST_INT)]
NotNegativeInt = Annotated[int, Meta(ge=0, le=LARGEST_INT)]
ErrorRate = Annotated[float, Meta(ge=SMALLEST_RATE, lt=0.5)]
Minutes = Annotated[float, Meta(gt=0, le=LONGEST_MINUTES)]
MinutesInt = Annotated[int, Meta(ge=1, le=LONGEST_MINUTES)]
Hours = Annotated[float, Meta(gt=0, le=LONGEST_MINUTES / 60)]
Seed = Annotated[int, Meta(ge=0, le=LARGEST_SEED)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Steps, tokens or bytes that a program counted."""
Moment = Annotated[float, Meta(ge=0, le=LARGEST)]
"""Unix time in seconds."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
Name = Annotated[str, Meta(pattern=rf"\A{NAME_PATTERN}\Z")]
"""A name that becomes part of a path: no separator, and nothing hidden or above a folder."""
