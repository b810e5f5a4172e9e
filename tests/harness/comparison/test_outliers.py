"""Losses that blew up, runs far from their side, and the result without them."""

import numpy as np
import pytest

from benchmarks.statistics.outlier_rates import rates
from harness.comparison.compare import compare
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.comparison.options import CompareOptions
from harness.report.compare import build_comparison
from harness.report.document import Table
from harness.results.logs.run_log import Evaluation, LoggedRun

HOST = {"GPUs": "8x H100", "driver": "570", "torch": "2.10"}


def row(metric, source, sd):
    return NoiseRow(
        scale="toy", metric=metric, gpu="H100", source=source, sd=sd, df=600, runs=700, groups=70,
        origin="shipped",
    )  # fmt: skip


MODEL = NoiseModel([row("val_loss", "seed", 0.0014), row("train_time_s", "launch", 0.0013)])


def run(name, losses, time_s=84.0, late_s=0.0):
    """Evaluations at steps 250, 500, ...; `late_s` are lost before the first one."""
    last = len(losses)
    curve = [
        Evaluation(250 * n, {"val_loss": loss, "train_time_s": late_s + time_s * n / last})
        for n, loss in enumerate(losses, start=1)
    ]
    return LoggedRun(
        source=name,
        family="toy",
        metrics=curve[-1].metrics,
        evaluations=curve,
        steps=250 * last,
        evaluated_at=250 * last,
        planned_steps=250 * last,
        scale="toy",
        gpu="H100",
        environment=HOST,
        environment_known=True,
    )


def side(name, finals, factor=1.0):
    times = [84.0, 84.1, 83.9, 84.05]
    return [
        run(f"{name}{n}", [4.5, 3.8, 3.5, final], factor * time_s)
        for n, (final, time_s) in enumerate(zip(finals, times, strict=False))
    ]


LOSSES = [3.28, 3.279, 3.281, 3.2795]


def compared(a, b, noise_model=MODEL):
    return compare(a, b, CompareOptions(), noise_model)


def test_a_loss_that_rose_again_is_a_divergence_and_the_rest_is_compared_beside_it():
    b = [*side("b", LOSSES[:3]), run("b3", [4.5, 3.8, 3.9, 6.48])]
    found = compared(side("a", LOSSES), b)
    assert (found.outcome, found.metrics[0].n) == ("regression", (4, 3))
    assert found.reason == "1 of 4 runs of B diverged or ran out of memory"
    assert found.findings[0] == ("b3 of B diverged: its loss blew up: 6.48, after 3.80 at step 500")
    assert found.metrics[0].estimate == pytest.approx(0.0001, abs=2e-4)


def test_a_loss_far_above_the_other_runs_is_a_divergence_without_a_curve():
    def alone(name, loss):
        return LoggedRun(source=name, family="other", metrics={"val_loss": loss}, steps=0)

    a = [alone(f"a{n}", loss) for n, loss in enumerate([*LOSSES[:3], 6.48])]
    found = compared(a, [alone(f"b{n}", loss) for n, loss in enumerate(LOSSES)])
    assert found.findings[0].startswith("a3 of A diverged: its loss blew up: 6.48")
    assert (found.outcome, found.metrics[0].n) == ("inconclusive", (3, 4))


def test_runs_that_all_lie_far_apart_are_no_divergence():
    a = [run(f"a{n}", [loss]) for n, loss in enumerate([1.0, 2.0, 3.0, 4.0])]
    b = [run(f"b{n}", [loss]) for n, loss in enumerate([1.5, 2.5, 3.5, 4.5])]
    assert compared(a, b, NoiseModel([])).sides[0].whole == 4


@pytest.mark.parametrize("curve", [[4.5, 3.8, 3.5, 3.6], [3.3, 3.29, 3.285, 3.32]])
def test_a_small_rise_is_no_divergence(curve):
    found = compared([run(f"a{n}", curve, 84 + n) for n in range(3)], side("b", LOSSES))
    assert found.sides[0].whole == 3


def test_a_cold_compile_is_named_and_the_result_without_it_stands_beside():
    """Six percent in one run of four hide a gain of 0.9 %."""
    a = side("a", LOSSES)
    b = [*side("b", LOSSES[:3], 0.991), run("b3", [4.5, 3.8, 3.51, 3.28], 83.2, late_s=5.0)]
    found = compared(a, b)
    times = {one.metric: one for one in found.metrics}["train_time_s"]
    without = {one.metric: one for one in found.without_outliers}["train_time_s"]
    assert (times.n, times.improved) == ((4, 4), False)
    assert (without.n, without.improved) == ((4, 3), True)
    assert len(found.outliers) == 1
    assert found.findings[0].startswith("b3 of B stands out in training time: 88.20, 32 SD")
    assert found.findings[0].endswith("a cold compile or another slow start")
    titles = [block.title for block in build_comparison(found).blocks if isinstance(block, Table)]
    assert titles[1] == "The same without b3; the outcome is that of all runs"


def test_a_run_that_is_slow_throughout_is_named_without_that_hint():
    b = [*side("b", LOSSES[:3]), run("b3", [4.5, 3.8, 3.51, 3.28], 88.0)]
    (finding,) = compared(side("a", LOSSES), b).findings
    assert finding.endswith("above the median of its side")


def test_a_loss_beyond_five_sds_is_named_and_stays_in_the_result():
    found = compared(side("a", [3.28, 3.279, 3.281, 3.30]), side("b", LOSSES))
    assert [(one.source, one.metric) for one in found.outliers] == [("a3", "val_loss")]
    assert found.metrics[0].n == (4, 4)


def test_usual_runs_are_not_named():
    found = compared(side("a", LOSSES), side("b", LOSSES[::-1]))
    assert (found.findings, found.without_outliers) == ([], None)


@pytest.mark.parametrize("sizes", [(4, 4), (8, 1)])
def test_runs_without_a_noise_model_are_rarely_named_by_chance(sizes):
    none, one = rates(*sizes, 400, np.random.default_rng(5))
    assert none <= 0.02
    assert one >= 0.2
