"""Outcomes on disk: core.parquet, one row a question.

    task string, example int32, correct bool, value float32, chance float32, margin float32,
    losses list<float32>: the mean loss of each row, NaN where it has no token of its own

The harness compares two runs question by question. The schema's metadata has what must be equal for
that, as JSON under the key `core`: bundle and vocabulary (SHA-256), max_per_task, long_prompts,
baselines, and each task's kind, shots, baseline, seconds and number of examples.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from model.core.outcomes import Outcomes, Result, TaskResult
from model.data.atomic import replacing

KEY = "core"


def file_name(step: int, *, final: bool) -> str:
    """The file of an evaluation after `step`; `final` for the run's last."""
    return "core.parquet" if final else f"core-{step:08d}.parquet"


def write(path: Path, outcomes: Outcomes, result: Result, identity: dict[str, Any]) -> None:
    """Write all outcomes atomically; `identity` is what was evaluated and how."""
    import pyarrow as pa  # imported here, because most runs do not evaluate CORE
    import pyarrow.parquet as pq

    names = [task.task.name for task in result.tasks]
    losses = pa.ListArray.from_arrays(
        pa.array(outcomes.first_row, pa.int32()), pa.array(outcomes.losses.astype(np.float32))
    )
    table = pa.table(
        {
            "task": pa.array(np.array(names)[outcomes.task], pa.string()),
            "example": pa.array(outcomes.example, pa.int32()),
            "correct": pa.array(outcomes.correct, pa.bool_()),
            "value": pa.array(outcomes.value.astype(np.float32)),
            "chance": pa.array(outcomes.chance.astype(np.float32)),
            "margin": pa.array(outcomes.margin.astype(np.float32)),
            "losses": losses,
        }
    )
    metadata = {**identity, "tasks": {task.task.name: _task_json(task) for task in result.tasks}}
    table = table.replace_schema_metadata({KEY: json.dumps(metadata)})
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd")


def _task_json(result: TaskResult) -> dict[str, Any]:
    return {
        "kind": result.task.kind,
        "shots": result.task.shots,
        "baseline": result.baseline,
        "seconds": round(result.seconds, 3),
        "examples": result.examples,
    }
