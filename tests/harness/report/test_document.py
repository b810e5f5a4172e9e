"""One document in every format: nothing lost, nothing interpreted, readable at 80 columns."""

import importlib.util
import io

import pytest
from rich.console import Console

from harness.report import chart
from harness.report.document import Cell, Chart, Column, Document, Notes, Section, Text, present
from harness.report.document import table as make_table
from harness.report.export import document_json
from harness.report.html import as_html
from harness.report.markdown import as_markdown
from harness.report.terminal import fitted, print_document


def line_chart():
    figure = chart.new_figure(4, 2)
    axes = figure.add_subplot()
    axes.plot([1, 2], [3, 4], label="loss")
    chart.style(axes, title="curve", x="tokens", y="loss")
    chart.legend(axes)
    return figure


WIDE = make_table(
    [
        "metric",
        Column(title="A", align="right"),
        Column(title="B", align="right", stacked=True),
        Column(title="remark", optional=True),
    ],
    [
        ["val_bpb", "1.20", "1.31", "x" * 70],
        [Cell(text="tokens|s", bold=True), "10", Cell(text="9", tone="regression"), "<b>"],
    ],
    title="Metrics",
    caption="two runs a side",
)
DOCUMENT = Document(
    title="A & B",
    answer="B is worse in val_bpb.",
    tone="regression",
    blocks=[
        Text(paragraphs=["[not markup] *A*"]),
        WIDE,
        Chart(draw=line_chart, alt="loss by tokens"),
        Notes(items=["a driver differs"], title="Warnings", warning=True),
        Section(title="Log", blocks=[Text(paragraphs=["a  b"], preformatted=True)], folded=True),
    ],
    data={"estimate": float("nan")},
)


def printed(width, details=False):
    console = Console(width=width, file=io.StringIO())
    print_document(console, DOCUMENT, details=details)
    return console.file.getvalue()


def test_the_answer_is_the_first_line_of_every_text_format():
    assert printed(100).splitlines()[0] == " REGRESSION  B is worse in val_bpb."
    assert as_markdown(DOCUMENT).splitlines()[0] == "### ❌ regression: B is worse in val_bpb."


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    assert max(map(len, printed(width).splitlines())) <= width


def test_a_narrow_terminal_stacks_columns_then_names_those_it_leaves_out():
    narrow, left_out = fitted(WIDE, 60)
    assert [column.title for column in narrow.columns] == ["metric", "A\nB"]
    assert narrow.rows[0][1].text == "1.20\n1.31"
    assert left_out == ["remark"]
    assert "Not shown at this width: remark" in printed(60)
    assert fitted(WIDE, 200) == (WIDE, [])


def test_folded_sections_are_named_and_shown_on_request():
    assert "Left out here: Log" in printed(80)
    assert "a  b" not in printed(80)
    assert "a  b" in printed(80, details=True)


def test_markdown_keeps_text_literal_and_folds():
    text = as_markdown(DOCUMENT)
    assert r"[not markup] \*A\*" in text
    assert r"| **tokens\|s** | 10 | **9** | \<b> |" in text
    assert "<details><summary>Log</summary>" in text


def test_html_is_one_offline_page_with_escaped_text_and_static_charts():
    page = as_html(DOCUMENT)
    assert "<title>A &amp; B</title>" in page
    assert "&lt;b&gt;" in page
    assert "<svg" in page
    assert "<script" not in page
    assert 'class="right regression">9</td>' in page
    assert len(page) < 100_000
    assert as_html(DOCUMENT) == page, "equal documents give equal pages"


def test_a_page_without_matplotlib_states_that_charts_are_missing(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )
    page = as_html(DOCUMENT)
    assert "matplotlib is not installed" in page
    assert "<svg" not in page


def test_json_has_the_answer_and_null_for_what_is_unknown():
    assert document_json(DOCUMENT) == (
        '{\n "answer": "B is worse in val_bpb.",\n "estimate": null\n}\n'
    )


def test_empty_blocks_are_dropped():
    empty = make_table(["a"], [])
    assert present(None, empty, Text(paragraphs=[]), Notes(items=[]), WIDE) == [WIDE]


def test_a_narrow_terminal_breaks_texts_at_spaces_and_numbers_never():
    columns = ["arm", "role", Column(title="steps", align="right")]
    rows = [["retune:muon:adamw_lr=0.001", "leave one out", "1 234 567"]]
    document = Document(title="A", answer="B", blocks=[make_table(columns, rows)])
    console = Console(width=52, file=io.StringIO())
    print_document(console, document)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 52
    assert any("retune:muon:adamw_lr=0.001" in line and "1 234 567" in line for line in lines)
    assert not any("leave one out" in line for line in lines)
