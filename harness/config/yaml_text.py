"""Reads YAML from any author: a tree of plain values of bounded size, with the lines of its keys.

A file that is small as text may be huge as values (aliases of aliases), endless (an alias inside
itself) or too deep for the interpreter. The tree is measured before its values are made. Dates stay
text, because JSON has none; other types than those of JSON are refused.
"""

import io
from typing import Any

MOST_CHARACTERS = 4_000_000
MOST_VALUES = 1_000_000  # with every alias written out
DEEPEST = 64
_TAG = "tag:yaml.org,2002:"
_PLAIN = {_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}
_DATE = _TAG + "timestamp"
_MEANT = "[{\"'"  # what begins with one of these is YAML also in an option
_TYPED = {_TAG + name for name in ("int", "float", "bool", "null")}


class YamlTextError(ValueError):
    """A text that is no such YAML. `line` counts from 1; None if it is unknown."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem, self.line = problem, line


class Document:
    """One YAML document. `value`: plain values; None for an empty text."""

    def __init__(self, value: Any, node: Any) -> None:
        self.value, self._node = value, node

    def line_of(self, path: str) -> int | None:
        """The line of the deepest key of a dotted path that the document has."""
        node, line = self._node, None
        for part in filter(None, path.split(".")):
            pairs = node.value if node is not None and node.id == "mapping" else ()
            found = next((pair for pair in pairs if pair[0].value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        return line


def parse(text: str) -> Document:
    """The document of a text. Raises YamlTextError."""
    return _parse(text)[0]


def parse_option(text: str) -> Any:
    """The value of an option: as typed, unless it is YAML for something else than text.

    A list, a mapping and a quoted text begin with one of `[{"'`; a number, true, false and null are
    what the whole text is. So ` #`, `: ` and `*` are nothing special in a path. Raises
    YamlTextError for a list, mapping or quoted text that is invalid or does not end with the text.
    """
    meant = text.lstrip()[:1] in set(_MEANT)
    try:
        document, tag, end = _parse(text)
    except YamlTextError:
        if meant:
            raise
        return text
    whole = end == len(text.rstrip())
    if meant and not whole:
        raise YamlTextError(f"more text after {text[:end]!r}")
    return document.value if whole and (meant or tag in _TYPED) else text


def _parse(text: str) -> tuple[Document, str, int]:
    """Returns (the document, the tag of its root, where the root ends). Raises YamlTextError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text) > MOST_CHARACTERS:
        raise YamlTextError(f"more than {MOST_CHARACTERS:,} characters")
    try:
        reader = YAML(typ="safe", pure=True)
        constructor, _ = reader.get_constructor_parser(io.StringIO(text))
        composer = constructor.composer
        composer.warn_double_anchors = False  # YAML allows them: an alias is of the last one
        node = composer.get_single_node()
        if node is None:
            return Document(None, None), _TAG + "null", 0
        _check_size(node)
        value = constructor.construct_document(node)
    except RecursionError:
        raise YamlTextError(f"nested more than {DEEPEST} levels deep") from None
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        problem = str(getattr(error, "problem", None) or error).partition(" with value")[0]
        raise YamlTextError(problem[:300], mark.line + 1 if mark else None) from None
    except (ValueError, OverflowError) as error:  # an integer of thousands of digits
        raise YamlTextError(str(error)[:300]) from None
    return Document(value, node), str(node.tag), node.end_mark.index


def _check_size(root: Any) -> None:
    """Raises YamlTextError for a tree that is too large, too deep, or not of plain values."""
    measured: dict[int, tuple[int, int]] = {}  # id of a node: (values below it, levels)
    opened: set[int] = set()

    def measure(node: Any) -> tuple[int, int]:
        if id(node) in opened:
            raise YamlTextError("an alias inside itself", node.start_mark.line + 1)
        if id(node) not in measured:
            opened.add(id(node))
            below = [measure(one) for one in _children(node)]
            opened.remove(id(node))
            size = 1 + sum(one[0] for one in below)
            measured[id(node)] = size, 1 + max((one[1] for one in below), default=0)
        return measured[id(node)]

    size, levels = measure(root)
    if size > MOST_VALUES:
        raise YamlTextError(f"more than {MOST_VALUES:,} values, with every alias written out")
    if levels > DEEPEST:
        raise YamlTextError(f"nested more than {DEEPEST} levels deep")


def _children(node: Any) -> list[Any]:
    """The nodes inside a node, which is checked. Raises YamlTextError."""
    line = node.start_mark.line + 1
    if str(node.tag) == _DATE:
        node.tag = _TAG + "str"
    elif str(node.tag) not in _PLAIN:
        raise YamlTextError(f"the type {str(node.tag).removeprefix(_TAG)!r}", line)
    if node.id == "scalar":
        if "\0" in node.value:
            raise YamlTextError("a NUL character", line)
        return []
    if node.id == "sequence":
        return list(node.value)
    if any(key.id != "scalar" for key, _ in node.value):
        raise YamlTextError("a key that is no text", line)
    return [one for pair in node.value for one in pair]
