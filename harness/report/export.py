"""Writes a document's data as JSON."""

import sys
from typing import Any

import msgspec

from harness.redact import redact_values
from harness.report.document import Document


def as_json(data: Any) -> str:
    """Indented JSON; unknown numbers are null, and URLs have no passwords.

    `##[` inside a string is written with an escape: a line of a runner's log that contains it
    would be a command.
    """
    encoded = msgspec.json.encode(data)
    if b"://" in encoded:  # a setting may be a URL
        encoded = msgspec.json.encode(redact_values(msgspec.json.decode(encoded)))
    text = msgspec.json.format(encoded, indent=1).decode()
    return text.replace("##[", r"#\u0023[") + "\n"


def print_json(data: Any) -> None:
    """JSON on stdout, for `--json`: nothing else is printed there."""
    sys.stdout.write(as_json(data))


def document_json(document: Document) -> str:
    """The document's own data; its title and answer too where that is a mapping without them."""
    data = msgspec.to_builtins(document.data)
    if isinstance(data, dict):
        data = {"answer": document.answer, **data}
    return as_json(data)
