"""Reads any other text log by one pattern per metric.

`val_loss=val loss {number}` reads the number of the last line of that kind. `{number}` stands for a
number, nan or inf; a group in its place, such as `([0-9.]+)`, reads the same value. Where the last
line of a kind has something else there, the run did not end well: an earlier line is not its
result. Nothing is known of the environment, the schedule or the seed of such a run.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from harness.errors import UsageError
from harness.metrics import LOSSES
from harness.results.logs.run_log import (
    Evaluation,
    FinalMetrics,
    LoggedRun,
    evaluation,
    final_metrics,
    number,
)

FAMILY = "other"
TOKEN = "{number}"
# a comma separates thousands only: of 3,2784 no part is read
_NUMBER = (
    r"([-+]?(?>(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d*)?|\.\d+)(?>(?:[eE][-+]?\d+)?)(?![.,]?\d)"
    r"|[-+]?(?i:nan|inf(?:inity)?)(?![a-zA-Z]))"
)
_ANYTHING = r"\S*"
SHOWN_CHARACTERS = 40


class LogPattern(NamedTuple):
    """What reads a metric. `kind`: the same with anything in the place of the number."""

    value: re.Pattern[str]
    kind: re.Pattern[str]


Patterns = dict[str, LogPattern]


def parse(options: Sequence[str]) -> Patterns:
    """Parses the `NAME=PATTERN` values of --regex. Raises UsageError."""
    patterns: Patterns = {}
    for option in options:
        name, _, text = option.partition("=")
        text = text.replace(TOKEN, _NUMBER)
        try:
            value = re.compile(text, re.MULTILINE)
            kind = re.compile(_with_anything(text), re.MULTILINE) if value.groups == 1 else value
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(
                f"--regex {option}",
                "a regular expression after the name",
                str(error),
                "Quote it, and escape characters that are meant literally.",
            ) from error
        if not name.isidentifier() or name in patterns or value.groups != 1 or kind.groups != 1:
            raise UsageError(
                f"--regex {option}",
                f"NAME=PATTERN with one {TOKEN} in the pattern, or one group, and each name once",
                f"the name {name!r} and {value.groups} groups",
                f"Such as --regex 'val_loss=val loss {TOKEN}'.",
            )
        patterns[name] = LogPattern(value, kind)
    return patterns


def _with_anything(text: str) -> str:
    """A pattern with anything in place of its only group, which keeps its name."""
    opened: list[int] = []
    at, found = 0, -1
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "[":
            at = _class_end(text, at)
        elif text.startswith("(?#", at):
            at = text.index(")", at)
        elif text[at] == "(":
            if text[at + 1 : at + 2] != "?" or text.startswith("(?P<", at):
                found = at
            opened.append(at)
        elif text[at] == ")" and opened and opened.pop() == found:
            name = re.match(r"\(\?P<\w+>", text[found:])
            return f"{text[:found]}{name[0] if name else '('}{_ANYTHING}){text[at + 1 :]}"
        at += 1
    raise re.error("a comment in it, or another part that hides its group")


def _class_end(text: str, start: int) -> int:
    """The position of the bracket that ends a class of characters; one right after it is not."""
    at = start + (2 if text.startswith("[^", start) else 1)
    at += text.startswith("]", at)
    while text[at : at + 1] not in ("]", ""):
        at += 2 if text[at] == "\\" else 1
    return at


def read(text: str, source: str, patterns: Patterns) -> list[LoggedRun]:
    """The run of a file; an empty list if no pattern matches."""
    final = read_metrics(text, patterns)
    if not final.metrics and not final.ending:
        return []
    return [
        LoggedRun(
            source=source,
            family=FAMILY,
            metrics=final.metrics,
            evaluations=_evaluations(text, patterns),
            steps=0,
            ending=final.ending,
            diverged=final.diverged,
        )
    ]


def _evaluations(text: str, patterns: Patterns) -> list[Evaluation]:
    """The values of the first loss, numbered from 1: the log states no steps."""
    name = next((name for name in LOSSES if name in patterns), None)
    if name is None:
        return []
    matches = enumerate(_matches(patterns[name].value, text), start=1)
    return [at for count, match in matches for at in evaluation(count, {name: _value(match[1])})]


def _matches(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The matches in which the group takes part."""
    return [match for match in pattern.finditer(text) if match[1] is not None]


def read_metrics(text: str, patterns: Patterns) -> FinalMetrics:
    """The number in the last line of each kind, and why there is none where it has none.

    Raises UsageError for a pattern whose group never has a number.
    """
    values: dict[str, float] = {}
    faults = []
    for name, pattern in patterns.items():
        matches = _matches(pattern.value, text)
        if fault := _fault(name, pattern, matches, text):
            faults.append(fault)
        elif matches:
            values[name] = _value(matches[-1][1])
    final = final_metrics(values)
    if not faults:
        return final
    diverged = final.diverged or any(fault.diverged for fault in faults)
    return FinalMetrics(final.metrics, faults[0].ending, diverged)


def _fault(
    name: str, pattern: LogPattern, matches: Sequence[re.Match[str]], text: str
) -> FinalMetrics | None:
    """Why the last line of a kind has no number: it was cut, or the run diverged."""
    *_, last = [None, *_matches(pattern.kind, text)]
    found = matches[-1] if matches else None
    if found and not (last and last.start(1) > found.start(1)):
        if _is_number(found[1]):
            cut = found.end(1) == len(text) and len(matches) > 1 and _is_shorter(*matches[-2:])
            return FinalMetrics({}, f"it ends within its last {name}") if cut else None
        if not any(_is_number(match[1]) for match in matches):
            raise UsageError(
                f"--regex {name}={pattern.value.pattern}",
                "a number in its group",
                repr(found[1]),
                f"Write {TOKEN} in place of the group.",
            )
        last = found
    if last is None or not (matches or _is_number(last[1])):
        return None  # no log of this kind
    if last.end(1) == len(text):
        return FinalMetrics({}, f"it ends within its last {name}")
    shown = repr(last[1][:SHOWN_CHARACTERS])
    return FinalMetrics({}, f"its last {name} is {shown} and not a number", diverged=True)


def _is_shorter(before: re.Match[str], last: re.Match[str]) -> bool:
    return len(last[1]) < len(before[1])


def _is_number(text: str) -> bool:
    """Whether a text is a number, nan or inf."""
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


def _value(text: str) -> float:
    return number(text.replace(",", ""))
