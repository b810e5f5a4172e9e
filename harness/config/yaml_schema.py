"""Strict schemas of YAML files, and parsers of option values; errors name the line and the key."""

import difflib
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from harness.errors import StudyFileError, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
EXAMPLES = "`harness init` copies complete examples into ablations/."
Where = Callable[[str], str]  # locates the field at a dotted path
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
NotNegativeInt = Annotated[int, msgspec.Meta(ge=0)]
ErrorRate = Annotated[float, msgspec.Meta(gt=0, lt=1)]
_RANGES = {">=": "of {:g} or above", ">": "above {:g}", "<=": "of {:g} or below", "<": "below {:g}"}
_RENAMED = {"many": "correction"}  # keys that users of an earlier version still write


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section of a file; unknown keys are errors."""


def read_text(path: Path, what: str, example: str) -> str:
    """Reads a YAML file as text. Raises StudyFileError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        got = str(error.strerror).lower().removeprefix("is ")
        hint = f"Name a YAML file, such as {example}; {EXAMPLES}"
        raise StudyFileError(str(path), what, got, hint) from None
    except UnicodeDecodeError as error:
        got = f"an invalid byte at {error.start}"
        raise StudyFileError(str(path), "UTF-8 text", got, "Save the file as UTF-8.") from None


def read_mapping(text: str, name: str, keys: str, examples: str) -> tuple[dict[str, Any], Where]:
    """Returns (a mapping from YAML, what locates its fields). Raises StudyFileError."""
    plain, lines = _read_yaml(text, name)
    if not isinstance(plain, dict):
        expected = f"a mapping with the keys {keys}"
        got = "an empty file" if plain is None else type(plain).__name__
        raise StudyFileError(name, expected, got, f"See {examples}; {EXAMPLES}")
    return plain, lambda path: _location(name, lines, path)


def _read_yaml(text: str, name: str) -> tuple[Any, Any]:
    """Returns (plain values, the same with line numbers). Raises StudyFileError."""
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
        required = _fields(kind, inner[:-1])[inner[-1]].required
        hint = "Write a number in that range" + ("." if required else ", or leave it out.")
        expected = f"a number {_RANGES[limit[1]].format(float(limit[2]))}"
        return StudyFileError(where(place), expected, repr(value), hint)
    expected, _, got = text.removeprefix("Expected ").partition(", got ")
    return StudyFileError(
        where(place),
        expected.replace("`", "") or "a value of the right type",
        got.replace("`", "") or text,
        suggest(place) or "Write a value of that type.",
    )


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


def _location(name: str, lines: Any, path: str) -> str:
    """`file:line: field`, as far as the line is known."""
    node, line = lines, None
    for part in filter(None, path.split(".")):
        try:
            line = node.lc.data[part][0] + 1
            node = node[part]
        except (AttributeError, KeyError, TypeError):
            break
    return f"{name}{f':{line}' if line else ''}{f': {path}' if path else ''}"


def check_name(name: str, where: str) -> None:
    """Raises StudyFileError for a name that cannot name a file."""
    if not NAME.fullmatch(name):
        expected = "a name of letters, digits, dot, dash and underscore"
        raise StudyFileError(where, expected, repr(name), "It names files in the store: rename it.")


def check_seeds(seeds: list[int], where: str) -> None:
    """Raises StudyFileError for no seeds, repeated or negative ones."""
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if not seeds or repeated or min(seeds) < 0:
        got = f"{repeated} more than once" if repeated else repr(seeds)
        hint = "Each seed is one replicate: write each once, such as [1, 2, 3]."
        raise StudyFileError(where, "at least one seed, each once and not negative", got, hint)


def find_base(path: Path, base: str) -> str:
    """The configuration that a file at `path` names relative to itself. Raises StudyFileError."""
    file = (path.parent / base).resolve()
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
    """Parses `["a.b=c"]` to `{"a.b": c}`; values are YAML. Raises UsageError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    overrides: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        try:
            value = YAML(typ="safe", pure=True).load(io.StringIO(text))
        except YAMLError:
            equals = ""
        if not equals or not path.strip():
            hint = "Write a dotted field, an equals sign and a YAML value."
            raise UsageError("--set", "field=value, such as dial.depth=8", repr(pair), hint)
        overrides[path.strip()] = value
    return overrides


def parse_seeds(text: str, option: str) -> list[int]:
    """Parses `"1,2,5-7"` to `[1, 2, 5, 6, 7]`. Raises UsageError, which names the option."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            hint = "Separate numbers by commas; write a range with a dash."
            raise UsageError(option, "numbers such as 1,2,3 or 0-7", repr(text), hint)
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    if len(set(numbers)) != len(numbers):
        raise UsageError(option, "each number once", repr(text), "Write each once.")
    return numbers
