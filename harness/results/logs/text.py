"""The text of a file of runs, whatever its encoding, compression and size.

A file is UTF-8, UTF-16 or UTF-32, with or without a byte-order mark, or gzip of one of these. A log
is read in blocks of lines. One that fits into a block is kept whole. Of a longer one, the lines
that a reader uses are kept, and of the text before the first step of each run, where scripts print
their source and their machine, both ends; so memory grows with the steps of a log and not with its
size.
"""

import codecs
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

from harness import files
from harness.results.logs.run_log import LogError
from harness.results.logs.segments import LinePrefix, find_prefix, line_end

BLOCK_CHARACTERS = 2**24
HEADER_CHARACTERS = 2**20  # of each end; the longest published script has 0.2 million
MOST_CHARACTERS = 2**26  # kept of a log, or in a table: about a million steps
GZIP = ".gz"
_GZIP_MAGIC = b"\x1f\x8b"
_MARKS = (  # the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 256
_ANSI = re.compile(r"\x1b\[[0-9;]*m|\ufeff")


class LogLines(NamedTuple):
    """What is kept of a long log.

    Attributes:
        step: matches a line break and a line with a step, its first group.
        others: match other text; the lines that it lies in are kept.
        marks: a pattern of what a trainer's line starts with, after any prefix.
    """

    step: re.Pattern[str]
    others: Sequence[re.Pattern[str]]
    marks: str


def suffix(path: Path) -> str:
    """The suffix of a file without `.gz`."""
    return (path.with_suffix("") if path.suffix == GZIP else path).suffix


def read_table(path: Path) -> str:
    """The whole text of a file. Raises LogError for one that is damaged or too long."""
    blocks = list(_blocks(path, MOST_CHARACTERS + 1, 0))
    if len(blocks) > 1 or sum(map(len, blocks)) > MOST_CHARACTERS:
        raise _too_long(path, "a table", "Export fewer rows or columns.")
    return "".join(blocks)


def read_log(path: Path, lines: LogLines) -> str:
    """The text of a log behind a line break, without terminal colors and prefixes of launchers.

    Raises LogError for a file that is damaged or has too many steps.
    """
    kept = _Kept(path, lines)
    blocks = _blocks(path, BLOCK_CHARACTERS, HEADER_CHARACTERS)
    first, second = next(blocks), next(blocks, None)
    if second is None:
        return "\n" + kept.plain(first)
    for block in itertools.chain((first, second), blocks):
        kept.add(block)
    return kept.text()


def _blocks(path: Path, characters: int, more: int) -> Iterator[str]:
    """The text of a file in blocks that end with a line; of an endless one, after `more`.

    At least one block, empty for an empty file.
    """
    try:
        with ExitStack() as opened, _open(path, opened) as file:
            block = file.read(characters) + file.readline(more)
            yield block
            while block := file.read(characters) + file.readline(more):
                yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        got = f"damaged gzip ({error})"
        raise LogError(str(path), "a readable file", got, "Copy it again.") from error
    except OSError as error:
        got = str(error.strerror or error).lower()
        raise LogError(
            str(path), "a readable file", got, "Name a file that you may read."
        ) from error


def _open(path: Path, opened: ExitStack) -> IO[str]:
    raw = opened.enter_context(files.open_regular(path, follow=True))
    packed = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    raw.seek(0)
    stream = opened.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw
    start = stream.read(_SAMPLE_BYTES)
    stream.seek(0)
    return io.TextIOWrapper(stream, encoding=_encoding(start), errors="replace")


def _encoding(start: bytes) -> str:
    """The encoding of a text that starts so; without a mark, UTF-16 has a zero in each letter."""
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    for at, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, letters = start[at::2], start[1 - at :: 2]
        if len(start) > 2 and not any(zeros) and all(letters):
            return name
    return "utf-8"


class _Kept:
    """The lines that are kept of a long log."""

    def __init__(self, path: Path, lines: LogLines) -> None:
        self._path, self._lines = path, lines
        self._parts: list[str] = []
        self._characters = 0
        self._gap = _Gap()
        self._last_step = -1
        self._has_steps, self._prefix = False, _NO_PREFIX
        self._ends_line = False

    def plain(self, block: str) -> str:
        """A block without colors and without the prefix, which is looked for until a step shows."""
        block = _ANSI.sub("", block) if "\x1b" in block or "\ufeff" in block else block
        if not self._has_steps and self._prefix is _NO_PREFIX:
            self._has_steps = bool(self._lines.step.search("\n" + block))
            if not self._has_steps and re.search(self._lines.marks, block):
                self._prefix = find_prefix(block, self._lines.marks)
        return self._prefix.strip(block)

    def add(self, block: str) -> None:
        """Keeps what is of use in a block of lines."""
        self._ends_line = block.endswith("\n")
        text = "\n" + self.plain(block).removesuffix("\n")
        at = 0
        for start, end, step in self._spans(text):
            if start < at:  # several patterns match one line
                continue
            self._gap.add(text[at:start])
            if step is not None:
                self._keep(self._gap.take() if step <= self._last_step else self._first_header())
                self._gap, self._last_step = _Gap(), step
            self._keep(text[start:end])
            at = end
        self._gap.add(text[at:])

    def _first_header(self) -> str:
        return self._gap.take() if self._last_step < 0 else ""

    def _spans(self, text: str) -> list[tuple[int, int, int | None]]:
        """The lines to keep in order: start with the line break before it, end, step."""
        spans: list[tuple[int, int, int | None]] = []
        for match in self._lines.step.finditer(text):
            spans.append((match.start(), line_end(text, match.start() + 1), int(match[1])))
        for pattern in self._lines.others:
            for match in pattern.finditer(text):
                start = max(text.rfind("\n", 0, match.start() + 1), 0)
                spans.append((start, line_end(text, max(match.end(), start + 1)), None))
        return sorted(spans, key=lambda span: (span[0], span[2] is None))

    def _keep(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > MOST_CHARACTERS:
            raise _too_long(self._path, "lines with steps", "Split it, one file a run.")
        self._parts.append(text)

    def text(self) -> str:
        """All that was kept, with what followed the last step."""
        end = "\n" if self._ends_line else ""
        return "".join([*self._parts, self._gap.take()]) + end


_NO_PREFIX = LinePrefix()


class _Gap:
    """Text between two kept lines: both ends of it."""

    def __init__(self) -> None:
        self._head, self._cut = "", False
        self._tail: list[str] = []
        self._tail_characters = 0

    def add(self, text: str) -> None:
        """Adds text at the end."""
        if (room := HEADER_CHARACTERS - len(self._head)) > 0:
            self._head, text = self._head + text[:room], text[room:]
        if not text:
            return
        self._tail.append(text)
        self._tail_characters += len(text)
        if self._tail_characters > 2 * HEADER_CHARACTERS:  # joined rarely: pieces may be short
            self._tail = ["".join(self._tail)[-HEADER_CHARACTERS:]]
            self._tail_characters, self._cut = HEADER_CHARACTERS, True

    def take(self) -> str:
        """The text, or its ends on lines of their own."""
        return "".join([self._head, "\n" if self._cut else "", *self._tail])


def _too_long(path: Path, what: str, hint: str) -> LogError:
    expected = f"{what} of {MOST_CHARACTERS / 1e6:.0f} million characters at most"
    return LogError(str(path), expected, "more", hint)
