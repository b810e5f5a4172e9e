"""A CORE bundle: a folder in nanochat's layout, read strictly, with a hash as its identity.

    core.yaml             icl_tasks: label, dataset_uri, num_fewshot, icl_task_type, delimiter
    eval_meta_data.csv    the random baseline of each task, in per cent
    eval_data/...jsonl    items, one JSON object a line

Every fault names file and line: an evaluation without one item would be another metric. The
identity is the SHA-256 over the tasks' settings and the bytes of their files. Comments in core.yaml
and the baselines change no decision and are not part of it. No torch.
"""

import csv
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from model.config.reader import parse_yaml
from model.core.task import KINDS, Choice, Continuation, Item, Schema, Task
from model.data.atomic import file_sha256, hash_of
from model.errors import DataError

SETTINGS, BASELINES, DATA = "core.yaml", "eval_meta_data.csv", "eval_data"
DELIMITER = " "
BASELINE_COLUMNS = {"v1": "Random baseline", "v2": "Random baseline DCLM v2"}
SOURCE = "Compare it with the published bundle; core.bundle: null downloads that."
FEWEST_CHOICES = 2


class Bundle:
    """The tasks of a folder; `items` reads one task's file."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError for a folder that is not a bundle or lacks a file."""
        self.folder = folder
        self.tasks = _tasks(folder / SETTINGS, _baselines(folder / BASELINES))
        for task in self.tasks:
            if not self.path(task).is_file():
                raise _fault(self.path(task), f"the items of {task.name}", "no such file")

    def path(self, task: Task) -> Path:
        return self.folder / DATA / task.file

    @cached_property
    def sha256(self) -> str:
        """Hash of the tasks' settings and files."""
        files = {task.file: self.path(task) for task in self.tasks}
        return hash_of(
            {
                "tasks": [[t.name, t.file, t.kind, t.shots, t.delimiter] for t in self.tasks],
                "files": {name: file_sha256(path) for name, path in files.items()},
            }
        )

    def items(self, task: Task) -> list[Item]:
        """All items of a task in file order. Raises DataError naming the line of a faulty item."""
        path, read = self.path(task), _READERS[task.kind]
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
        return [
            read(_object(path, number, line), f"{path}:{number}")
            for number, line in enumerate(lines, start=1)
        ]


def _tasks(path: Path, baselines: dict[str, dict[str, float]]) -> tuple[Task, ...]:
    values = parse_yaml(_text(path), str(path))
    listed = values.get("icl_tasks") if isinstance(values, dict) else None
    if not isinstance(listed, list) or not listed:
        raise _fault(path, "a list of tasks under icl_tasks", repr(listed)[:100])
    tasks = tuple(_task(path, number, entry) for number, entry in enumerate(listed, start=1))
    return tuple(_with_baselines(path, task, baselines) for task in tasks)


def _task(path: Path, number: int, entry: Any) -> Task:
    where = f"{path}, task {number}"
    if not isinstance(entry, dict):
        raise _fault(where, "a mapping", repr(entry)[:100])
    name, file = _named(entry, "label", where), _named(entry, "dataset_uri", where)
    kind, shots = entry.get("icl_task_type"), entry.get("num_fewshot")
    if kind not in KINDS:
        raise _fault(f"{where} ({name})", f"icl_task_type: one of {', '.join(KINDS)}", repr(kind))
    if not isinstance(shots, list) or len(shots) != 1 or not _is_count(shots[0]):
        got = repr(shots)
        raise _fault(f"{where} ({name})", "num_fewshot: a list of one whole number", got)
    delimiter = entry.get("continuation_delimiter", DELIMITER)
    if not isinstance(delimiter, str):
        raise _fault(f"{where} ({name})", "continuation_delimiter: a text", repr(delimiter))
    given = {"kind": kind, "shots": shots[0], "delimiter": delimiter}
    return Task(name=name, file=file, baselines={}, **given)


def _with_baselines(path: Path, task: Task, baselines: dict[str, dict[str, float]]) -> Task:
    if task.name not in baselines:
        where = path.with_name(BASELINES)
        raise _fault(where, f"a line of {task.name}", ", ".join(baselines) or "none")
    return Task(**{**vars(task), "baselines": baselines[task.name]})


def _baselines(path: Path) -> dict[str, dict[str, float]]:
    """The baselines of each task, by table; tables without a column are omitted."""
    found: dict[str, dict[str, float]] = {}
    for number, row in enumerate(csv.DictReader(_text(path).splitlines()), start=2):
        name = row.get("Eval Task")
        given = {table: row.get(column) for table, column in BASELINE_COLUMNS.items()}
        if not name or given["v1"] is None:
            expected = f"the columns Eval Task and {BASELINE_COLUMNS['v1']}"
            raise _fault(f"{path}:{number}", expected, ", ".join(map(str, row)))
        found[name] = {
            table: _share(f"{path}:{number}", text)
            for table, text in given.items()
            if text is not None
        }
    return found


def _share(where: str, text: str) -> float:
    try:
        percent = float(text)
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 100:
        raise _fault(where, "a random baseline of 0 to below 100 per cent", repr(text))
    return percent / 100


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    where = f"{path}:{number}"
    try:
        value = json.loads(line.decode("utf-8"))
    except ValueError as error:  # of JSON or UTF-8
        got = f"{line[:60]!r}, {len(line)} bytes ({error})" if line else "an empty line"
        raise _fault(where, "one whole JSON object", got) from error
    if not isinstance(value, dict):
        raise _fault(where, "one whole JSON object", repr(value)[:100])
    return value


def _choice(value: dict[str, Any], where: str) -> Choice:
    choices = _texts(value, "choices", where)
    return Choice(_string(value, "query", where), choices, _gold(value, len(choices), where))


def _schema(value: dict[str, Any], where: str) -> Schema:
    contexts = _texts(value, "context_options", where)
    continuation = _named(value, "continuation", where)
    return Schema(contexts, continuation, _gold(value, len(contexts), where))


def _continuation(value: dict[str, Any], where: str) -> Continuation:
    return Continuation(_string(value, "context", where), _named(value, "continuation", where))


_READERS: dict[str, Callable[[dict[str, Any], str], Item]] = {
    "multiple_choice": _choice,
    "schema": _schema,
    "language_modeling": _continuation,
}


def _gold(value: dict[str, Any], choices: int, where: str) -> int:
    gold = value.get("gold", -1)
    if not _is_count(gold) or gold >= choices:
        raise _fault(where, f"gold: 0 to {choices - 1}", repr(value.get("gold")))
    return int(gold)


def _texts(value: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    texts = value.get(key)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _fault(where, f"{key}: a list of texts", repr(texts)[:100])
    if len(texts) < FEWEST_CHOICES or not all(texts):
        raise _fault(where, f"{key}: at least {FEWEST_CHOICES}, none empty", repr(texts)[:100])
    return tuple(texts)


def _string(value: dict[str, Any], key: str, where: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise _fault(where, f"{key}: a text", repr(text)[:100])
    return text


def _named(value: dict[str, Any], key: str, where: str) -> str:
    text = _string(value, key, where)
    if not text:
        raise _fault(where, f"{key}: a text", "an empty one")
    return text


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        expected = f"a CORE bundle: {SETTINGS}, {BASELINES} and {DATA}/"
        raise _fault(path.parent, expected, f"no {path.name} there") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _fault(path, "a file of text", str(error)) from error


def _fault(path: object, expected: str, got: str) -> DataError:
    return DataError(path=str(path), expected=expected, got=got, hint=SOURCE)
