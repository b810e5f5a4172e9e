"""Writes a document's data as JSON and its tables as CSV."""

import csv
import io
import sys
from typing import Any

import msgspec

from harness.report.document import Document, Table


def as_json(data: Any) -> str:
    """Indented JSON; unknown numbers are null."""
    text = msgspec.json.format(msgspec.json.encode(data), indent=1)
    return text.decode() + "\n"


def print_json(data: Any) -> None:
    """JSON on stdout, for `--json`: nothing else is printed there."""
    sys.stdout.write(as_json(data))


def as_csv(table: Table) -> str:
    """One table, with its titles in the first line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.title.replace("\n", " ") for column in table.columns])
    writer.writerows([[cell.text.replace("\n", " ") for cell in row] for row in table.rows])
    return buffer.getvalue()


def print_document_json(document: Document) -> None:
    """The document's data on stdout."""
    sys.stdout.write(document_json(document))


def document_json(document: Document) -> str:
    """The document's own data; its title and answer too where that is a mapping without them."""
    data = msgspec.to_builtins(document.data)
    if isinstance(data, dict):
        data = {"answer": document.answer, **data}
    return as_json(data)
