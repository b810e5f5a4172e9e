"""Removes passwords, tokens and keys from URLs and shell lines, before they are stored or printed.

Others than the user may read a store, a log or a report. What is removed may be too much but never
too little, because an unescaped password may contain any character.
"""

import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "***"
_SECRET = r"(?:passw\w*|passphrase|token|secret|signature|sig|credentials?|(?:api|access)_?-?key)"
_USER_PASSWORD = re.compile(r"(://[^:/]*:).*@", re.DOTALL)
_USER_TOKEN = re.compile(r"(https?://)[^/@:]+@", re.IGNORECASE)
_QUERY_SECRET = re.compile(rf"([?&][^=&]*{_SECRET}=)[^&]*", re.IGNORECASE)
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|\S)+"  # quoted parts may have spaces; a ";" may be a password's
_SHELL = (
    re.compile(
        rf"(\b\w*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)=){_VALUE}", re.I
    ),
    re.compile(rf"(--?{_SECRET}[ =]+){_VALUE}", re.IGNORECASE),
    re.compile(r"((?:bearer|basic|login)[ :]+)(?!-)[^\s'\"]+", re.IGNORECASE),
)


def redact_text(argument: str) -> str:
    """One argument, a URL or an option that contains one, without its password."""
    if "://" not in argument:
        return argument
    without_user = _USER_PASSWORD.sub(rf"\g<1>{HIDDEN}@", argument)
    without_token = _USER_TOKEN.sub(rf"\g<1>{HIDDEN}@", without_user)
    return _QUERY_SECRET.sub(rf"\g<1>{HIDDEN}", without_token)


def redact_argv(argv: Iterable[str]) -> list[str]:
    """The arguments of a command without their passwords."""
    return [redact_text(argument) for argument in argv]


def redact_shell(text: str) -> str:
    """Shell lines without what is assigned to keys and tokens, and without passwords of URLs."""
    lines = []
    for line in text.splitlines(keepends=True):
        for pattern in _SHELL:
            line = pattern.sub(rf"\g<1>{HIDDEN}", line)
        lines.append(redact_text(line))
    return "".join(lines)


def redact_values(value: Any) -> Any:
    """A JSON value whose texts are without the passwords of URLs, such as those of settings."""
    if isinstance(value, dict):
        return {key: redact_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact_values(inner) for inner in value]
    return redact_text(value) if isinstance(value, str) else value
