"""What one run answered on every example of CORE: the file `core.parquet` of a run directory.

A score says how often a model was right; its outcomes say where. Two models are compared on the
same examples, which cancels what is easy or hard for both, so the outcomes are kept with the record
for good. One row an example: the task, the row in the task's file, whether the answer was right,
the soft value in 0..1 and what chance alone would have scored. What was evaluated and how stands in
the file's metadata, as JSON under the key `core`, and without the tasks in the record too: scores
of another bundle or of other settings measure something else.

Read where a run ends and wherever runs are compared; never written here. After `atomic`, before
`record`. pyarrow is imported where a file is read: most commands never meet one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError

NAME = "core.parquet"  # in a run directory
COLUMNS = ("task", "example", "correct", "value", "chance")

Floats = NDArray[np.float64]


class CoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What two runs have to share before their scores measure the same thing.

    `bundle`: a hash of the examples. `max_per_task`: None for all of them. `long_prompts`: what is
    done with prompts longer than the training context. `baselines`: which table of random guessing.
    """

    bundle: str
    tokenizer: str
    max_per_task: int | None
    long_prompts: str
    baselines: str


class TaskFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the metadata says of one task. `baseline`: the accuracy of random guessing, 0..1."""

    kind: str
    shots: int
    baseline: float
    seconds: float
    examples: int


class _Head(CoreSettings, frozen=True, kw_only=True):
    """The metadata as a whole."""

    tasks: dict[str, TaskFacts]


@dataclass(frozen=True, kw_only=True)
class TaskAnswers:
    """One task of one run, ordered by example. `soft`: (value - chance) / (1 - chance) of each."""

    name: str
    facts: TaskFacts
    examples: NDArray[np.int32]
    correct: NDArray[np.bool_]
    soft: Floats


@dataclass(frozen=True, kw_only=True)
class CoreAnswers:
    """All tasks of one run, by name."""

    settings: CoreSettings
    tasks: dict[str, TaskAnswers]


def read(path: Path) -> CoreAnswers:
    """The outcomes of a file. Raises StoreError that names a damaged one."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if absent := set(COLUMNS) - set(file.schema_arrow.names):
                raise _damaged(path, f"no column {' and no '.join(sorted(absent))}")
            head = _head(path, file.schema_arrow.metadata)
            table = file.read(columns=list(COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error
    columns = {name: table.column(name).to_numpy() for name in COLUMNS[1:]}
    names = table.column("task").combine_chunks().dictionary_encode()
    known = names.dictionary.to_pylist()
    if sorted(known) != sorted(head.tasks):
        raise _damaged(path, f"rows of {', '.join(map(str, known)) or 'no task'}")
    order = np.lexsort((columns["example"], (codes := names.indices.to_numpy())))
    ends = np.cumsum(np.bincount(codes, minlength=len(known)))
    parts = np.split(order, ends[:-1])
    by_name = dict(zip(known, parts, strict=True))
    tasks = {
        name: _task(path, name, facts, [columns[column][by_name[name]] for column in COLUMNS[1:]])
        for name, facts in head.tasks.items()
    }
    settings = msgspec.convert(msgspec.to_builtins(head), CoreSettings)
    return CoreAnswers(settings=settings, tasks=tasks)


def _head(path: Path, metadata: Mapping[bytes, bytes] | None) -> _Head:
    if not metadata or b"core" not in metadata:
        raise _damaged(path, "no metadata under the key core")
    try:
        return msgspec.json.decode(metadata[b"core"], type=_Head)
    except msgspec.DecodeError as error:
        raise _damaged(path, f"metadata that say: {error}") from error


def _task(path: Path, name: str, facts: TaskFacts, columns: Sequence[NDArray[Any]]) -> TaskAnswers:
    examples, correct = columns[0].astype(np.int32), columns[1].astype(np.bool_)
    value, chance = (column.astype(np.float64) for column in columns[2:])
    if len(examples) != facts.examples or len(np.unique(examples)) != facts.examples:
        raise _damaged(path, f"{name} with {len(np.unique(examples))} of {facts.examples} examples")
    if not np.isfinite(value).all() or not (chance < 1).all() or not facts.baseline < 1:
        raise _damaged(path, f"{name} with a value that is no number, or a chance of 1")
    soft = (value - chance) / (1 - chance)
    return TaskAnswers(name=name, facts=facts, examples=examples, correct=correct, soft=soft)


def _damaged(path: Path, got: str) -> StoreError:
    return StoreError(
        str(path),
        "the outcomes of CORE, a row an example, as an evaluation leaves them",
        got,
        "The file is damaged: move it away; the scores of its run stay in the record.",
    )
