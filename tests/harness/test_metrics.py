"""The registry of metrics: one entry each, from which every list and every format derives."""

import ast
from pathlib import Path

import pytest

from harness.metrics import (
    COMPARED,
    METRICS,
    ONE_PROCESS,
    QUALITY,
    SPEEDS,
    THROUGHPUTS,
    duplicates,
    is_measured,
    metric_named,
    preferred,
)

HARNESS = Path(__file__).resolve().parents[2] / "harness"
SCHEMAS = {  # files that name the fields of a stored structure
    *("full/forecast.py", "report/full/content.py"),  # a forecast
    *("results/record.py", "report/study/curves.py", "api/records.py"),  # the columns of a curve
    "gate/metrics.py",  # an A/B launch
}
PRODUCERS = ("runner/fake_trainer", "results/logs")  # they produce values; they list nothing


def _listed(path: Path) -> list[list[str]]:
    """Literal collections of two registered metrics or more."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            texts = [one.value for one in node.elts if isinstance(one, ast.Constant)]
            names = [text for text in texts if text in METRICS]
            if len(names) > 1:
                found.append(names)
    return found


def test_no_other_file_of_the_harness_lists_metrics():
    found = {
        name: listed
        for path in HARNESS.rglob("*.py")
        if (name := path.relative_to(HARNESS).as_posix()) not in SCHEMAS
        and not name.startswith(PRODUCERS)
        and (listed := _listed(path))
    }
    assert found == {}


def test_speeds_are_compared_as_ratios_and_quality_is_not():
    assert {METRICS[name].scale for name in SPEEDS} == {"log"}
    assert {METRICS[name].scale for name in QUALITY} == {"difference"}
    assert [METRICS[name].better for name in THROUGHPUTS] == ["higher"] * len(THROUGHPUTS)
    assert set(THROUGHPUTS) <= set(SPEEDS) <= set(ONE_PROCESS)


def test_every_compared_metric_has_a_direction_and_an_unregistered_one_has_none():
    assert all(metric.better is not None for metric in COMPARED.values())
    unknown = metric_named("accuracy")
    assert (unknown.better, unknown.harm, unknown.kind) == (None, 0, "other")
    assert metric_named("accuracy", higher_better=["accuracy"]).harm == -1
    assert metric_named("accuracy", lower_better=["accuracy"]).harm == 1


def test_only_the_first_metric_of_a_story_that_has_a_margin_is_judged():
    names = ["step_ms", "train_time_s", "val_loss", "val_bpb", "compile_s"]
    assert duplicates(names, lambda name: True) == {"val_loss", "step_ms"}
    assert duplicates(names, lambda name: name != "val_bpb") == {"val_bpb", "step_ms"}


def test_a_fallback_is_used_only_where_its_metric_is_missing():
    both = ["own", "tokens_per_s_job", "tokens_per_s"]
    assert preferred(both) == ["tokens_per_s", "own"]
    assert preferred(["tokens_per_s_job"]) == ["tokens_per_s_job"]


@pytest.mark.parametrize(
    ("name", "value", "change", "size"),
    [
        ("val_loss", "3.27832", "−0.00123", "0.00123"),
        ("tokens_per_s", "3", "−0.12 %", "0.123 %"),
        ("peak_memory_bytes", "below 1 MiB", "0 MiB", "below 1 MiB"),
        ("compile_s", "3.28", "0.0 s", "0.00123"),
    ],
)
def test_values_differences_and_margins_are_printed_in_the_unit_of_the_metric(
    name, value, change, size
):
    metric = METRICS[name]
    assert metric.value(3.27832) == value
    assert metric.change(-0.00123, half_width=0.0005) == change
    assert metric.size(0.00123) == size


@pytest.mark.parametrize(
    ("name", "value", "measured"),
    [
        ("val_loss", 3.28, True),
        ("val_loss", 0.0, False),
        ("val_loss", 1e-320, False),
        ("val_loss", 1e308, False),
        ("core", -0.01, True),
        ("loader_wait_s", 0.0, True),
        ("tokens_per_s", -5.0, False),
        ("peak_memory_bytes", -1.0, False),
        ("own", -1e29, True),
        ("own", float("nan"), False),
    ],
)
def test_a_measurement_has_a_size_and_a_sign_that_can_be_compared(name, value, measured):
    assert is_measured(name, value) is measured
