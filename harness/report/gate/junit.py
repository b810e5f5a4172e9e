"""A gate as JUnit XML, which every CI system can show: one test case a metric.

A regression is a failure, a gate that could not run an error, a metric without a verdict skipped
with its reason: skipped and not failed, since what to make of inconclusive is the workflow's to
say. Pure: findings in, text out; after `findings`.
"""

import re
from datetime import UTC, datetime
from xml.etree import ElementTree

from harness.report.gate.findings import Findings, Metric, sentence

SUITE = "harness gate"
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(found: Findings) -> str:
    """The XML of a gate, with an XML declaration and a newline at the end."""
    suites = ElementTree.Element("testsuites", name=SUITE)
    suite = ElementTree.SubElement(suites, "testsuite", name=SUITE)
    cases = [_case(suite, metric) for metric in found.metrics]
    if not cases or found.outcome not in {"pass", *(m.judged.outcome for m in found.metrics)}:
        cases.append(_whole(suite, found))
    for element in (suites, suite):
        element.set("tests", str(len(cases)))
        for kind, attribute in (("failure", "failures"), ("error", "errors"), ("skipped",) * 2):
            element.set(attribute, str(sum(case.find(kind) is not None for case in cases)))
        element.set("time", f"{max(0.0, found.ended_at - found.started_at):.3f}")
    suite.set("timestamp", datetime.fromtimestamp(found.started_at, UTC).isoformat())
    ElementTree.indent(suites)
    body = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _case(suite: ElementTree.Element, metric: Metric) -> ElementTree.Element:
    case = ElementTree.SubElement(suite, "testcase", classname="gate", name=metric.judged.metric)
    said = _clean(sentence(metric))
    if metric.judged.outcome == "regression" and not metric.unconfirmed:
        ElementTree.SubElement(case, "failure", message=said, type="regression")
    elif metric.judged.outcome == "could not run":
        ElementTree.SubElement(case, "error", message=said, type="could not run")
    elif metric.judged.outcome == "pass":
        ElementTree.SubElement(case, "system-out").text = said
    else:
        kind = metric.judged.outcome or "shown only"
        ElementTree.SubElement(case, "skipped", message=f"{kind}: {said}")
    return case


def _whole(suite: ElementTree.Element, found: Findings) -> ElementTree.Element:
    """The case of what no metric shows: a gate that could not run, a candidate that crashed."""
    case = ElementTree.SubElement(suite, "testcase", classname="gate", name="gate")
    message = _clean(found.reason)
    if found.outcome == "could not run":
        error = ElementTree.SubElement(case, "error", message=message, type=found.outcome)
        error.text = _clean(found.log_tail or "")
    elif found.outcome == "regression":
        failure = ElementTree.SubElement(case, "failure", message=message, type=found.outcome)
        failure.text = _clean(found.log_tail or "")
    elif found.outcome == "inconclusive":
        ElementTree.SubElement(case, "skipped", message=message)
    return case


def _clean(text: str) -> str:
    """Without the characters that XML has no way of writing, such as a log's colours."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
