"""A gate's JSON as annotations and JUnit; a gate that died could not run."""

import json
from xml.etree import ElementTree

import pytest

from harness import errors
from harness.comparison.result import MetricResult
from harness.errors import UsageError
from harness.gate.result import GateMetric
from harness.report.gate.ci_formats import GateSummary, annotations, document, junit, read, sentence
from harness.report.markdown import as_markdown


def metric(
    name="val_bpb", outcome="pass", *, unconfirmed=False, scale="difference", **changed
) -> GateMetric:
    values = {
        "title": name, "unit": "bpb", "n": (3, 4), "means": (1.0, 1.001), "estimate": 0.001,
        "low": -0.002, "high": 0.004, "margin": 0.003, "minimum_detectable": 0.0025, **changed,
    }  # fmt: skip
    result = MetricResult(metric=name, outcome=outcome, scale=scale, better="lower", **values)
    return GateMetric(
        result=result, evidence="replicates", look=1, looks=1, unconfirmed=unconfirmed
    )


def summary(outcome="pass", *metrics: GateMetric, **changed) -> GateSummary:
    values = {"reason": "as it is", "exit_code": 0, "started_at": 10.0, "ended_at": 12.5, **changed}
    return GateSummary(outcome=outcome, metrics=list(metrics), **values)


def suite(of: GateSummary) -> ElementTree.Element:
    return ElementTree.fromstring(junit(of).partition("\n")[2])[0]


def test_a_sentence_has_effect_interval_margin_n_and_minimum_detectable_effect():
    assert sentence(metric()) == (
        "+0.0010 bpb [−0.0020, +0.0040]; margin 0.003; n 3 and 4 replicates; MDE 0.0025"
    )


def test_log_ratios_are_percentages_and_an_unconfirmed_slowdown_is_marked():
    slow = metric("tokens_per_s", "inconclusive", scale="log", estimate=-0.0101, unconfirmed=True)
    assert sentence(slow).startswith("−1.0")
    assert " % [" in sentence(slow)
    assert "a second session has to show it too" in sentence(slow)


def test_memory_is_in_mebibytes():
    more = metric("peak_memory_bytes", unit="bytes", estimate=2.0**30, low=-(2.0**21), high=2.0**31)
    assert "MiB" in sentence(more)
    assert "1,024" in sentence(more)


def test_junit_counts_each_outcome():
    other = [metric("core_soft", "inconclusive"), metric("compile_s", None)]
    element = suite(summary("regression", metric(), metric("core", "regression"), *other))
    assert (element.get("tests"), element.get("failures")) == ("4", "1")
    assert (element.get("errors"), element.get("skipped")) == ("0", "2")
    assert element.get("time") == "2.500"
    assert element.get("timestamp") == "1970-01-01T00:00:10+00:00"
    failed = [case.get("name") for case in element if case.find("failure") is not None]
    assert failed == ["core"]


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [("regression", "failure"), ("could not run", "error"), ("inconclusive", "skipped")],
)
def test_a_result_that_no_metric_shows_is_a_case_of_its_own(outcome, kind):
    for metrics in ((), (metric(),)):
        element = suite(summary(outcome, *metrics, reason="it crashed", log_tail="\x1b[31mno"))
        case = element[-1]
        assert (case.get("name"), case.find(kind).get("message")) == ("gate", "it crashed")
        assert element.get("tests") == str(1 + len(metrics))
        if kind != "skipped":
            assert case.find(kind).text == "\N{REPLACEMENT CHARACTER}[31mno"


def test_annotations_show_the_gate_and_the_metrics_that_did_not_pass():
    lines = annotations(summary("inconclusive", metric(), metric("core", "inconclusive")))
    assert lines[0] == "::warning title=Gate%3A inconclusive::as it is"
    assert [line.partition("::+")[0] for line in lines[1:]] == [
        "::warning title=core%3A inconclusive"
    ]


def test_text_of_a_run_cannot_start_a_command():
    (line,) = annotations(summary("regression", reason="100 %\n::set-env name=x::y"))
    assert line == "::error title=Gate%3A regression::100 %25%0A::set-env name=x::y"
    named = metric("a", "regression", title="b::c,d\n::error::e")
    (_, line) = annotations(summary("regression", named))
    assert line.startswith("::error title=b%3A%3Ac%2Cd%0A%3A%3Aerror%3A%3Ae%3A regression::")


def gate_json(**changed) -> dict:
    result = {
        "metric": "val_bpb", "title": "t", "unit": "bpb", "scale": "difference", "better": "lower",
        "n": [1, 1], "means": [1.0, 1.0], "outcome": "pass", "estimate": 0.0,
    }  # fmt: skip
    one = {"result": result, "evidence": "replicates", "look": 1, "looks": 3, "unconfirmed": False}
    return {"format": 1, "key": "k", "outcome": "pass", "reason": "no harm", "metrics": [one],
            "exit_code": 0, "started_at": 1.0, "ended_at": 2.0, **changed}  # fmt: skip


def test_unknown_fields_are_ignored(tmp_path):
    path = tmp_path / "gate.json"
    path.write_text(json.dumps(gate_json(new={"a": 1})))
    assert read(path, 0).metrics[0].result.metric == "val_bpb"


@pytest.mark.parametrize("text", ["", "{", '{"outcome": "great"}', "[]"])
def test_an_incomplete_result_means_that_the_gate_could_not_run(tmp_path, text):
    path = tmp_path / "gate.json"
    path.write_text(text)
    found = read(path, 4)
    assert (found.outcome, found.exit_code) == ("could not run", errors.COULD_NOT_RUN)
    assert suite(found).get("errors") == "1"


@pytest.mark.parametrize(
    ("code", "printed", "reason"),
    [
        (2, "plan\nerror: --margin x: expected a metric\n", "wrong usage: error: --margin x"),
        (5, "run 1\nStopped. Finished runs are kept.", "stopped before it ended: Stopped. Fini"),
        (137, "run 1, seed 3", "no complete result (Input data was truncated): run 1, seed 3"),
        (4, "", "no complete result (Input data was truncated)"),
    ],
)
def test_the_reason_of_a_gate_without_a_result_is_the_end_of_its_log(
    tmp_path, code, printed, reason
):
    path, log = tmp_path / "gate.json", tmp_path / "gate.log"
    path.write_text("")
    log.write_text(printed)
    found = read(path, code, log)
    assert reason in found.reason
    assert reason in suite(found)[0].find("error").get("message")
    assert reason.partition("(")[0] in as_markdown(document(found))
    assert found.exit_code == errors.COULD_NOT_RUN


def test_a_gate_that_reports_pass_and_then_dies_could_not_run(tmp_path):
    path = tmp_path / "gate.json"
    path.write_text(json.dumps(gate_json()))
    found = read(path, 137)
    assert found.outcome == "could not run"
    assert "reported pass and then ended with exit code 137" in found.reason


def test_no_file_and_no_exit_code_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="Name that file"):
        read(tmp_path / "none.json")
    assert read(tmp_path / "none.json", 4).outcome == "could not run"


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"outcome": "pass", "reason": "\xff", "exit_code": 0}',
        b'{"outcome": "pass", "reason": "", "exit_code": 0, "started_at": 1e300}',
    ],
    ids=["deep", "no text", "no date"],
)
def test_a_result_of_any_bytes_could_not_run(tmp_path, content):
    (tmp_path / "gate.json").write_bytes(content)
    summary = read(tmp_path / "gate.json", exit_code=4)
    assert summary.outcome == "could not run"
    assert "<testsuites" in junit(summary)
