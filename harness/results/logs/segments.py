"""Several runs in one file, and one run in several parts.

A run starts again from its first step; a resumed run goes back to a checkpoint. Both show as a step
that does not increase, other than in a line that is printed twice. Launchers put a prefix on every
line: a rank, a time stamp or both.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

MAX_PREFIX, MAX_SHAPES = 120, 50  # characters; prefixes that differ in more than numbers
REPEATED_WITHIN = 2000  # characters; between two starts of a script lies its header
_RANK = r"(?i)\[(?:[a-z_ ]+=?)?(\d{1,9})\]:?|\brank[ =:]?(\d{1,9})|^(\d{1,9}): "


class _Line(NamedTuple):
    """A line with a step: its number, the planned steps (None: not stated), and its kind."""

    step: int
    planned: int | None
    kind: str


def split_runs(text: str, line: re.Pattern[str], trailer: re.Pattern[str]) -> list[list[str]]:
    """The text of each run; several texts for a run that was resumed.

    Args:
        text: the content of a file after a line break.
        line: matches a line break and a line with a step; its groups are step, planned steps, and
            a mark of the kind of line. Steps increase within a kind.
        trailer: matches a line break and a line that a run prints after its last step.
    """
    lines = line.findall(text)
    starts = _segment_starts(lines)
    if len(starts) < 2:
        return [[text]]
    positions = [match.start() for match in line.finditer(text)]
    cuts = [0]
    for start in starts[1:]:
        after = [m.end() for m in trailer.finditer(text, positions[start - 1], positions[start])]
        cuts.append(max([line_end(text, positions[start - 1] + 1), *after]))
    parts = [text[cut:end] for cut, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]
    segments = [
        [_line(*one) for one in lines[i:j]]
        for i, j in zip(starts, [*starts[1:], len(lines)], strict=True)
    ]
    runs: list[list[str]] = []
    for index, part in enumerate(parts):
        if index and _resumes(segments[index - 1], segments[index]):
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def last_step(text: str, line: re.Pattern[str]) -> int | None:
    """The step of the last line that `line` matches, as for `split_runs`."""
    position = len(text)
    while (position := text.rfind("\n", 0, position)) >= 0:
        if match := line.match(text, position):
            return int(match[1])
    return None


def _segment_starts(lines: Sequence[tuple[str, str, str]]) -> list[int]:
    """The indices of lines whose step does not increase within its kind."""
    starts: list[int] = []
    last: dict[str, int] = {}
    for index, (text, _, kind) in enumerate(lines):
        step = int(text)
        if not starts or step <= last.get(kind, -1):
            starts.append(index)
            last = {}
        last[kind] = step
    return starts


def _line(step: str, planned: str, kind: str) -> _Line:
    return _Line(int(step), int(planned) if planned else None, kind)


def _resumes(before: Sequence[_Line], after: Sequence[_Line]) -> bool:
    """Whether a segment continues the one before it from a checkpoint.

    It has the same planned steps, which the one before did not reach, and neither starts at the
    first step nor where the one before it starts.
    """
    first, reached = after[0], max(line.step for line in before)
    planned = {line.planned for line in (*before, *after) if line.planned is not None}
    same_kind = [line.step for line in before if line.kind == first.kind]
    return (
        len(planned) == 1
        and reached < planned.pop()
        and 1 < first.step <= reached + 1
        and first.step > min(same_kind, default=0)
    )


def line_end(text: str, position: int) -> int:
    """Where the line at a position ends."""
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def without_repeats(text: str, line: re.Pattern[str]) -> str:
    """The text without lines that are printed again: two handlers of a logger print each twice.

    `line`: as for `split_runs`.
    """
    last: dict[str, tuple[str, int]] = {}
    kept, at = [], 0
    for match in line.finditer(text):
        end = line_end(text, match.start() + 1)
        shown, kind = text[match.start() : end], match[3]
        known, where = last.get(kind, ("", 0))
        if shown == known and match.start() - where < REPEATED_WITHIN:
            kept.append(text[at : match.start()])
            at = end
        last[kind] = shown, end
    return "".join([*kept, text[at:]])


class LinePrefix(NamedTuple):
    """What a launcher puts before the lines of a trainer; of several ranks, `rank` is read."""

    pattern: re.Pattern[str] | None = None
    rank: int | None = None

    def strip(self, text: str) -> str:
        """The text without the prefix, and without the lines of other ranks."""
        if self.pattern is None:
            return text
        kept = []
        for line in text.splitlines(keepends=True):
            match = self.pattern.match(line)
            if match and self.rank is not None and _rank(match[0]) not in (None, self.rank):
                continue
            kept.append(line[match.end() :] if match else line)
        return "".join(kept)


def find_prefix(text: str, marks: str) -> LinePrefix:
    """The prefix of the lines of a text; an empty one where no line has a mark after a prefix.

    `marks`: a pattern of what a trainer's line starts with. Each number of a prefix stands for any.
    """
    shapes: dict[str, None] = {}
    ranks: set[int] = set()
    for line in text.splitlines():
        found = re.search(marks, line)
        if found and 0 < found.start() <= MAX_PREFIX:
            prefix = line[: found.start()]
            shapes[re.sub(r"\d+", lambda _: r"\d+", re.escape(prefix))] = None
            if (rank := _rank(prefix)) is not None:
                ranks.add(rank)
    if not 0 < len(shapes) <= MAX_SHAPES:
        return LinePrefix()
    pattern = re.compile("|".join(sorted(shapes, key=len, reverse=True)))
    return LinePrefix(pattern, min(ranks) if len(ranks) > 1 else None)


def _rank(prefix: str) -> int | None:
    found = re.search(_RANK, prefix)
    return int(next(group for group in found.groups() if group)) if found else None
