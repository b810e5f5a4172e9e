"""Workflow files are parsed with the lines of their keys, or refused with the line."""

import pytest

from harness.cli.github.workflow_file import check_no_anchors, line_of, parse
from harness.errors import WorkflowFileError

TEXT = "on: push # when\njobs:\n  a:\n    steps:\n    - run: x\n    # between\n    - run: y\n"


def test_on_stays_a_string():
    assert parse(TEXT, "w.yml") == {
        "on": "push",
        "jobs": {"a": {"steps": [{"run": "x"}, {"run": "y"}]}},
    }


def test_lines_are_those_of_the_file():
    tree = parse(TEXT, "w.yml")
    assert line_of(tree, "jobs", "a", "steps", 1, "run") == 7
    assert line_of(tree, "jobs", "b") == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "w.yml:2: expected every key once"),
        ("a:\n\tb: 1\n", "w.yml:2: expected YAML, indented by spaces"),
        ("a: [\n", "w.yml:2: expected YAML"),
        ("", "got an empty file"),
        ("- a\n", "got a list"),
        ("word\n", "got text"),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "w.yml:2: .*got a merge key"),
        ("a: " + "[" * 1000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_workflow_is_refused(text, message):
    with pytest.raises(WorkflowFileError, match=message):
        parse(text, "w.yml")


def test_a_file_with_anchors_can_be_read_but_is_not_changed():
    text = "a: &x [1]\nb: 2\n"
    assert parse(text, "w.yml")
    with pytest.raises(WorkflowFileError, match=r"w\.yml:1: expected a file without anchors"):
        check_no_anchors(text, "w.yml")
