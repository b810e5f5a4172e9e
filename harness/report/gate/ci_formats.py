"""A gate in the formats of CI systems: GitHub annotations and JUnit XML.

Reads what `harness gate --json` printed. A gate that died leaves half of a file or none, which is
reported with the outcome "could not run". Text of a log or a metric is escaped, so that it can
neither start a workflow command nor break the XML.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

import msgspec

from harness import errors, files
from harness.errors import UsageError
from harness.escape import escape
from harness.gate.result import GateMetric, GateOutcome
from harness.report.document import Document, present
from harness.report.gate.result import log_section
from harness.report.metric_text import detectable, estimate, interval, margin

SUITE = "harness gate"
LEVELS: dict[GateOutcome, str] = {
    "pass": "notice",
    "inconclusive": "warning",
    "regression": "error",
    "could not run": "error",
}
ENDINGS = {
    errors.USAGE: "wrong usage",
    errors.STOPPED_AT_LIMIT: "the gate was stopped before it ended",
}
LOG_CHARACTERS = 2000
LAST_DATE = 253_402_300_799  # in Unix seconds: the end of the year 9999
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


_Moment = Annotated[float, msgspec.Meta(ge=0, le=LAST_DATE)]


class GateSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a gate's JSON that CI formats show. Times are Unix seconds."""

    outcome: GateOutcome
    reason: str
    exit_code: int
    metrics: list[GateMetric] = []
    log_tail: str | None = None
    started_at: _Moment = 0.0
    ended_at: _Moment = 0.0


def read(path: Path, exit_code: int | None = None, log: Path | None = None) -> GateSummary:
    """The summary of a gate.

    `exit_code`: of its process, where it is known. `log`: what it printed to stderr, whose end is
    the reason where it left no result (wrong usage, a stop at a limit, a killed process).

    Raises:
        UsageError: the file is missing, and no exit code shows how the gate ended.
    """
    try:
        with files.open_regular(path, follow=True) as handle:
            content = handle.read()
    except OSError as error:
        if exit_code is None:
            raise UsageError(
                str(path),
                "the output of `harness gate --json`",
                str(error.strerror),
                "Name that file, or give the gate's exit code with --exit-code.",
            ) from None
        content = b""
    try:
        summary = msgspec.json.decode(content, type=GateSummary)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _without_result(str(error), exit_code, log)
    if exit_code is not None and exit_code != summary.exit_code:
        reason = f"the gate reported {summary.outcome} and then ended with exit code {exit_code}"
        return _could_not_run(reason)
    return summary


def _without_result(fault: str, exit_code: int | None, log: Path | None) -> GateSummary:
    printed = ""
    if log is not None and log.is_file():
        printed = log.read_text(encoding="utf-8", errors="replace").strip()
    lines = printed.splitlines()
    error = next((n for n, line in enumerate(lines) if line.startswith("error: ")), len(lines) - 1)
    last = " ".join(lines[error:])[-LOG_CHARACTERS:] if lines else ""
    ended = ENDINGS.get(exit_code or 0, f"the gate left no complete result ({fault})")
    summary = _could_not_run(": ".join(part for part in (ended, last) if part))
    return msgspec.structs.replace(summary, log_tail=printed[-LOG_CHARACTERS:] or None)


def _could_not_run(reason: str) -> GateSummary:
    return GateSummary(outcome="could not run", reason=reason, exit_code=errors.COULD_NOT_RUN)


def document(summary: GateSummary) -> Document:
    """A gate that left no report of its own, for the comment on a pull request."""
    return Document(
        title="Gate",
        answer=f"{summary.outcome}: {summary.reason}",
        tone="failed",
        blocks=present(log_section(summary.log_tail)),
    )


def sentence(one: GateMetric) -> str:
    """Effect, interval, margin, n and minimum detectable effect of one metric."""
    result = one.result
    if result.estimate is None:
        return result.reason or "not measured"
    printed = result.scale == "log" or result.unit in ("bytes", "s")  # by `estimate`
    effect = f"{estimate(result)} {'' if printed else result.unit}".rstrip()
    if limits := interval(result):
        effect += f" {limits}"
    parts = [effect]
    if result.margin is not None:
        parts.append(f"margin {margin(result)}")
    parts.append(f"n {result.n[0]} and {result.n[1]} {one.evidence}")
    if result.minimum_detectable is not None:
        parts.append(f"MDE {detectable(result).lstrip('±')}")
    if one.unconfirmed:
        parts.append("unconfirmed: a second session has to show it too")
    return "; ".join([*parts, *([result.reason] if result.reason else []), *result.notes])


# --- annotations ----------------------------------------------------------------------------------


def annotations(summary: GateSummary) -> list[str]:
    """GitHub workflow commands: one for the gate, then one for each metric that did not pass.

    A runner shows ten of a kind at most, so a pass gets none.
    """
    title = f"Gate: {summary.outcome}"
    lines = [_command(summary.outcome, title, summary.reason)]
    for one in summary.metrics:
        if one.outcome not in (None, "pass"):
            level: GateOutcome = "inconclusive" if one.unconfirmed else one.outcome
            title = f"{one.result.title}: {one.outcome}"
            lines.append(_command(level, title, sentence(one)))
    return lines


def _command(outcome: GateOutcome, title: str, message: str) -> str:
    return f"::{LEVELS[outcome]} title={escape(title, 'property')}::{escape(message, 'command')}"


# --- JUnit ----------------------------------------------------------------------------------------


def junit(summary: GateSummary) -> str:
    """JUnit XML: one test case per metric.

    A regression is a failure and a gate that could not run an error. A metric without a decision is
    skipped with its reason, because the workflow decides what an inconclusive gate means.
    """
    suites = ElementTree.Element("testsuites", name=SUITE)
    suite = ElementTree.SubElement(suites, "testsuite", name=SUITE)
    cases = [_metric_case(suite, one) for one in summary.metrics]
    if not cases or summary.outcome not in {"pass", *(one.outcome for one in summary.metrics)}:
        cases.append(_gate_case(suite, summary))
    for element in (suites, suite):
        element.set("tests", str(len(cases)))
        for kind, attribute in (("failure", "failures"), ("error", "errors"), ("skipped",) * 2):
            element.set(attribute, str(sum(case.find(kind) is not None for case in cases)))
        element.set("time", f"{max(0.0, summary.ended_at - summary.started_at):.3f}")
    suite.set("timestamp", datetime.fromtimestamp(summary.started_at, UTC).isoformat())
    ElementTree.indent(suites)
    body = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _metric_case(suite: ElementTree.Element, one: GateMetric) -> ElementTree.Element:
    case = ElementTree.SubElement(suite, "testcase", classname="gate", name=one.result.metric)
    text = _xml_text(sentence(one))
    if one.outcome == "regression" and not one.unconfirmed:
        ElementTree.SubElement(case, "failure", message=text, type="regression")
    elif one.outcome == "pass":
        ElementTree.SubElement(case, "system-out").text = text
    else:
        kind = one.outcome or "informational"
        ElementTree.SubElement(case, "skipped", message=f"{kind}: {text}")
    return case


def _gate_case(suite: ElementTree.Element, summary: GateSummary) -> ElementTree.Element:
    """The case of a result that no metric shows, such as a candidate that crashed."""
    case = ElementTree.SubElement(suite, "testcase", classname="gate", name="gate")
    message = _xml_text(summary.reason)
    tag = {"could not run": "error", "regression": "failure", "inconclusive": "skipped"}.get(
        summary.outcome
    )
    if tag is not None:
        element = ElementTree.SubElement(case, tag, message=message)
        if tag != "skipped":
            element.set("type", summary.outcome)
            element.text = _xml_text(summary.log_tail or "")
    return case


def _xml_text(text: str) -> str:
    """Without characters that XML cannot hold, such as a log's escape sequences."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
