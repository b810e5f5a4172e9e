"""Passwords are removed from command lines."""

import pytest

from harness.redact import redact_argv, redact_text


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("--storage=postgresql://me:secret@host/db", "--storage=postgresql://me:***@host/db"),
        ("mysql+pymysql://me:sec/ret@host/db", "mysql+pymysql://me:***@host/db"),
        ("postgresql://me@corp:sec?ret@host/db", "postgresql://me@corp:***@host/db"),
        ("postgresql://me:sec@ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?password=secret&a=1", "postgresql://host/db?password=***&a=1"),
        ("postgresql://h/db?a=1&sslPassword=secret", "postgresql://h/db?a=1&sslPassword=***"),
    ],
)
def test_a_password_is_redacted_and_nothing_else(word, shown):
    assert redact_text(word) == shown


@pytest.mark.parametrize(
    "word",
    [
        "search",
        "a.yaml",
        "--set",
        "model.width=64",
        "sqlite:////tmp/a.db",
        "postgresql://me@host/d",
    ],
)
def test_arguments_without_a_password_are_unchanged(word):
    assert redact_argv([word]) == [word]
