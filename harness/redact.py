"""Words of a command line as they may be kept and shown: without the passwords of their URLs.

A store, a log and a report are read by others than who gave the command. What is hidden may be too
much and is never too little: a password that is not escaped may hold any character.
"""

import re
from collections.abc import Iterable

HIDDEN = "***"
_OF_USER = re.compile(r"(://[^:/]*:).*@", re.DOTALL)
_OF_QUERY = re.compile(r"([?&][^=&]*passw[^=&]*=)[^&]*", re.IGNORECASE)


def redact_text(word: str) -> str:
    """One word, be it a URL or an option with one in it, without its password."""
    return _OF_QUERY.sub(rf"\g<1>{HIDDEN}", _OF_USER.sub(rf"\g<1>{HIDDEN}@", word))


def redact_argv(words: Iterable[str]) -> list[str]:
    """The words of a command without their passwords."""
    return [redact_text(word) for word in words]
