"""Workflow files as trees: written back as they were, or refused with the line."""

import pytest

from harness.cli.github import workflows
from harness.cli.github.file import line_of, parse, parse_for_change, plain
from harness.errors import WorkflowFileError

FLUSH = "on: push # when\njobs:\n  a:\n    steps:\n    - run: x\n    # between\n    - run: y\n"
WIDE = "on:\n    push:\njobs:\n    a:\n        steps:\n            - run: 'x'\n"


@pytest.mark.parametrize("path", sorted(workflows.TEMPLATES.iterdir()), ids=lambda path: path.name)
def test_every_template_survives_the_round_trip_byte_by_byte(path):
    text = path.read_text()
    assert parse_for_change(text, path.name).text() == text


@pytest.mark.parametrize("text", [FLUSH, WIDE])
def test_other_even_indentations_survive_a_change(text):
    file = parse_for_change(text, "w.yml")
    file.tree["jobs"]["a"]["timeout-minutes"] = 5
    after = file.text()
    assert [line for line in after.splitlines() if "timeout" not in line] == text.splitlines()


def test_on_stays_a_string_and_values_are_plain():
    assert plain(parse(FLUSH, "w.yml")) == {
        "on": "push",
        "jobs": {"a": {"steps": [{"run": "x"}, {"run": "y"}]}},
    }


def test_lines_are_those_of_the_file():
    tree = parse(FLUSH, "w.yml")
    assert line_of(tree, "jobs", "a", "steps", 1, "run") == 7
    assert line_of(tree, "jobs", "b") == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "w.yml:2: expected every key once"),
        ("a:\n\tb: 1\n", "w.yml:2: expected YAML, indented by spaces"),
        ("a: [\n", "w.yml:2: expected YAML"),
        ("", "got an empty file"),
        ("- a\n", "got a list"),
        ("word\n", "got text"),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "got a merge key"),
    ],
)
def test_what_is_no_workflow_is_refused(text, said):
    with pytest.raises(WorkflowFileError, match=said):
        parse(text, "w.yml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1]\nb: 2\n", "w.yml:1: expected every part written out"),
        ("a:\n  b: 1\nc:\n     d: 1\n", "w.yml:4: expected one indentation"),
    ],
)
def test_what_can_be_read_but_not_safely_changed_is_refused_for_a_change(text, said):
    assert parse(text, "w.yml")
    with pytest.raises(WorkflowFileError, match=said):
        parse_for_change(text, "w.yml")
