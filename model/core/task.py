"""The kinds of tasks and their items.

multiple_choice     one query, several choices; the best is the one with the smallest loss schema
several contexts, one continuation; the best is the context with the smallest loss language_modeling
a context and a continuation that the model must predict exactly
"""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["multiple_choice", "schema", "language_modeling"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Task:
    name: str
    file: str
    """File of its items, relative to eval_data/."""
    kind: Kind
    shots: int
    """Solved examples before each item."""
    delimiter: str
    """Text between a query and its answer."""
    baselines: dict[str, float]
    """Accuracy of guessing, 0 to 1, by table (v1, v2)."""


@dataclass(frozen=True)
class Choice:
    """A query with choices; `gold` is the index of the right one."""

    query: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Schema:
    """Contexts; `gold` is the index of the one to which the continuation belongs."""

    contexts: tuple[str, ...]
    continuation: str
    gold: int


@dataclass(frozen=True)
class Continuation:
    """A context and the continuation to predict."""

    context: str
    continuation: str


Item = Choice | Schema | Continuation
