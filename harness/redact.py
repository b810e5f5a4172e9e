"""Removes the passwords of URLs from command lines, before they are stored or printed.

Others than the user may read a store, a log or a report. What is removed may be too much but never
too little, because an unescaped password may contain any character.
"""

import re
from collections.abc import Iterable

HIDDEN = "***"
_USER_PASSWORD = re.compile(r"(://[^:/]*:).*@", re.DOTALL)
_QUERY_PASSWORD = re.compile(r"([?&][^=&]*passw[^=&]*=)[^&]*", re.IGNORECASE)


def redact_text(argument: str) -> str:
    """One argument, a URL or an option that contains one, without its password."""
    without_user = _USER_PASSWORD.sub(rf"\g<1>{HIDDEN}@", argument)
    return _QUERY_PASSWORD.sub(rf"\g<1>{HIDDEN}", without_user)


def redact_argv(argv: Iterable[str]) -> list[str]:
    """The arguments of a command without their passwords."""
    return [redact_text(argument) for argument in argv]
