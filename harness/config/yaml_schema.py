"""Strict schemas of YAML files, and parsers of option values; errors name the line and the key."""

import contextlib
import difflib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import msgspec

from harness import files
from harness.config import yaml_text
from harness.config.field_types import LARGEST_SEED, MOST_SEEDS, NAME_PATTERN
from harness.config.yaml_text import YamlTextError
from harness.errors import StudyFileError, UsageError

NAME = re.compile(NAME_PATTERN)
EXAMPLES = "`harness init` copies complete examples into ablations/."
Where = Callable[[str], str]  # locates the field at a dotted path
_RANGES = {">=": "of {:g} or above", ">": "above {:g}", "<=": "of {:g} or below", "<": "below {:g}"}
LONGEST_SHOWN = 100  # characters of a wrong value in an error
_RENAMED = {"many": "correction"}  # keys that users of an earlier version still write


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section of a file; unknown keys are errors."""


def read_text(path: Path, what: str, example: str) -> str:
    """Reads a YAML file as text. Raises StudyFileError."""
    try:
        with files.open_regular(path, follow=True) as handle:
            text = io.TextIOWrapper(handle, encoding="utf-8-sig")
            return text.read(yaml_text.MOST_CHARACTERS + 1)  # `parse` refuses a longer text
    except OSError as error:
        got = str(error.strerror).lower().removeprefix("is ")
        hint = f"Name a YAML file, such as {example}; {EXAMPLES}"
        raise StudyFileError(str(path), what, got, hint) from None
    except UnicodeDecodeError as error:
        got = f"an invalid byte at {error.start}"
        raise StudyFileError(str(path), "UTF-8 text", got, "Save the file as UTF-8.") from None


def read_mapping(text: str, name: str, keys: str, examples: str) -> tuple[dict[str, Any], Where]:
    """Returns (a mapping from YAML, what locates its fields). Raises StudyFileError."""
    try:
        document = yaml_text.parse(text)
    except YamlTextError as error:
        duplicate = "duplicate key" in error.problem
        raise StudyFileError(
            f"{name}:{error.line}" if error.line else name,
            "every key once" if duplicate else "YAML",
            error.problem,
            "Rename or remove one of them." if duplicate else "Correct that line.",
        ) from None
    if not isinstance(document.value, dict):
        expected = f"a mapping with the keys {keys}"
        got = "an empty file" if document.value is None else type(document.value).__name__
        raise StudyFileError(name, expected, got, f"See {examples}; {EXAMPLES}")
    return document.value, lambda path: _location(name, document.line_of(path), path)


def convert(
    value: Any,
    kind: Any,
    where: Where,
    path: str = "",
    suggest: Callable[[str], str | None] = lambda path: None,
) -> Any:
    """A value of a file as `kind`. Raises StudyFileError with the line and the nearest known key.

    Args:
        value: Plain values, as YAML has them.
        kind: The type to convert to.
        where: Locates a field of the file by its dotted path.
        path: The dotted path of the value.
        suggest: Returns a hint for a path whose value has the wrong type, or None.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _schema_error(str(error), value, kind, where, path, suggest) from None


def _schema_error(
    message: str,
    value: Any,
    kind: Any,
    where: Where,
    path: str,
    suggest: Callable[[str], str | None],
) -> StudyFileError:
    """Translates a message of msgspec."""
    text, _, tail = message.partition(" - at `$")
    inner = [part for part in re.sub(r"\[.*?\]", "", tail.rstrip("`")).split(".") if part]
    place = ".".join(filter(None, [path, *inner]))
    if unknown := re.match(r"Object contains unknown field `(.*)`", text):
        key, known = unknown[1], list(_fields(kind, inner))
        at, hint = where(f"{place}.{key}".lstrip(".")), nearest(key, known) or "Remove it."
        return StudyFileError(at, "one of the keys " + ", ".join(known), repr(key), hint)
    if missing := re.match(r"Object missing required field `(.*)`", text):
        hint = f"Add `{missing[1]}:`; {EXAMPLES}"
        return StudyFileError(where(place), f"the key {missing[1]!r}", "none", hint)
    if limit := re.match(r"Expected `(?:int|float)` (>=|>|<=|<) (\S+)", text):
        for part in inner:
            value = value[part]
        for index in re.findall(r"\[(\d+)\]", tail.rpartition(".")[2]):
            value = value[int(index)]
        required = _fields(kind, inner[:-1])[inner[-1]].required
        hint = "Write a number in that range" + ("." if required else ", or leave it out.")
        expected = f"a number {_RANGES[limit[1]].format(float(limit[2]))}"
        return StudyFileError(where(place), expected, _shown(value), hint)
    expected, _, got = text.removeprefix("Expected ").partition(", got ")
    return StudyFileError(
        where(place),
        expected.replace("`", "") or "a value of the right type",
        got.replace("`", "") or text,
        suggest(place) or "Write a value of that type.",
    )


def _shown(value: Any) -> str:
    """A value as Python shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + " ..."


def _fields(kind: Any, path: Iterable[str]) -> dict[str, Any]:
    """The fields of the section at a path below the struct `kind`, by key."""
    fields = {one.encode_name: one for one in msgspec.structs.fields(kind)}
    for part in path:
        kinds = (fields[part].type, *get_args(fields[part].type))
        section = next(one for one in kinds if isinstance(one, type) and issubclass(one, Strict))
        fields = {one.encode_name: one for one in msgspec.structs.fields(section)}
    return fields


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A sentence with the most similar known name, or None if none is similar."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if (renamed := _RENAMED.get(name)) in names:
        close = [renamed]
    return f"Did you mean {close[0]!r}?" if close else None


def _location(name: str, line: int | None, path: str) -> str:
    """`file:line: field`, as far as the line is known."""
    return f"{name}{f':{line}' if line else ''}{f': {path}' if path else ''}"


def check_name(name: str, where: str) -> None:
    """Raises StudyFileError for a name that cannot name a file."""
    if not NAME.fullmatch(name):
        expected = "a name of letters, digits, dot, dash and underscore"
        raise StudyFileError(where, expected, repr(name), "It names files in the store: rename it.")


def check_seeds(seeds: list[int], where: str) -> None:
    """Raises StudyFileError for no seeds, too many, or repeated ones."""
    repeated = sorted(seed for seed, times in Counter(seeds).items() if times > 1)
    if not seeds or repeated or len(seeds) > MOST_SEEDS:
        got = f"{repeated[:6]} more than once" if repeated else f"{len(seeds):,} of them"
        hint = "Each seed is one replicate: write each once, such as [1, 2, 3]."
        expected = f"1 to {MOST_SEEDS:,} seeds, each once"
        raise StudyFileError(where, expected, got, hint)


def find_base(path: Path, base: str) -> str:
    """The configuration that a file at `path` names relative to itself. Raises StudyFileError."""
    file = path.parent / base
    with contextlib.suppress(OSError):  # a name that is too long
        file = file.resolve()
        if file.is_file():
            return str(file)
    expected = "the path of a configuration file, relative to this file"
    hint = nearest(file.name, [other.name for other in file.parent.glob("*.yaml")]) or EXAMPLES
    raise StudyFileError(f"{path}: base", expected, f"no file {file}", hint)


def parse_choice(text: str, choices: tuple[Any, ...], option: str, hint: str) -> Any:
    """Returns `text` if it is one of the choices of an option. Raises UsageError."""
    if text in choices:
        return text
    expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
    raise UsageError(option, expected, repr(text), hint)


def parse_sets(pairs: Iterable[str]) -> dict[str, Any]:
    """Parses `["a.b=c"]` to `{"a.b": c}`; values as of `parse_option`. Raises UsageError."""
    overrides: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        try:
            overrides[path.strip()] = yaml_text.parse_option(text)
        except YamlTextError as error:
            expected, hint = "a whole list, mapping or quoted text", "Quote a text that is none."
            raise UsageError(f"--set {path}", expected, f"{text!r} ({error})", hint) from None
        if not equals or not path.strip():
            hint = "Write a dotted field, an equals sign and a value."
            raise UsageError("--set", "field=value, such as dial.depth=8", repr(pair), hint)
    return overrides


def parse_seeds(text: str, option: str, most: int = MOST_SEEDS) -> list[int]:
    """Parses `"1,2,5-7"` to `[1, 2, 5, 6, 7]`. Raises UsageError, which names the option."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,19})(?:-([0-9]{1,19}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first or last > LARGEST_SEED:
            hint = "Separate numbers by commas; write a range with a dash."
            raise UsageError(option, "numbers such as 1,2,3 or 0-7", repr(text), hint)
        if len(numbers) + last - first >= most:
            hint = "Write fewer; a range with a dash includes both ends."
            raise UsageError(option, f"at most {most:,} numbers", repr(text), hint)
        numbers += range(first, last + 1)
    if len(set(numbers)) != len(numbers):
        raise UsageError(option, "each number once", repr(text), "Write each once.")
    return numbers
