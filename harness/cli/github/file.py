"""One workflow file as a tree that can be changed and written back without losing a comment.

YAML 1.2 by ruamel's round trip: `on:` stays a string, comments, order and quotes survive. A file is
written only if the round trip keeps the indentation of every line and every comment; what cannot be
kept (tabs, mixed indentation, parts that stand for others) is refused, and the file is left as it
was. First of the files about CI; knows nothing of what a workflow means.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.errors import WorkflowFileError

Tree = Any  # a CommentedMap: ruamel has no types of its own for what is inside
INDENTS = ((2, 2), (2, 0), (4, 2), (4, 0), (2, 4), (4, 4))  # of keys; of dashes below their key
_COMMENT = re.compile(r"(?:^|\s)(#.*)$", re.MULTILINE)
_NEVER_FOLDED = 1 << 16  # columns


def parse(text: str, name: str) -> Tree:
    """The tree of a workflow or an action.

    Raises:
        WorkflowFileError: what is not YAML, a key that stands twice, a merge key, not a mapping.
    """
    from ruamel.yaml.error import YAMLError

    try:
        tree = _yaml(2, 2).load(text)
    except YAMLError as error:
        raise _unreadable(error, name) from None
    if not isinstance(tree, dict):
        raise WorkflowFileError(
            name,
            "a workflow: keys such as on and jobs",
            "an empty file" if tree is None else "a list" if isinstance(tree, list) else "text",
            "Remove the file, and `harness ci init` writes a whole one.",
        )
    _refuse_merge_keys(tree, name)
    return tree


@dataclass(frozen=True)
class Changeable:
    """A tree that may be changed in place, and how its file is indented."""

    tree: Tree
    keys: int
    dashes: int

    def text(self) -> str:
        """The file as the tree has it now."""
        return _dump(self.tree, self.keys, self.dashes)


def parse_for_change(text: str, name: str) -> Changeable:
    """A file that is going to be changed.

    Raises:
        WorkflowFileError: as `parse`, and for anchors and indentation that would not survive.
    """
    tree = parse(text, name)
    _refuse_anchors(text, name)
    return Changeable(tree, *_indents(tree, text, name))


def comments(text: str) -> set[str]:
    """Every comment of a text (and every # in its scripts)."""
    return set(_COMMENT.findall(text))


def line_of(tree: Tree, *keys: Any) -> int:
    """The line, from 1, on which the last of `keys` stands; of the nearest one above if unknown."""
    line = 1
    for key in keys:
        try:
            at = tree.lc.item if isinstance(key, int) else tree.lc.key
            line = at(key)[0] + 1
            tree = tree[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line


def plain(tree: Tree) -> Any:
    """The values alone: dictionaries, lists and scalars that know nothing of YAML."""
    if isinstance(tree, dict):
        return {str(key): plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [plain(value) for value in tree]
    if isinstance(tree, str):
        return str(tree)
    return tree


def _yaml(keys: int, dashes: int) -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = _NEVER_FOLDED
    yaml.indent(mapping=keys, sequence=dashes + 2, offset=dashes)
    return yaml


def _dump(tree: Tree, keys: int, dashes: int) -> str:
    out = io.StringIO()
    _yaml(keys, dashes).dump(tree, out)
    return out.getvalue()


def _indents(tree: Tree, text: str, name: str) -> tuple[int, int]:
    """How the file is indented: the first way of writing it that moves no line."""
    odd = 0
    for keys, dashes in INDENTS:
        moved = _first_moved(text, _dump(tree, keys, dashes))
        if moved is None:
            return keys, dashes
        odd = max(odd, moved)
    raise WorkflowFileError(
        f"{name}:{odd}",
        "one indentation throughout (keys by 2 or 4 columns, dashes by 0, 2 or 4)",
        f"another one in line {odd}",
        "Indent the file evenly; it was left as it is.",
    )


def _first_moved(before: str, after: str) -> int | None:
    """The first line whose indentation differs, from 1; None where none does."""
    old, new = before.splitlines(), after.splitlines()
    for number, (one, other) in enumerate(zip(old, new, strict=False), start=1):
        if bool(one.strip()) != bool(other.strip()) or (
            one.strip() and _leading(one) != _leading(other)
        ):
            return number
    longer = old[len(new) :] + new[len(old) :]
    return min(len(old), len(new)) + 1 if any(line.strip() for line in longer) else None


def _leading(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _refuse_anchors(text: str, name: str) -> None:
    from ruamel.yaml.tokens import AliasToken, AnchorToken

    for token in _yaml(2, 2).scan(text):
        if isinstance(token, (AnchorToken, AliasToken)):
            sign = "&" if isinstance(token, AnchorToken) else "*"
            line = token.start_mark.line + 1
            raise WorkflowFileError(
                f"{name}:{line}",
                "every part written out, where parts are to be changed",
                f"the {'anchor' if sign == '&' else 'alias'} {sign}{token.value}",
                "A change in one place would change others too. Write it out, then run "
                "this again; the file was left as it is.",
            )


def _refuse_merge_keys(tree: Tree, name: str) -> None:
    for keys, node in nodes(tree):
        if getattr(node, "merge", None):
            raise WorkflowFileError(
                f"{name}:{line_of(tree, *keys)}",
                "keys that GitHub reads",
                "a merge key, <<",
                "GitHub does not know it: write out what it stands for.",
            )


def nodes(tree: Tree, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every mapping and list of a tree with the keys that lead to it, from above."""
    yield keys, tree
    pairs = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in pairs:
        if isinstance(value, (dict, list)):
            yield from nodes(value, (*keys, key))


def _unreadable(error: Any, name: str) -> WorkflowFileError:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error).partition(" with value")[0]
    problem = problem.partition("\n")[0].removeprefix("found ")
    twice = "duplicate key" in problem
    return WorkflowFileError(
        f"{name}:{mark.line + 1}" if mark else name,
        "every key once" if twice else "YAML, indented by spaces",
        problem,
        "Rename or remove one of them; the file was left as it is."
        if twice
        else "Correct that line; the file was left as it is.",
    )
