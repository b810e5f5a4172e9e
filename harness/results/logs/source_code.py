"""The source that a log embeds, and whether two of them are one code.

Scripts of modded-nanogpt print themselves before they train. Two sources are one code if they
differ in nothing but comments, docstrings, layout, seeds and names of runs. They are compared as
syntax trees; a source that this version of Python cannot parse is compared line by line.
"""

import ast
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

_SEED_OR_RUN = r"(?i)seed|run_?(?:id|name)"
# Patterns that few comparisons need are compiled when they are used.
_ASSIGNED = r"(?im)^([ \t]*\w*(?:seed|run_?id|run_?name)\w*[ \t]*(?::[^=\n]+)?=)[^=\n][^\n]*"
_PART = r"\n[-=]{10,}\n"  # between the files that one source consists of
MASK = "..."


class CanonicalSource(NamedTuple):
    """A source without what may differ between runs; `parsed`: all of it is a syntax tree."""

    lines: tuple[str, ...]
    parsed: bool


@lru_cache(maxsize=128)
def shared(text: str) -> str:
    """One object for equal texts: replicates embed the same source."""
    return text


def canonical(text: str) -> CanonicalSource:
    """The canonical form of a source."""
    return _canonical(re.sub(_ASSIGNED, rf"\1 {MASK}", text))


@lru_cache(maxsize=32)
def _canonical(text: str) -> CanonicalSource:
    lines: list[str] = []
    parsed = True
    for part in re.split(_PART, text):
        try:
            tree = _Masked().visit(ast.parse(part))
            lines += ast.unparse(tree).splitlines()
        except (SyntaxError, ValueError, RecursionError):
            parsed = False
            lines += _code_lines(part)
    return CanonicalSource(tuple(lines), parsed)


def _code_lines(text: str) -> list[str]:
    """The lines without empty ones, comments of a whole line and trailing spaces."""
    stripped = (line.rstrip() for line in text.splitlines())
    return [line for line in stripped if line.strip() and not line.lstrip().startswith("#")]


class _Masked(ast.NodeTransformer):
    """Removes docstrings and masks the values of seeds and names of runs."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Pass()
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        if node.arg and re.search(_SEED_OR_RUN, node.arg):
            return ast.keyword(arg=node.arg, value=ast.Constant(MASK))
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = ast.unparse(node.func)
        option = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
        if re.search(_SEED_OR_RUN, name):
            node.args = [ast.Constant(MASK)] if node.args else []
        elif isinstance(option, str) and option.startswith("-") and re.search(_SEED_OR_RUN, option):
            node.keywords = [word for word in node.keywords if word.arg != "default"]
        return self.generic_visit(node)


def first_difference(one: Sequence[str], other: Sequence[str]) -> tuple[str, str]:
    """The first lines that differ; empty where a source has ended."""
    length = max(len(one), len(other))
    padded = ([*lines, *[""] * (length - len(lines))] for lines in (one, other))
    pairs = ((a.strip(), b.strip()) for a, b in zip(*padded, strict=True))
    return next(pair for pair in pairs if pair[0] != pair[1])
