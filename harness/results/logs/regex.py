"""Reads any other text log by one regular expression per metric.

`val_loss=loss: ([0-9.]+)` reads the group of the last match. Nothing is known of the environment,
the schedule or the seed of such a run.
"""

import re

from harness.errors import UsageError
from harness.results.logs.run_log import NOT_A_NUMBER, LoggedRun, split_finite

FAMILY = "other"
Patterns = dict[str, re.Pattern[str]]


def parse(options: list[str]) -> Patterns:
    """Parses the `NAME=PATTERN` values of --regex. Raises UsageError."""
    patterns: Patterns = {}
    for option in options:
        name, _, text = option.partition("=")
        try:
            pattern = re.compile(text, re.MULTILINE)
        except re.error as error:
            raise UsageError(
                f"--regex {option}",
                "a regular expression after the name",
                str(error),
                "Quote it, and escape characters that are meant literally.",
            ) from error
        if not name.isidentifier() or pattern.groups != 1:
            raise UsageError(
                f"--regex {option}",
                "NAME=PATTERN with one group in the pattern, the number",
                f"the name {name!r} and {pattern.groups} groups",
                "Such as --regex 'val_loss=val loss ([0-9.]+)'.",
            )
        patterns[name] = pattern
    return patterns


def metrics(text: str, patterns: Patterns) -> dict[str, float]:
    """The number in the last match of each pattern that matches; it may be NaN."""
    values = {}
    for name, pattern in patterns.items():
        matches = pattern.findall(text)
        if not matches:
            continue
        try:
            values[name] = float(matches[-1].replace(",", ""))
        except ValueError:
            raise UsageError(
                f"--regex {name}={pattern.pattern}",
                "a number in its group",
                repr(matches[-1]),
                "Put only the digits into the group.",
            ) from None
    return values


def read(text: str, source: str, patterns: Patterns) -> list[LoggedRun]:
    """The run of a file; an empty list if no pattern matches."""
    values, bad = split_finite(metrics(text, patterns))
    if not values and not bad:
        return []
    return [
        LoggedRun(
            source=source,
            family=FAMILY,
            metrics=values,
            steps=0,
            ending=NOT_A_NUMBER.format(bad[0]) if bad else None,
            diverged=bool(bad),
        )
    ]
