"""CORE of a formula: six small tasks whose examples are as hard for every run.

A run has one skill, which grows as its loss falls and to which `plant.skill` and the seed's noise
are added. The margin of an example, in nats, is that skill minus its difficulty plus a residual of
the run's own; above zero the answer is right. So two runs of one configuration agree on most
examples, as real ones do, and what is planted is known. `core.parquet` is written as any trainer
writes it.
"""

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any, NamedTuple

from harness.files import canonical_json
from harness.runner.fake_trainer import config as fake

SKILL_PER_NAT = 0.5
LOSS_OF_NO_SKILL = 5.5  # nats per token: there half of the examples are right, give or take a task
RESIDUAL_NATS = 0.3


class Task(NamedTuple):
    """`choices`: 1 for language modeling. `baseline`: of random guessing, not always fair."""

    kind: str
    choices: int
    shots: int
    baseline: float
    ease: float  # nats added to every margin


TASKS = {
    "sums": Task("multiple_choice", 4, 0, 0.25, 0.4),
    "colours": Task("multiple_choice", 5, 10, 0.2, -0.2),
    "places": Task("multiple_choice", 4, 10, 0.2, 0.0),
    "pronouns": Task("schema", 2, 0, 0.5, 0.5),
    "endings": Task("language_modeling", 1, 0, 0.0, -0.4),
    "facts": Task("language_modeling", 1, 10, 0.0, -1.0),
}


class Answer(NamedTuple):
    """One row of the file."""

    task: str
    example: int
    correct: bool
    value: float
    chance: float
    margin: float
    losses: list[float]


def answers(config: dict[str, Any], loss: float) -> list[Answer]:
    """Every example, task by task, of a run that ended with this loss."""
    own = random.Random(canonical_json([fake.identity(config), config["seed"]]))
    level = SKILL_PER_NAT * (LOSS_OF_NO_SKILL - loss) + config["plant"]["skill"]
    level += config["noise"]["skill_sd"] * own.gauss(0, 1)
    found = []
    for name, task in TASKS.items():
        bundle = random.Random(f"{config['core']['bundle']} {name}")
        for example in range(config["core"]["examples"]):
            margin = level + task.ease + bundle.gauss(0, 1.5) + own.gauss(0, RESIDUAL_NATS)
            found.append(_answer(name, task, example, margin))
    return found


def _answer(name: str, task: Task, example: int, margin: float) -> Answer:
    if task.kind == "language_modeling":
        loss = math.log1p(math.exp(-margin))
        return Answer(name, example, margin > 0, math.exp(-loss), 0.0, margin, [loss])
    others = task.choices - 1
    value = 1 / (1 + others * math.exp(-margin))
    losses = [2.0, *[2.0 + margin] * others]
    return Answer(name, example, margin > 0, value, 1 / task.choices, margin, losses)


def metrics(found: list[Answer]) -> dict[str, float | None]:
    """CORE and soft CORE: the mean over the tasks of what is beyond guessing."""
    if not found:
        return {"core": None, "core_soft": None, "core_s": None}
    hard, soft = [], []
    for name, task in TASKS.items():
        rows = [answer for answer in found if answer.task == name]
        right = math.fsum(answer.correct for answer in rows) / len(rows)
        hard.append((right - task.baseline) / (1 - task.baseline))
        beyond = [(answer.value - answer.chance) / (1 - answer.chance) for answer in rows]
        soft.append(math.fsum(beyond) / len(rows))
    return {
        "core": math.fsum(hard) / len(hard),
        "core_soft": math.fsum(soft) / len(soft),
        "core_s": 0.01 * len(TASKS),
    }


def write(path: Path, config: dict[str, Any], found: list[Answer]) -> None:
    """The outcomes as a file under the contract."""
    import pyarrow as pa
    import pyarrow.parquet

    asked = config["core"]
    tasks = {
        name: {
            "kind": task.kind,
            "shots": task.shots,
            "baseline": task.baseline,
            "seconds": 0.01,
            "examples": asked["examples"],
        }
        for name, task in TASKS.items()
    }
    head = {
        "bundle": hashlib.sha256(asked["bundle"].encode()).hexdigest(),
        "tokenizer": asked["tokenizer"],
        "max_per_task": asked["examples"],
        "long_prompts": asked["long_prompts"],
        "baselines": asked["baselines"],
        "tasks": tasks,
    }
    schema = pa.schema(
        {
            "task": pa.string(),
            "example": pa.int32(),
            "correct": pa.bool_(),
            "value": pa.float32(),
            "chance": pa.float32(),
            "margin": pa.float32(),
            "losses": pa.list_(pa.float32()),
        },
        metadata={"core": json.dumps(head)},
    )
    table = pa.Table.from_pylist([answer._asdict() for answer in found], schema=schema)
    pyarrow.parquet.write_table(table, path, compression="zstd")
