"""Reads one workflow or composite action as a tree whose keys know their line.

YAML 1.2 by ruamel.yaml: `on:` stays a string and a key that occurs twice is an error.
"""

from typing import Any

from harness.errors import WorkflowFileError

Tree = Any  # ruamel's CommentedMap: a dict with line numbers; ruamel has no types of its own


def parse(text: str, name: str) -> Tree:
    """The tree of a workflow or an action.

    Raises:
        WorkflowFileError: not YAML, a duplicate key, a merge key, or not a mapping.
    """
    from ruamel.yaml.error import YAMLError

    try:
        tree = _yaml().load(text)
        merges = [token for token in _scan(text, "ScalarToken") if token.value == "<<"]
    except YAMLError as error:
        raise _invalid_yaml(error, name) from None
    except RecursionError:
        expected, got = "a workflow", "YAML that is nested too deeply"
        raise WorkflowFileError(name, expected, got, "GitHub does not read it either.") from None
    if not isinstance(tree, dict):
        got = "an empty file" if tree is None else "a list" if isinstance(tree, list) else "text"
        hint = "Remove the file and run `harness ci init`, which writes a complete one."
        raise WorkflowFileError(name, "a workflow: keys such as on and jobs", got, hint)
    if merges:
        expected = "keys that GitHub supports"
        got = "a merge key, <<"
        hint = "Write out the keys that it stands for."
        raise WorkflowFileError(f"{name}:{merges[0].start_mark.line + 1}", expected, got, hint)
    return tree


def check_no_anchors(text: str, name: str) -> None:
    """Raises WorkflowFileError for an anchor: one changed line would change every alias too."""
    for token in _scan(text, "AnchorToken", "AliasToken"):
        expected = "a file without anchors and aliases, so that one change has one effect"
        got = f"the anchor {'&' if type(token).__name__ == 'AnchorToken' else '*'}{token.value}"
        hint = "Write the value out, then run the command again. No file was changed."
        raise WorkflowFileError(f"{name}:{token.start_mark.line + 1}", expected, got, hint)


def line_of(tree: Tree, *keys: Any) -> int:
    """The line, from 1, of the last of `keys`, or of the nearest key above it that exists."""
    line = 1
    for key in keys:
        try:
            position = tree.lc.item if isinstance(key, int) else tree.lc.key
            line = position(key)[0] + 1
            tree = tree[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line


def _yaml() -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="rt", pure=True)


def _scan(text: str, *kinds: str) -> list[Any]:
    return [token for token in _yaml().scan(text) if type(token).__name__ in kinds]


def _invalid_yaml(error: Any, name: str) -> WorkflowFileError:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error).partition(" with value")[0]
    problem = problem.partition("\n")[0].removeprefix("found ")
    duplicate = "duplicate key" in problem
    return WorkflowFileError(
        f"{name}:{mark.line + 1}" if mark else name,
        "every key once" if duplicate else "YAML, indented by spaces",
        problem,
        ("Rename or remove one of them." if duplicate else "Correct that line.")
        + " No file was changed.",
    )
