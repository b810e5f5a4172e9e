"""Simulated CORE: six small tasks whose examples are equally hard for every run.

A run has one skill: it grows as the loss falls, plus `plant.skill` and noise between seeds. The
margin of an example, in nats, is the skill minus the example's difficulty plus a residual of the
run; the answer is correct where the margin is positive. Two runs of one configuration therefore
agree on most examples, as real runs do, and a planted difference is known.
"""

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any, NamedTuple

from harness.runner.fake_trainer import config as fake

SKILL_PER_NAT = 0.5
LOSS_OF_NO_SKILL = 5.5  # nats per token at which about half of the answers are correct
RESIDUAL_NATS = 0.3


class Task(NamedTuple):
    """`choices`: 1 for language modeling. `baseline`: the accuracy of random guessing."""

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
    """One row of core.parquet."""

    task: str
    example: int
    correct: bool
    value: float
    chance: float
    margin: float
    losses: list[float]


def answers(config: dict[str, Any], loss: float) -> list[Answer]:
    """The answers of a run with this final loss, task by task."""
    run_noise = fake.generator(config, "core")
    level = SKILL_PER_NAT * (LOSS_OF_NO_SKILL - loss) + config["plant"]["skill"]
    level += config["noise"]["skill_sd"] * run_noise.gauss(0, 1)
    rows = []
    for name, task in TASKS.items():
        bundle = random.Random(f"{config['core']['bundle']} {name}")
        for example in range(config["core"]["examples"]):
            margin = level + task.ease + bundle.gauss(0, 1.5) + run_noise.gauss(0, RESIDUAL_NATS)
            rows.append(_answer(name, task, example, margin))
    return rows


def _answer(name: str, task: Task, example: int, margin: float) -> Answer:
    if task.kind == "language_modeling":
        loss = math.log1p(math.exp(-margin))
        return Answer(name, example, margin > 0, math.exp(-loss), 0.0, margin, [loss])
    others = task.choices - 1
    value = 1 / (1 + others * math.exp(-margin))
    losses = [2.0, *[2.0 + margin] * others]
    return Answer(name, example, margin > 0, value, 1 / task.choices, margin, losses)


def metrics(rows: list[Answer]) -> dict[str, float | None]:
    """CORE and soft CORE: the mean over tasks of the accuracy above guessing."""
    if not rows:
        return {"core": None, "core_soft": None, "core_s": None}
    hard, soft = [], []
    for name, task in TASKS.items():
        of_task = [answer for answer in rows if answer.task == name]
        accuracy = math.fsum(answer.correct for answer in of_task) / len(of_task)
        hard.append((accuracy - task.baseline) / (1 - task.baseline))
        above = [(answer.value - answer.chance) / (1 - answer.chance) for answer in of_task]
        soft.append(math.fsum(above) / len(of_task))
    return {
        "core": math.fsum(hard) / len(hard),
        "core_soft": math.fsum(soft) / len(soft),
        "core_s": 0.01 * len(TASKS),
    }


def write(path: Path, config: dict[str, Any], rows: list[Answer]) -> None:
    """Writes the answers as core.parquet has them under the contract."""
    import pyarrow as pa
    import pyarrow.parquet

    settings = config["core"]
    tasks = {
        name: {
            "kind": task.kind,
            "shots": task.shots,
            "baseline": task.baseline,
            "seconds": 0.01,
            "examples": settings["examples"],
        }
        for name, task in TASKS.items()
    }
    head = {
        "bundle": hashlib.sha256(settings["bundle"].encode()).hexdigest(),
        "tokenizer": settings["tokenizer"],
        "max_per_task": settings["examples"],
        "long_prompts": settings["long_prompts"],
        "baselines": settings["baselines"],
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
    table = pa.Table.from_pylist([answer._asdict() for answer in rows], schema=schema)
    pyarrow.parquet.write_table(table, path, compression="zstd")
