"""Passwords are removed from command lines."""

import pytest

from harness.redact import redact_argv, redact_shell, redact_text, redact_values


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
        ("data.url=https://me:pw@host/x", "data.url=https://me:***@host/x"),
        ("data.url=https://ghp_abc@host/x", "data.url=https://***@host/x"),
        ("https://h/x?a=1&X-Amz-Signature=ab&b=2", "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?access_token=ab", "https://h/x?access_token=***"),
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
        "dial.batch_tokens=4096",
        "https://host/a?b=1",
    ],
)
def test_arguments_without_a_password_are_unchanged(word):
    assert redact_argv([word]) == [word]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("export WANDB_API_KEY=abc123", "export WANDB_API_KEY=***"),
        ("HF_TOKEN='abc' python x", "HF_TOKEN=*** python x"),
        ("hf auth login --token abc", "hf auth login --token ***"),
        ("curl -H 'Authorization: Bearer abc' x", "curl -H 'Authorization: Bearer ***' x"),
        ("wandb login abc", "wandb login ***"),
        ("git clone https://me:pw@host/x", "git clone https://me:***@host/x"),
        ("module load cuda/12.4", "module load cuda/12.4"),
        ("source .venv/bin/activate", "source .venv/bin/activate"),
    ],
)
def test_secrets_of_shell_lines_are_redacted(line, shown):
    assert redact_shell(f"setup:\n  - {line}\n") == f"setup:\n  - {shown}\n"


def test_passwords_in_nested_values_are_redacted():
    value = {"set": [{"url": "https://me:pw@host/x"}, 5, None]}
    assert redact_values(value) == {"set": [{"url": "https://me:***@host/x"}, 5, None]}


def test_a_quoted_value_with_spaces_is_hidden_as_a_whole():
    text = "export WANDB_API_KEY='a b c'; run --token \"d e\" x"
    assert redact_shell(text) == "export WANDB_API_KEY=*** run --token *** x"
