"""Writes a study's report: JSON, CSV and HTML, and a picture of its bars."""

import importlib.util
from pathlib import Path

from harness import files
from harness.errors import ReportError
from harness.report.document import Document
from harness.report.study.content import Content

EXTRA = "pip install 'speedrun-harness[report]'"


def write_files(
    content: Content,
    document: Document,
    *,
    html: Path | None = None,
    json: Path | None = None,
    csv: Path | None = None,
    skip_html: bool = False,
) -> dict[str, Path]:
    """Writes report.json, report.csv and report.html; returns their paths by kind.

    They go into the store's reports/study/<name>/ unless a path is given. Raises DiskError.
    """
    from harness.report.export import document_json
    from harness.report.study.export import as_csv

    folder = content.store.report_dir("study", content.study.study)
    written = {"json": json or folder / "report.json", "csv": csv or folder / "report.csv"}
    files.write_text(written["json"], document_json(document))
    files.write_text(written["csv"], as_csv(content))
    if not skip_html:
        from harness.report.html import as_html

        written["html"] = html or folder / "report.html"
        files.write_text(written["html"], as_html(document))
    return written


def write_picture(content: Content, path: Path) -> Path:
    """Draws the attribution bars as a PNG. Raises ReportError without matplotlib, DiskError."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ReportError("--picture", "matplotlib, to draw it", "no such package", f"{EXTRA}.")
    from harness.report.chart import as_png
    from harness.report.study.charts import bars

    files.write_bytes(path, as_png(bars(content, captioned=True)))
    return path
