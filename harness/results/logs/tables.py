"""Tables of runs: exports of Weights & Biases, and CSV, JSON or JSON lines with named columns.

A row is an evaluation where the table has a step, and otherwise the final values of a run. Runs are
distinguished by a column that names them, by their seed, or by a step that does not increase.
These are read without an option:

    Weights & Biases  `wandb-summary.json`, a history as CSV, JSON or JSON lines, and the CSV of a
                      chart, whose columns are `RUN - METRIC`
    any other         columns with the names of metrics (val_loss, val_bpb, train_time_s, ...), and
                      of step, planned_steps, seed and run where there are any

A number that is not finite is a divergence. Nothing is known of the environment of such a run.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.metrics import METRICS
from harness.results.logs.run_log import LoggedRun, NotALog, evaluation, final_metrics
from harness.results.logs.text import suffix

FAMILY = "table"
SUFFIXES = (".csv", ".json", ".jsonl")
RUN, STEP, PLANNED, SEED = "run", "step", "planned_steps", "seed"
NAMES = {
    RUN: ("run", "run_id", "run_name", "name", "id"),
    STEP: ("step", "global_step", "trainer/global_step", "iter", "iteration", "_step"),
    PLANNED: ("planned_steps", "total_steps", "max_steps", "num_iterations"),
    SEED: ("seed",),
    "val_loss": ("val_loss", "val/loss", "eval/loss", "eval_loss", "validation/loss"),
    "val_bpb": ("val_bpb", "val/bpb", "bpb"),
    "core": ("core", "core_metric"),
    "tokens_per_s": ("tokens_per_s", "tokens_per_sec", "tok_per_sec", "train/tok_per_sec"),
    "train_time_s": ("train_time_s", "total_training_time"),
}
_CHART = re.compile(r"(.+) - (.+?)(__MIN|__MAX)?")

Row = dict[str, Any]


def read(path: Path, text: str) -> list[LoggedRun]:
    """The runs of a table. Raises NotALog."""
    rows = [_named(row) for row in _of_chart(_rows(path, text))]
    groups = _groups(rows)
    runs = []
    for number, members in enumerate(groups, start=1):
        label = next((row[RUN] for row in members if RUN in row), f"run {number}")
        source = str(path) if len(groups) == 1 else f"{path}, {label}"
        if run := _run(members, source):
            runs.append(run)
    if not runs:
        columns = ", ".join(dict.fromkeys(name for row in rows for name in row)) or "none"
        raise NotALog(
            str(path),
            "a table with a column of a metric, such as val_loss",
            f"the columns {columns[:200]}",
            "Rename its columns: val_loss, train_time_s, step, seed, run.",
        )
    return runs


def is_record(text: str) -> bool:
    """Whether a JSON text is the record of a run and not a table."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "plan_id" in value


def _rows(path: Path, text: str) -> list[Row]:
    """The rows of a file. Raises NotALog where it is no table."""
    kind = suffix(path)
    try:
        if kind == ".csv":
            rows = csv.DictReader(io.StringIO(text))
            return [{name: row[name] for name in row if name is not None} for row in rows]
        if kind == ".jsonl":
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            found = _rows_of_json(json.loads(text))
    except (ValueError, RecursionError, csv.Error) as error:
        got = f"damaged content ({error})"
        raise NotALog(str(path), "a table of runs", got, "Export it again.") from error
    if not all(isinstance(row, dict) for row in found):
        got = "values that are no rows"
        raise NotALog(str(path), "a table of runs", got, "Write one object a row.")
    return found


def _rows_of_json(value: Any) -> list[Any]:
    """Rows of a list, of one object, or of an object of columns of equal length."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        cells = zip(*value.values(), strict=True)
        return [dict(zip(value, row, strict=True)) for row in cells]
    return [value]


def _of_chart(rows: list[Row]) -> list[Row]:
    """Rows of a chart's CSV, one column a run, as one row for each run and step."""
    if not rows or not any(_CHART.fullmatch(name) for name in rows[0] if name):
        return rows
    found = []
    for row in rows:
        step = next((row[name] for name in row if name.lower() in NAMES[STEP]), None)
        for name, value in row.items():
            match = _CHART.fullmatch(name)
            if match and not match[3] and value not in ("", None):
                found.append({RUN: match[1], STEP: step, match[2]: value})
    return found


def _named(row: Row) -> Row:
    """The row with the names of the harness; numbers as float, other columns left out."""
    lower = {str(name).strip().lower(): value for name, value in row.items()}
    named: Row = {}
    for name, aliases in NAMES.items():
        value = next((lower.pop(alias) for alias in aliases if alias in lower), None)
        for alias in aliases:
            lower.pop(alias, None)
        if name == RUN and value not in (None, ""):
            named[name] = str(value)
        elif (number := _number(value)) is not None and (
            math.isfinite(number) or name not in (STEP, PLANNED, SEED)
        ):
            named[name] = number
    for name, value in lower.items():
        if (number := _number(value)) is not None and not name.startswith("_"):
            named[re.sub(r"\W", "_", name)] = number
    return named


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return None


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each run, in order."""
    groups: list[list[Row]] = []
    of_key: dict[Any, list[Row]] = {}
    last: dict[int, float] = {}
    for row in rows:
        key = row.get(RUN, row.get(SEED))
        members = of_key.get(key)
        step = row.get(STEP)
        starts = members is None or step is None or step < last.get(id(members), -math.inf)
        if members is None or starts:
            members = of_key[key] = []
            groups.append(members)
        members.append(row)
        if step is not None:
            last[id(members)] = step
    return groups


def _run(rows: list[Row], source: str) -> LoggedRun | None:
    final: dict[str, float] = {}
    for row in rows:
        final |= {name: value for name, value in row.items() if name != RUN}
    steps, planned = int(final.pop(STEP, 0)), final.pop(PLANNED, None)
    seed = final.pop(SEED, None)
    if not any(name in METRICS for name in final):
        return None
    measured = final_metrics(final, tuple(METRICS))
    curve = [
        at
        for row in rows
        if STEP in row and ("val_loss" in row or "val_bpb" in row)
        for at in evaluation(int(row[STEP]), {name: row[name] for name in row if name in METRICS})
    ]
    ending = measured.ending
    if ending is None and planned and steps < planned:
        ending = f"it ends at step {steps:,} of {int(planned):,}"
    return LoggedRun(
        source=source,
        family=FAMILY,
        metrics=measured.metrics,
        evaluations=curve,
        steps=steps,
        evaluated_at=curve[-1].step if curve else None,
        planned_steps=int(planned) if planned else None,
        ending=ending,
        diverged=measured.diverged,
        seed=None if seed is None else int(seed),
    )
