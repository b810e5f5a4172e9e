"""Any other text log, by one regular expression a metric: its last match counts.

`val_loss=loss: ([0-9.]+)` reads the first group of the last match. Such a log tells nothing of its
environment, its schedule or its seeds, so speeds read this way are of an unknown environment.
"""

import re

from harness.errors import UsageError
from harness.results.logs.run_log import NOT_A_NUMBER, LoggedRun, split_finite

FAMILY = "other"
Patterns = dict[str, re.Pattern[str]]


def parse(words: list[str]) -> Patterns:
    """`NAME=PATTERN` words as they stand on a command line. Raises UsageError."""
    found: Patterns = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            pattern = re.compile(text, re.MULTILINE)
        except re.error as error:
            raise UsageError(
                f"--regex {word}",
                "a regular expression after the name",
                str(error),
                "Quote it, and escape what is meant literally.",
            ) from error
        if not name.isidentifier() or pattern.groups != 1:
            raise UsageError(
                f"--regex {word}",
                "NAME=PATTERN with one group in the pattern, the number",
                f"the name {name!r} and {pattern.groups} groups",
                "Such as --regex 'val_loss=val loss ([0-9.]+)'.",
            )
        found[name] = pattern
    return found


def metrics(text: str, patterns: Patterns) -> dict[str, float]:
    """The last match of each pattern that is there and reads as a number; NaN counts as one."""
    found = {}
    for name, pattern in patterns.items():
        matches = pattern.findall(text)
        if not matches:
            continue
        try:
            found[name] = float(matches[-1].replace(",", ""))
        except ValueError:
            raise UsageError(
                f"--regex {name}={pattern.pattern}",
                "a number in its group",
                repr(matches[-1]),
                "Let the group hold the digits only.",
            ) from None
    return found


def read(text: str, source: str, patterns: Patterns) -> list[LoggedRun]:
    """The run of one file; none where no pattern matches."""
    found, bad = split_finite(metrics(text, patterns))
    if not found and not bad:
        return []
    return [
        LoggedRun(
            source=source,
            family=FAMILY,
            metrics=found,
            steps=0,
            ending=NOT_A_NUMBER.format(bad[0]) if bad else None,
            diverged=bool(bad),
        )
    ]
