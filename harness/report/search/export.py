"""report.json and trials.csv of a search: the data itself, for whoever computes further."""

import csv
import io
from typing import Any

import msgspec

from harness.search.results import SearchResult


def as_json(found: SearchResult) -> bytes:
    """The whole answer."""
    return msgspec.json.format(msgspec.json.encode(found), indent=1)


def as_csv(found: SearchResult) -> str:
    """A row a trial, a column a parameter; empty where a trial has none."""
    names = list(dict.fromkeys(name for row in found.trials for name in row.point))
    head = ["trial", "outcome", *found.objectives, *names, "feasible", "steps", "wall_s", "gpu_s"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in found.trials:
        values: list[Any] = [*row.values] if row.values else [""] * len(found.objectives)
        point = [row.point.get(name, "") for name in names]
        ending = [row.feasible, row.steps, round(row.wall_s, 3), round(row.gpu_s, 3)]
        writer.writerow([row.number, row.outcome, *values, *point, *ending])
    return out.getvalue()
