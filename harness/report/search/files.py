"""Writes the report of a search: report.json, trials.csv, report.html and patches."""

import csv
import io
from pathlib import Path
from typing import Any

from harness import files
from harness.errors import ReportError
from harness.report.document import Document
from harness.report.export import as_json
from harness.report.html import as_html
from harness.results.store import Store
from harness.search.engine import SearchOutcome
from harness.search.patch import candidate_patches
from harness.search.results import SearchResult


def write_report(
    outcome: SearchOutcome, result: SearchResult, document: Document, store: Store, *, html: bool
) -> tuple[dict[str, Path], list[str]]:
    """Writes the files of a result; (path by kind, notes on what could not be written).

    A patch of the base's file is written for each confirmed candidate; older ones are deleted.
    """
    folder = store.report_dir("search", result.search)
    written = {"json": folder / "report.json", "csv": folder / "trials.csv"}
    files.write_text(written["json"], as_json(result))
    files.write_text(written["csv"], trials_csv(result))
    notes = []
    for arm, patch in candidate_patches(outcome.plan, result, store).items():
        if isinstance(patch, ReportError):
            notes.append(f"No patch of {arm}: {patch}")
        else:
            written[arm] = folder / f"{arm}.patch"
            files.write_text(written[arm], patch)
    for path in folder.glob("trial_*.patch"):
        if path not in written.values():
            path.unlink()
    if html:
        written["html"] = folder / "report.html"
        files.write_text(written["html"], as_html(document))
    return written, notes


def trials_csv(result: SearchResult) -> str:
    """One row for each trial, one column for each parameter; empty if a trial has none."""
    names = list(dict.fromkeys(name for row in result.trials for name in row.params))
    head = ["trial", "outcome", *result.objectives, *names, "feasible", "steps", "wall_s", "gpu_s"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in result.trials:
        values: list[Any] = [*row.values] if row.values else [""] * len(result.objectives)
        params = [row.params.get(name, "") for name in names]
        last = [row.feasible, row.steps, round(row.wall_s, 3), round(row.gpu_s, 3)]
        writer.writerow([row.number, row.outcome, *values, *params, *last])
    return buffer.getvalue()
