"""Read a file and overrides into a checked `Config`; report all faults in one pass, with hints.

YAML 1.2, which includes JSON. `extends: other.yaml` reads another file's values first. Overrides
are dotted paths; `null` switches a trick off, `{}` switches it on with its defaults. A run
directory's config.json is valid input: its `requested` part is read.
"""

import copy
import dataclasses
import difflib
import io
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from model.config import Config
from model.errors import ConfigError, ConfigErrors

Nested = dict[str, Any]
MAX_VALUES = 1_000_000  # per file, which may list thousands of shards
MAX_LEVELS = 8  # a valid configuration has at most four levels
OFF_VALUES = {"off", "none", "no", "false", "disabled", "~"}
ON_VALUES = {"on", "yes", "true", "enabled"}


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration of `path` (null: all defaults) with `overrides`; raises ConfigErrors."""
    values = read_values(path) if path is not None else {}
    errors: list[ConfigError] = []
    apply_overrides(values, overrides or {}, errors)
    config: Config = build(Config, values, "", errors)
    if errors:
        raise ConfigErrors(errors)
    return config


def read_values(path: Path) -> Nested:
    """The nested mapping in a YAML or JSON file, after its `extends`; raises ConfigErrors."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        expected = f"a readable configuration file at {path}"
        raise _error(expected, str(error), "Check the path.", path) from None
    values: Nested = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        got = "an empty file" if values is None else type(values).__name__
        raise _error(
            "a mapping of sections", got, "Start with, for example, `dial: {depth: 4}`.", path
        )
    if "requested" in values and "resolved" in values:  # config.json of a run directory
        values = values["requested"]
    if isinstance(values.get("data"), str):
        values["data"] = _only_source(values["data"])
    parent = values.pop("extends", None)
    if parent is None:
        return values
    base = read_values(path.parent / str(parent))
    return _merged(base, values)


def parse_overrides(items: list[str]) -> Nested:
    """`["a.b=c", ...]` as {dotted path: value}; raises ConfigErrors.

    A value is read as YAML if it is a number, true, false or null, or starts like a list, a mapping
    or a quoted string. Any other value is a literal string (` #` is part of a path).
    """
    overrides = {}
    for item in items:
        path, equals, text = item.partition("=")
        if not equals or not path:
            raise _error("--set PATH=VALUE", repr(item), "Write, for example, --set dial.depth=8.")
        overrides[path] = _parse_option(text, f"--set {path}")
    return overrides


def _parse_option(text: str, where: str) -> Any:
    if text.lstrip()[:1] in ("[", "{", '"', "'"):
        value = parse_yaml(text, where)
        node = YAML(typ="safe", pure=True).compose(io.StringIO(text))
        if node.end_mark.index != len(text.rstrip()):
            got = f"more text after {text[: node.end_mark.index]!r}"
            raise _error("one list, mapping or quoted string", got, "Quote the whole value.", where)
        return value
    try:
        value = parse_yaml(text, where)
    except ConfigErrors:
        return text
    plain = value is None or isinstance(value, int | float)
    return value if plain and "#" not in text else text


def parse_yaml(text: str, where: str) -> Any:
    """One YAML 1.2 document as plain values; raises ConfigErrors naming `where`."""
    try:
        value = YAML(typ="safe", pure=True).load(io.StringIO(text))
        _check_size(value)
        return value
    except (YAMLError, RecursionError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise _error("valid YAML", problem[:300], "Correct the syntax.", where) from None


def _check_size(value: Any) -> None:
    """Raise ValueError for too many values or levels, for example from nested aliases."""
    remaining = [(value, 0)]
    for _ in range(MAX_VALUES):
        if not remaining:
            return
        item, level = remaining.pop()
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        remaining += [(each, level + 1) for each in inner]
        if level > MAX_LEVELS:
            raise ValueError(f"nested more than {MAX_LEVELS} levels deep")
    raise ValueError(f"more than {MAX_VALUES:,} values")


def apply_overrides(
    values: Nested, overrides: Mapping[str, Any], errors: list[ConfigError]
) -> None:
    """Set dotted paths in `values`, shorter paths first: a trick before its fields."""
    for path in sorted(overrides, key=lambda p: p.count(".")):
        value = overrides[path]
        if path == "data" and isinstance(value, str):
            value = {**(values.get("data") or {}), **_only_source(value)}
        *sections, last = path.split(".")
        place: Any = values
        for depth, name in enumerate(sections):
            if place.get(name) is None and _trick_is_off(sections[: depth + 1]):
                errors.append(_parent_is_off(path, ".".join(sections[: depth + 1])))
                break
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                errors.append(_wrong_type(".".join(sections[: depth + 1]), "a mapping", place))
                break
        else:
            # a copy, because longer paths are set inside it
            place[last] = copy.deepcopy(value)


def _only_source(name: str) -> Nested:
    """The meaning of `data: NAME`: another source with all its files."""
    return {"source": name, "train_files": None}


def _trick_is_off(sections: list[str]) -> bool:
    """Whether the path is a section with default null, which is off when absent."""
    kind: Any = Config
    for name in sections:
        fields = {f.name: f for f in dataclasses.fields(kind)} if _is_section(kind) else {}
        if name not in fields:
            return False
        hint = typing.get_type_hints(kind)[name]
        kind, optional = _without_none(hint)
    return optional and _is_section(kind)


def build(kind: type, values: Any, path: str, errors: list[ConfigError]) -> Any:
    """An instance of the section `kind` from a mapping; faults are appended to `errors`."""
    if not isinstance(values, dict):
        errors.append(_wrong_type(path, f"a mapping of {kind.__name__} fields", values))
        return kind()
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    built = {}
    for name, value in values.items():
        where = f"{path}.{name}" if path else str(name)
        if name not in known:
            errors.append(_unknown(where, str(name), known))
        else:
            default = getattr(kind(), name)
            built[name] = _value(hints[name], value, default, where, errors)
    return kind(**built)


def _value(hint: Any, value: Any, default: Any, path: str, errors: list[ConfigError]) -> Any:
    kind, optional = _without_none(hint)
    if value is None:
        if optional:
            return None
        errors.append(_wrong_type(path, _describe(kind), value))
        return default
    if _is_section(kind):
        text = str(value).lower() if isinstance(value, str | bool) else ""
        if optional and text in OFF_VALUES | ON_VALUES:
            errors.append(_not_a_switch(path, value, text in OFF_VALUES))
            return default
        if isinstance(default, kind) and isinstance(value, dict):
            value = {**_differences(default, kind), **value}
        return build(kind, value, path, errors)
    if _fits(kind, value):
        return _as_kind(kind, value)
    errors.append(_wrong_type(path, _describe(kind), value, optional))
    return default


def _differences(default: Any, kind: type) -> Nested:
    """Fields of a section default that differ from its class defaults (AdamW of a label)."""
    plain = kind()
    return {
        f.name: getattr(default, f.name)
        for f in dataclasses.fields(default)
        if getattr(default, f.name) != getattr(plain, f.name)
    }


def _fits(kind: Any, value: Any) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind) and not isinstance(value, bool)
    if typing.get_origin(kind) is tuple:
        each = typing.get_args(kind)[0]
        return isinstance(value, list | tuple) and all(_fits(each, item) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _as_kind(kind: Any, value: Any) -> Any:
    """Convert a valid value to the field's type: int to float, list to tuple."""
    if typing.get_origin(kind) is tuple:
        return tuple(_as_kind(typing.get_args(kind)[0], item) for item in value)
    return float(value) if kind is float else value


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        assert len(kinds) == 1, hint
        return kinds[0], True
    return hint, False


def _is_section(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list, each " + _describe(typing.get_args(kind)[0])
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}.get(
        kind, f"a mapping of {getattr(kind, '__name__', kind)} fields"
    )


def _unknown(path: str, name: str, known: list[str]) -> ConfigError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]}?" if close else "Known keys: " + ", ".join(known) + "."
    section = path.rpartition(".")[0] or "the top level"
    return ConfigError(path=path, expected=f"a known key of {section}", got=repr(name), hint=hint)


def _wrong_type(path: str, expected: str, value: Any, optional: bool = False) -> ConfigError:
    got = "null" if value is None else f"{value!r} ({type(value).__name__})"
    expected += " or null" if optional else ""
    return ConfigError(path=path, expected=expected, got=got, hint=f"Set {path} to {expected}.")


def _parent_is_off(path: str, trick: str) -> ConfigError:
    hint = f"Switch it on first, for example --set {trick}={{}}."
    return ConfigError(path=path, expected=f"{trick} to be on", got=f"{trick}: null", hint=hint)


def _not_a_switch(path: str, value: Any, off: bool) -> ConfigError:
    hint = f"Write {path}: null." if off else f"Write {path}: {{}} for its defaults."
    meaning = "null (off)" if off else "a mapping (on)"
    return ConfigError(path=path, expected=meaning, got=repr(value), hint=hint)


def _merged(base: Nested, over: Nested) -> Nested:
    """`base` updated with `over`, recursively."""
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _error(expected: str, got: str, hint: str, path: object = "") -> ConfigErrors:
    return ConfigErrors([ConfigError(expected=expected, got=got, hint=hint, path=str(path))])
