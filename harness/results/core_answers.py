"""Reads the answers of one run to every example of CORE: `core.parquet` in its run directory.

Two models are compared on the same examples, which cancels what is easy or hard for both, so the
answers are kept with the record. The file has one row per example: the task, the row in the task's
file, whether the answer was correct, the soft value in 0..1, and the expected score of a random
guess. Its metadata holds the settings of the evaluation as JSON under the key `core`; the record
has them, too, without the tasks. Scores with other settings are not comparable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness.errors import StoreError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

NAME = "core.parquet"  # in a run directory
MOST_ROWS = 10**6  # more are no answers to CORE
COLUMNS = ("task", "example", "correct", "value", "chance")


class CoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that two runs must share for their scores to be comparable.

    `bundle`: a hash of the examples. `max_per_task`: examples per task; None for all.
    `long_prompts`: how prompts longer than the training context are treated. `baselines`: the table
    of accuracies of random guessing.
    """

    bundle: str
    tokenizer: str
    max_per_task: int | None
    long_prompts: str
    baselines: str


class TaskFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of one task. `baseline`: the accuracy of random guessing, 0..1."""

    kind: str
    shots: int
    baseline: float
    seconds: float
    examples: int


class _Metadata(CoreSettings, frozen=True, kw_only=True):
    """The metadata of the file."""

    tasks: dict[str, TaskFacts]


@dataclass(frozen=True, kw_only=True)
class TaskAnswers:
    """The answers to one task, ordered by example. `soft`: (value - chance) / (1 - chance)."""

    name: str
    facts: TaskFacts
    examples: "NDArray[np.int32]"
    correct: "NDArray[np.bool_]"
    soft: "NDArray[np.float64]"


@dataclass(frozen=True, kw_only=True)
class CoreAnswers:
    """The answers of one run, by task."""

    settings: CoreSettings
    tasks: dict[str, TaskAnswers]


def read(path: Path) -> CoreAnswers:
    """Reads a file. Raises StoreError if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise _damaged(path, f"{file.metadata.num_rows:,} rows")
            if absent := set(COLUMNS) - set(file.schema_arrow.names):
                raise _damaged(path, f"no column {' and no '.join(sorted(absent))}")
            metadata = _metadata(path, file.schema_arrow.metadata)
            frame = file.read(columns=list(COLUMNS)).to_pandas()
        by_task = dict(iter(frame.sort_values("example").groupby("task")))
        if sorted(by_task) != sorted(metadata.tasks):
            raise _damaged(path, f"rows of {', '.join(map(str, by_task)) or 'no task'}")
        tasks = {
            name: _task(path, name, facts, by_task[name]) for name, facts in metadata.tasks.items()
        }
    except (OSError, pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _damaged(path, str(error).partition("\n")[0][:200]) from error
    settings = msgspec.convert(msgspec.to_builtins(metadata), CoreSettings)
    return CoreAnswers(settings=settings, tasks=tasks)


def _metadata(path: Path, metadata: Mapping[bytes, bytes] | None) -> _Metadata:
    if not metadata or b"core" not in metadata:
        raise _damaged(path, "no metadata under the key core")
    try:
        return msgspec.json.decode(metadata[b"core"], type=_Metadata)
    except msgspec.DecodeError as error:
        raise _damaged(path, f"invalid metadata: {error}") from error


def _task(path: Path, name: str, facts: TaskFacts, rows: "pd.DataFrame") -> TaskAnswers:
    import numpy as np

    examples = rows["example"].to_numpy(np.int32)
    correct = rows["correct"].to_numpy(np.bool_)
    value, chance = (rows[column].to_numpy(np.float64) for column in ("value", "chance"))
    if len(examples) != facts.examples or len(np.unique(examples)) != facts.examples:
        raise _damaged(path, f"{name} with {len(np.unique(examples))} of {facts.examples} examples")
    if not np.isfinite(value).all() or not (chance < 1).all() or not facts.baseline < 1:
        raise _damaged(path, f"{name} with a value that is not a number, or a chance of 1")
    soft = (value - chance) / (1 - chance)
    return TaskAnswers(name=name, facts=facts, examples=examples, correct=correct, soft=soft)


def _damaged(path: Path, got: str) -> StoreError:
    return StoreError(
        str(path),
        "the answers of a CORE evaluation, one row per example",
        got,
        "The file is damaged: move it away. The record keeps the scores of its run.",
    )
