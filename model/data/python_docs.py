"""The embedded source `python-docs`: the English that ships with every CPython.

The reference topics of `pydoc` and the docstrings of the standard library, found with `ast` without
importing a module. Texts are cut at blank lines into documents of at most 1,000 characters, about
what a row of 256 tokens holds: best-fit packing drops the rest of a longer one. About 2 MB; it
differs between Python versions, so its documents are hashed like those of other sources.
"""

import ast
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache

from model.data.sources import SourceFile

LONGEST_CHARACTERS = 1_000
SHORTEST_CHARACTERS = 60
_TOPICS = "pydoc_data/topics.py"
_Documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@lru_cache(maxsize=1)
def python_documents(files: tuple[SourceFile, ...]) -> tuple[str, ...]:
    """All documents in the order of the files, each text once."""
    seen: dict[str, None] = {}
    for file in files:
        for text in _texts(file):
            for piece in _cut(text):
                if _is_english(piece):
                    seen.setdefault(piece)
    return tuple(seen)


def _texts(file: SourceFile) -> Iterator[str]:
    source = file.path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # this Python cannot parse the file
    if file.name.replace("\\", "/") == _TOPICS:
        yield from _topics(tree)
    module = file.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    yield from _docstrings(tree, module)


def _topics(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            for name in sorted(topics):
                yield topics[name]


def _docstrings(node: ast.AST, name: str) -> Iterator[str]:
    """Docstrings in source order, each below the dotted name of the documented object."""
    if isinstance(node, _Documented):
        text = ast.get_docstring(node)
        if text:
            yield f"{name}\n\n{text}"
    for child in ast.iter_child_nodes(node):
        below = f"{name}.{child.name}" if isinstance(child, _Documented[1:]) else name
        if isinstance(child, ast.stmt):
            yield from _docstrings(child, below)


def _cut(text: str) -> Iterator[str]:
    """Join whole paragraphs up to the longest document; a longer paragraph is a document."""
    piece = ""
    for paragraph in _paragraphs(text):
        if piece and len(piece) + 2 + len(paragraph) > LONGEST_CHARACTERS:
            yield piece
            piece = ""
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
    if piece:
        yield piece


def _paragraphs(text: str) -> Iterable[str]:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return (block for block in (part.strip("\n") for part in lines.split("\n\n")) if block)


def _is_english(text: str) -> bool:
    """ASCII, long enough, and mostly letters and single spaces: no tables, code or word lists."""
    if len(text) < SHORTEST_CHARACTERS or not text.isascii():
        return False
    letters = sum(map(str.isalpha, text))
    count = len(text.split())
    return letters > 0.65 * len(text.replace("  ", "")) and count * 12 > len(text.strip())
