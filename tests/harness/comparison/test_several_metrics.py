"""Several metrics of one comparison: one error rate for the exit code."""

import pytest

from benchmarks.statistics import several_metrics as bench
from harness.comparison import engine
from harness.comparison.engine import MeasuredMetric
from harness.comparison.margins import Margin
from harness.comparison.rules import OnePair
from harness.config.study_file import WITH_MARGIN
from harness.gate.request import DECIDED
from harness.metrics import METRICS, metric_named
from harness.stats.decision import Difference
from harness.stats.inference import Contrast
from harness.stats.spending import Reading

NAMES = ("val_loss", "core_soft", "peak_memory_bytes")


def measured(name, harm, se=1.0, df=600.0, margin=1.0, reason=None):
    """A metric with a difference that is worse by `harm`."""
    metric = METRICS[name]
    start = engine.draft(
        metric, (3, 3), margin=margin and Margin(value=margin, why=""), reason=reason
    )
    contrast = Contrast(estimate=harm * metric.harm, se=se, df=df)
    difference = Difference(contrast=contrast, method="noise_model")
    return MeasuredMetric(start=start, difference=difference, rule=OnePair(reading=Reading()))


def outcomes(*metrics):
    return [one.outcome for one in engine.conclude_all(metrics)]


def test_a_borderline_harm_among_several_metrics_is_not_a_regression():
    alone = measured("val_loss", 1.9)
    assert outcomes(alone) == ["regression"]
    assert outcomes(alone, measured("core_soft", 0.5)) == ["inconclusive", "inconclusive"]


def test_a_clear_regression_leaves_the_whole_rate_to_the_other_metric():
    borderline = measured("val_loss", 1.9)
    assert outcomes(borderline, measured("core_soft", 9.0)) == ["regression", "regression"]


def test_metrics_without_an_outcome_take_no_share():
    borderline = measured("val_loss", 1.9)
    unknown = measured("core_soft", 0.5, reason="refused")
    informational = measured("core_soft", 0.5, margin=None)
    for other in (unknown, informational):
        assert outcomes(borderline, other)[0] == "regression"


@pytest.mark.parametrize("change", [-9.0, 9.0])
def test_a_metric_of_unknown_direction_is_never_decided(change):
    start = engine.draft(metric_named("accuracy"), (3, 3), margin=Margin(value=1.0, why="given"))
    contrast = Contrast(estimate=change, se=1.0, df=600.0)
    difference = Difference(contrast=contrast, method="noise_model")
    accuracy = MeasuredMetric(start=start, difference=difference, rule=OnePair(reading=Reading()))
    (alone,) = engine.conclude_all([accuracy])
    assert (alone.outcome, alone.improved, alone.worsened) == (None, False, False)
    assert alone.low < change < alone.high
    assert outcomes(measured("val_loss", 1.9), accuracy) == ["regression", None], "takes no share"


def test_every_metric_that_gates_and_studies_decide_has_a_direction():
    names = {*DECIDED, *WITH_MARGIN} - {"time_to_target"}
    assert all(METRICS[name].better for name in names)


def test_a_pass_keeps_the_rate_of_its_own_metric():
    """The limit towards more harm is that of one metric, in either direction."""
    for name in NAMES:
        one = measured(name, -1.0)
        (alone,) = engine.conclude_all([one])
        among = engine.conclude_all([one, measured("val_loss", 0.3)])[0]
        assert among.outcome == alone.outcome == "pass"
        upper = [
            max(result.harm(result.low), result.harm(result.high)) for result in (alone, among)
        ]
        assert upper[0] == upper[1]
        assert among.high - among.low > alone.high - alone.low
        assert among.minimum_detectable > alone.minimum_detectable
        assert among.rule.endswith("; regressions by Holm over 2 metrics")


@pytest.mark.parametrize("metrics", [1, 2, 3])
def test_arrays_are_decided_as_by_the_engine(metrics):
    cell = bench.Cell(noise="own runs", metrics=metrics, runs=3, correlation=0.0)
    change, se, df = bench.drawn(cell, 60)
    change += 1.5
    found = bench.regressions(change, se, df, holm=True)
    for row in range(60):
        parts = [
            measured(name, change[row, at], se[row, at], df)
            for at, name in enumerate(NAMES[:metrics])
        ]
        assert [one == "regression" for one in outcomes(*parts)] == found[row].tolist()
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("cell", list(bench.cells()), ids=str)
def test_any_false_regression_is_at_most_as_frequent_as_alpha(cell):
    assert bench.simulate(cell, 10_000).holm <= bench.RATE + 0.004


def test_without_holm_two_metrics_err_more_often():
    cell = bench.Cell(noise="noise model, 600 df", metrics=2, runs=1, correlation=0.0)
    assert bench.simulate(cell, 10_000).each > 0.06
