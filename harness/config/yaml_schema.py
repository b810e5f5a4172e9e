"""Reads strict YAML files and the values of command-line options; errors name line and key."""

import difflib
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import StudyFileError, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


Range = tuple[str, float | None, bool, str]  # field, value, whether it is good, what is wanted


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a file in which every key is known."""


def read_text(path: Path, what: str, example: str) -> str:
    """The text of a YAML file that a user named. Raises StudyFileError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise StudyFileError(
            str(path), what, str(error.strerror).lower(), f"Name a YAML file, such as {example}."
        ) from None
    except UnicodeDecodeError as error:
        raise StudyFileError(
            str(path),
            "UTF-8 text",
            f"a byte that is none, at {error.start}",
            "Save the file as UTF-8.",
        ) from None


def read_mapping(text: str, name: str, keys: str, examples: str) -> tuple[dict[str, Any], Any]:
    """The mapping that a YAML text is, and where its lines are. Raises StudyFileError."""
    plain, lines = read_yaml(text, name)
    if not isinstance(plain, dict):
        raise StudyFileError(
            name,
            f"a mapping with the keys {keys}",
            "an empty file" if plain is None else type(plain).__name__,
            f"See {examples} for complete examples.",
        )
    return plain, lines


def read_yaml(text: str, name: str) -> tuple[Any, Any]:
    """(plain values, the same with line numbers). Raises StudyFileError on what is not YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text), YAML(typ="rt").load(text)
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        problem = str(getattr(error, "problem", None) or error).partition(" with value")[0]
        duplicate = "duplicate key" in problem
        raise StudyFileError(
            f"{name}:{mark.line + 1}" if mark else name,
            "every key once" if duplicate else "YAML",
            problem,
            "Rename or remove one of them." if duplicate else "Correct that line.",
        ) from None


def schema_error(
    message: str,
    name: str,
    lines: Any,
    prefix: str,
    known_keys: Callable[[str], list[str]],
    suggest: Callable[[str], str | None] = lambda path: None,
) -> StudyFileError:
    """msgspec's sentence in three parts, with the line and the nearest known key.

    `known_keys`: the keys that may stand below a dotted path. `suggest`: what to write at a path
    whose value has the wrong type, where that is known.
    """
    text, _, tail = message.partition(" - at `$")
    inner = re.sub(r"\[.*?\]", "", tail.rstrip("`")).strip(".")
    path = ".".join(part for part in (prefix, inner) if part)
    if unknown := re.match(r"Object contains unknown field `(.*)`", text):
        key = unknown[1]
        known = known_keys(path)
        full = f"{path}.{key}" if path else key
        return StudyFileError(
            location(name, lines, full),
            "one of the keys " + ", ".join(known),
            repr(key),
            nearest(key, known) or "Remove it.",
        )
    if missing := re.match(r"Object missing required field `(.*)`", text):
        return StudyFileError(
            location(name, lines, path),
            f"the key {missing[1]!r}",
            "none",
            f"Add `{missing[1]}:`; ablations/ has complete examples.",
        )
    wanted, _, found = text.removeprefix("Expected ").partition(", got ")
    return StudyFileError(
        location(name, lines, path),
        wanted.replace("`", "") or "a value of the right type",
        found.replace("`", "") or text,
        suggest(path) or "Write a value of that type.",
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """A sentence that names the nearest known word, or None where none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else None


def location(name: str, lines: Any, path: str) -> str:
    """`file:line: field` as exactly as the lines are known."""
    node, line = lines, None
    for part in filter(None, path.split(".")):
        try:
            line = node.lc.data[part][0] + 1
            node = node[part]
        except (AttributeError, KeyError, TypeError):
            break
    return f"{name}{f':{line}' if line else ''}{f': {path}' if path else ''}"


def alpha_range(path: str, alpha: float) -> Range:
    """Where an error rate may lie."""
    return path, alpha, 0 < alpha < 1, "between 0 and 1"


def check_ranges(ranges: Iterable[Range], where: Callable[[str], str]) -> None:
    """Raises StudyFileError for the first number out of its range."""
    for path, value, good, wanted in ranges:
        if not good:
            raise StudyFileError(
                where(path), f"a number {wanted}", repr(value), "Write such a number."
            )


def check_name(name: str, where: str) -> None:
    if not NAME.fullmatch(name):
        raise StudyFileError(
            where,
            "a name of letters, digits, dot, dash and underscore",
            repr(name),
            "It names files in the store: rename it.",
        )


def check_seeds(seeds: list[int], where: str) -> None:
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if not seeds or repeated or min(seeds) < 0:
        raise StudyFileError(
            where,
            "at least one seed, each once, none negative",
            f"{repeated} more than once" if repeated else repr(seeds),
            "Every seed is a replicate of its own: write each once, such as [1, 2, 3].",
        )


def parse_choice(text: str, words: tuple[Any, ...], option: str, hint: str) -> Any:
    """`text`, which has to be one of an option's words. Raises UsageError."""
    if text in words:
        return text
    expected = f"{', '.join(words[:-1])} or {words[-1]}"
    raise UsageError(option, expected, repr(text), hint)


def parse_sets(pairs: Iterable[str]) -> dict[str, Any]:
    """`["a.b=c"]` to `{"a.b": c}`, values read as YAML. Raises UsageError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    found: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        try:
            value = YAML(typ="safe", pure=True).load(io.StringIO(text))
        except YAMLError:
            equals = ""
        if not equals or not path.strip():
            raise UsageError(
                "--set",
                "field=value, such as dial.depth=8",
                repr(pair),
                "Write the dotted field, an equals sign and a YAML value.",
            )
        found[path.strip()] = value
    return found


def parse_seeds(text: str) -> list[int]:
    """`"1,2,5-7"` to `[1, 2, 5, 6, 7]`. Raises UsageError."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise UsageError(
                "",
                "numbers such as 1,2,3 or 0-7",
                repr(text),
                "Separate them by commas; a range has a dash.",
            )
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    if len(set(found)) != len(found):
        raise UsageError("", "each number once", repr(text), "Write each once.")
    return found
