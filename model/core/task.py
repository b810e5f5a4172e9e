"""What a task is: a file of items of one kind, and how they are asked. Facts and shapes only.

multiple_choice     one query, several choices; the best is the one with the smallest loss
schema              several contexts, one continuation; the best is the context it follows best
language_modeling   a context and a continuation that has to come word for word
"""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["multiple_choice", "schema", "language_modeling"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a bundle."""

    name: str
    file: str
    """Its items, relative to eval_data/."""
    kind: Kind
    shots: int
    """Solved examples in front of each item."""
    delimiter: str
    """Between a query and its answer."""
    baselines: dict[str, float]
    """Accuracy of guessing, 0 to 1, by table (v1, v2)."""


@dataclass(frozen=True)
class Choice:
    """A query with choices, of which `gold` is right."""

    query: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Schema:
    """Contexts, of which `gold` is the one that the continuation belongs to."""

    contexts: tuple[str, ...]
    continuation: str
    gold: int


@dataclass(frozen=True)
class Continuation:
    """A context and what has to follow it."""

    context: str
    continuation: str


Item = Choice | Schema | Continuation
