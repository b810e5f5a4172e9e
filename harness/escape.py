"""Makes text of others harmless where it is shown: Markdown, HTML, logs and workflow commands.

A trainer's reason, the end of its log, a branch name or the name of an arm may contain anything.
Shown as it is, such text could print a heading, an image or a mention into a comment on a pull
request, or a line that GitHub's runner takes for a command (`::add-mask::`, or `##[…]` of older
runners, which counts anywhere in a line). Every renderer passes every string through `escape`, so
that no caller has to know which strings are foreign.
"""

import html
import re
from collections.abc import Callable
from typing import Literal

Target = Literal["markdown", "html", "log", "command", "property"]

APART = "\N{ZERO WIDTH SPACE}"  # keeps GitHub from reading a mention, a reference or a link
UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
_BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
# control characters, surrogates, and those that turn the direction of writing
_CONTROL = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_CODE = re.compile(r"((?<!`)`[^`]+`(?!`))")  # code between two single backticks
_SPECIAL = re.compile(
    r"[\\*<|~`]|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])|\$(?!\d)|(?<=\])[(\[:]|(?<=!)\[", re.ASCII
)
# at the start of a line: a heading, a quotation, a list, a rule
_BLOCK = re.compile(r"^(\d{0,9})(#{1,6}(?=\s|$)|>|[+-](?=\s|$)|[.)](?=\s|$)|=+\s*$|-+\s*$)")
_LINKED = re.compile(r"@(?=\w)|#(?=\d)|:(?=//)|\bwww(?=\.)|\bGH(?=-\d)", re.IGNORECASE)


def escape(text: str, target: Target) -> str:
    """Text that a target shows and does nothing else with.

    Args:
        text: Any string.
        target: `markdown`, on one line, where code between backticks stays code; `html`, also
            inside a quoted attribute; `log`, lines of a terminal or of a runner's log; `command`
            and `property`, the message and a property of a workflow command.
    """
    return _ESCAPES[target](text)


def _markdown(text: str) -> str:
    line = _CONTROL.sub(UNPRINTABLE, _BREAKS.sub(" ", text)).lstrip()
    parts = _CODE.split(line)  # code at odd places
    plain = [_SPECIAL.sub(r"\\\g<0>", one) for one in parts[::2]]
    parts[::2] = [_LINKED.sub(rf"\g<0>{APART}", one) for one in plain]
    parts[1::2] = [one.replace("|", "\\|") for one in parts[1::2]]
    return _BLOCK.sub(r"\1\\\2", "".join(parts))


def _html(text: str) -> str:
    return html.escape(_CONTROL.sub(UNPRINTABLE, text))


def _log(text: str) -> str:
    printable = _CONTROL.sub(UNPRINTABLE, text)
    return re.sub(r":(?=:)", ": ", printable).replace("##[", "## [")


def _command(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _command(text).replace(":", "%3A").replace(",", "%2C")


_ESCAPES: dict[Target, Callable[[str], str]] = {
    "markdown": _markdown,
    "html": _html,
    "log": _log,
    "command": _command,
    "property": _property,
}
