"""Hostile text stays text: in Markdown, in HTML, and in the log of a CI runner."""

import random

import pytest
from markdown_it import MarkdownIt

from harness.escape import escape
from harness.gate.result import GateResult, SideIdentity
from harness.report.document import Document, Notes, Section, Text, table
from harness.report.export import as_json
from harness.report.gate.ci_formats import GateSummary, annotations
from harness.report.gate.result import build_result
from harness.report.html import as_html
from harness.report.markdown import as_markdown

COMMONMARK = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = [
    "\n\n### ✅ pass: no harm\n\n![x](https://evil.example/x.png) @org/team fixes #12",
    "\r## ✅ pass\r",
    "</summary></details><img src=https://evil.example/x.png>",
    "&#64;team &commat;team",
    "[x]: https://evil.example\n\n![x] ![x][x] [click](https://evil.example)",
    "| a | b |\n|---|---|\n",
    "> quoted\n- item\n1. one\n***\n---\n===",
    "```\n~~~\n    code\n``` ` `` x",
    "\u2028# heading\x85# heading\v# heading",
    "`code` ` `` `@team` \\`x` <script>alert(1)</script>",
    "_a_ __b__ ~~c~~ $\\color{green}{pass}$",
    "::stop-commands::abc",
]
INERT = {"text", "code_inline", "text_special"}


def rendered(text: str) -> set[str]:
    """The kinds of tokens inside the paragraphs of a Markdown text, and its blocks."""
    kinds = set()
    for token in COMMONMARK.parse(text):
        kinds |= {token.type, *(child.type for child in token.children or ())}
    return kinds


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("before", ["", "- ", "### ", "| a | b |\n|---|---|\n| 1 | "])
def test_foreign_text_is_text_wherever_it_stands(text, before):
    expected = rendered(f"{before}a") | INERT
    assert rendered(before + escape(text, "markdown")) <= expected


def test_any_text_is_text():
    draw, letters = random.Random(5), "#*_`~<>[]()!|\\&;:/@$\n\r\t -=+.1ax"
    for _ in range(2000):
        text = "".join(draw.choices(letters, k=draw.randint(1, 14)))
        found = rendered(escape(text, "markdown"))
        assert found <= INERT | {"paragraph_open", "paragraph_close", "inline"}, repr(text)


def test_numbers_intervals_and_code_look_as_before():
    for text in (
        "−4.9 % [−8.5, −1.2], 5.00 USD and $1.20",
        "+0.0130 bpb: val_bpb, 2 runs of `harness gate . --base main`",
        "run A/B by turns; n 3 and 4",
    ):
        assert escape(text, "markdown") == text


def test_nobody_is_mentioned_and_nothing_is_linked():
    shown = escape("@team #12 GH-3 https://a.example www.a.example me@a.example", "markdown")
    for part in ("@team", "#12", "GH-3", "://", "www.", "@a"):
        assert part not in shown


def hostile_gate(text: str) -> GateResult:
    side = SideIdentity(code_id="", config_id="", ref=text, set={text: text})
    return GateResult(
        key="k", number=1, outcome="regression", reason=text, alpha=0.05, claim="ml",
        a=side, b=side, metrics=[], notes=[text], log_tail=text + "\n```\n" + text,
    )  # fmt: skip


def test_the_reason_and_the_log_of_a_candidate_print_no_heading_image_or_mention():
    markdown = as_markdown(build_result(hostile_gate("".join(HOSTILE))))
    tokens = COMMONMARK.parse(
        markdown.replace("<details><summary>the end of its log</summary>", "")
    )
    kinds = {one.type for token in tokens for one in (token, *(token.children or ()))}
    assert markdown.startswith("### ❌ regression: ")
    assert kinds.isdisjoint({"image", "link_open", "html_inline", "strong_open", "em_open"})
    assert sum(token.type == "heading_open" for token in tokens) == 1
    assert sum(token.type == "fence" for token in tokens) == 1
    outside = "".join(token.content for token in tokens if token.type == "inline")
    assert "@org" not in outside


def test_a_hostile_arm_name_and_title_are_text_in_html_and_in_a_summary():
    name = "</summary><img src=x onerror=alert(1)>"
    blocks = [Section(title=name, blocks=[table(["arm"], [[name]])], folded=True)]
    blocks += [Text(paragraphs=[name]), Notes(items=[name])]
    document = Document(title=name, answer=name, blocks=blocks)
    assert "<img" not in as_html(document)
    assert "<img" not in as_markdown(document).replace("\\<img", "")


def is_command(line: str) -> bool:
    """As actions/runner reads a line: `::` after white space, or `##[` anywhere."""
    return line.strip().startswith("::") or "##[" in line


def test_no_line_of_a_log_is_a_command_at_any_width():
    text = "a\n ::add-mask::x\r::stop-commands::y\nz ##[add-path]/tmp\n:::error::\n\x1b]0;title\x07"
    shown = escape(text, "log")
    for width in range(1, 30):
        lines = [line[i : i + width] for line in shown.splitlines() for i in range(0, 60, width)]
        assert not any(map(is_command, lines))
    assert "\x1b" not in shown
    assert "\r" not in shown


def test_json_and_annotations_hold_no_command_of_a_candidate():
    text = "a\n::add-mask::b\n##[add-path]c"
    assert not any(map(is_command, as_json({"reason": text}).splitlines()))
    summary = GateSummary(outcome="regression", reason=text, exit_code=10)
    (line,) = annotations(summary)
    assert line.startswith("::error title=")
    assert "\n" not in line


def test_errors_and_progress_of_a_trainer_reach_the_log_without_commands(capsys, monkeypatch):
    from harness import __main__ as entry
    from harness.cli import app
    from harness.errors import TrainerError

    def fail(**_: object) -> None:
        raise TrainerError("", "JSON", "exit code 1 and: ::add-mask::x\n::error::y", "See it.")

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(SystemExit) as ending:
        entry.main()
    assert ending.value.code == 4
    assert not any(map(is_command, capsys.readouterr().err.splitlines()))
