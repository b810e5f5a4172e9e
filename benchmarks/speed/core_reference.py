"""CORE one example at a time: the straightforward evaluator that `model.core` is compared with.

It shares no code with `model.core`: it reads the bundle's files itself, renders and encodes one
example at a time, gives its rows to the model as one padded batch, computes the logits of every
position, and decides. The form is nanochat's (core_eval.py, @karpathy). Slow and short:
`benchmarks.speed.core` measures its time, the tests compare its decisions.
"""

import csv
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ruamel.yaml import YAML
from torch import Tensor

Encode = Callable[[str], list[int]]
"""A text to token ids, BOS in front."""


@dataclass(frozen=True)
class Decision:
    """One example."""

    task: str
    example: int
    """Row of the task's file, from 0."""
    correct: bool
    margin: float
    """Nats between the two smallest mean losses; language modeling: least gap of logits."""
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Question:
    """An example and all it needs."""

    task: dict[str, Any]
    data: list[dict[str, Any]]
    index: int
    row: int


def examples(folder: Path, max_per_task: int | None) -> Iterator[Question]:
    """Every example of a bundle, task by task."""
    for task in YAML(typ="safe").load(folder / "core.yaml")["icl_tasks"]:
        lines = (folder / "eval_data" / task["dataset_uri"]).read_text(encoding="utf-8")
        rows = list(enumerate(json.loads(line) for line in lines.strip().split("\n")))
        random.Random(1337).shuffle(rows)
        rows = rows[:max_per_task]
        data = [item for _, item in rows]
        for index, (row, _) in enumerate(rows):
            yield Question(task, data, index, row)


def baselines(folder: Path) -> dict[str, float]:
    """Accuracy of guessing, by task."""
    with (folder / "eval_meta_data.csv").open(encoding="utf-8") as file:
        lines = csv.DictReader(file)
        return {line["Eval Task"]: float(line["Random baseline"]) / 100 for line in lines}


@torch.no_grad()
def decide(
    question: Question, gpt: Any, encode: Encode, device: torch.device, keep: int | None = None
) -> Decision:
    """Answers one example; of rows longer than `keep` tokens the last `keep`."""
    kind, item = question.task["icl_task_type"], question.data[question.index]
    rows = [encode(text) for text in _texts(question)]
    if kind == "language_modeling":
        starts, rows = [len(rows[0])], rows[1:]
    elif kind == "multiple_choice":
        starts = [_common(rows)] * len(rows)
    else:
        end = _common([row[::-1] for row in rows])
        starts = [len(row) - end for row in rows]
    for place, row in enumerate(rows):
        cut = max(0, len(row) - keep) if keep is not None else 0
        rows[place], starts[place] = row[cut:], starts[place] - cut
    logits, losses = _forward(gpt, rows, device)
    means = [
        losses[place, start - 1 : len(row) - 1].mean().item()
        for place, (row, start) in enumerate(zip(rows, starts, strict=True))
    ]
    name, row = question.task["label"], question.row
    if kind == "language_modeling":
        right, margin = _continues(logits[0], torch.tensor(rows[0], device=device), starts[0])
        return Decision(name, row, right, margin, tuple(means))
    chosen = means.index(min(means))
    ordered = sorted(means)
    return Decision(name, row, chosen == item["gold"], float(ordered[1] - ordered[0]), tuple(means))


def _continues(logits: Tensor, row: Tensor, start: int) -> tuple[bool, float]:
    before, targets = logits[start - 1 : len(row) - 1], row[start:]
    right = bool((before.argmax(dim=-1) == targets).all())
    own = before.gather(1, targets[:, None])[:, 0]
    others = before.clone().scatter_(1, targets[:, None], float("-inf"))
    return right, float((own - others.max(dim=-1).values).min())


def _forward(gpt: Any, rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits (R, T, V) and the loss of each next token (R, T - 1); padded on the right."""
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    logits = gpt.logits(tokens)
    losses = F.cross_entropy(
        logits[:, :-1].reshape(-1, logits.size(-1)), tokens[:, 1:].flatten(), reduction="none"
    )
    return logits, losses.view(len(rows), longest - 1)


def _texts(question: Question) -> list[str]:
    shots = question.task["num_fewshot"][0]
    delimiter = question.task.get("continuation_delimiter", " ")
    kind, item = question.task["icl_task_type"], question.data[question.index]
    others = [place for place in range(len(question.data)) if place != question.index]
    drawn = random.Random(1234 + question.index).sample(others, shots)
    front = ""
    for place in drawn:
        shot = question.data[place]
        if kind == "multiple_choice":
            front += shot["query"] + delimiter + shot["choices"][shot["gold"]] + "\n\n"
        elif kind == "schema":
            front += shot["context_options"][shot["gold"]] + delimiter + shot["continuation"]
            front += "\n\n"
        else:
            front += shot["context"].strip() + delimiter + shot["continuation"] + "\n\n"
    if kind == "multiple_choice":
        return [front + item["query"] + delimiter + choice for choice in item["choices"]]
    if kind == "schema":
        contexts = item["context_options"]
        return [front + context + delimiter + item["continuation"] for context in contexts]
    prompt = front + item["context"].strip() + delimiter
    return [prompt.rstrip(), prompt + item["continuation"]]


def _common(rows: list[list[int]]) -> int:
    """How many tokens all rows begin with."""
    count = 0
    for tokens in zip(*rows, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count
