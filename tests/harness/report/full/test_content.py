"""The report of a full job: forecasts, scaling laws, the leaderboard entry, the loss curve."""

import msgspec
import pytest

from benchmarks.statistics import forecast as benchmark
from harness.comparison.noise_model import SHIPPED, NoiseModel, read_rows
from harness.full.cost import Stage, launch_row, time_and_cost
from harness.full.forecast import forecast
from harness.full.job import FinishedJob
from harness.full.job_forecast import JobForecast
from harness.full.leaderboard import CompletedRun, make_entry
from harness.full.loss_envelope import Curve, plan_envelope
from harness.report.full.content import job_document
from harness.report.html import as_html
from harness.results.recipe import NoiseScope

NOISE_MODEL = NoiseModel(read_rows(SHIPPED))
DEPTHS = (8, 10, 12)


@pytest.fixture
def quality():
    proxies = [
        msgspec.structs.replace(one, core=0.1 + 0.9 * (0.95 - one.val_bpb))
        for depth in DEPTHS
        for one in benchmark.runs_of(depth, 1, 0.0, "0.30", 0.0, benchmark.generator(depth))
    ]
    return forecast(proxies, benchmark.scale(24), core_target=0.25)


def test_the_page_shows_entry_forecast_laws_and_loss_without_a_network(
    quality, full_record, full_events
):
    pytest.importorskip("matplotlib")
    cost = time_and_cost(
        [Stage(name="all", steps=20, step_s=[100.0])],
        [],
        ranks=8,
        launch=launch_row(NOISE_MODEL, NoiseScope(scale=None, device=None)),
        price_usd_per_gpu_hour=3.0,
    )
    entry = make_entry(
        CompletedRun(record=full_record(), events=full_events()),
        target=0.25,
        description="<d24>",
        commit=None,
        noise_model=NOISE_MODEL,
    )
    points = [(at / 100, 3.0) for at in range(1, 101)]
    curves = [
        Curve(name=str(d), scale=benchmark.scale(d), points=points, nats_per_bpb=3.3)
        for d in DEPTHS
    ]
    made = JobForecast(
        forecast=quality,
        cost=cost,
        envelope=plan_envelope(curves, benchmark.scale(24), fractions=(0.5, 1.0)),
    )
    finished = FinishedJob(entry=entry, forecast=made, loss_points=points)
    page = as_html(job_document("d24", made, finished))
    assert page.count("<svg") == 3
    assert "&lt;d24&gt;" in page
    assert "P(CORE &gt; 0.25)" in page
    assert "<script" not in page


def test_before_the_run_the_page_is_the_forecast_alone(quality):
    pytest.importorskip("matplotlib")
    page = as_html(job_document("d24", JobForecast(forecast=quality)))
    assert page.count("<svg") == 2
    assert "Leaderboard entry" not in page
    assert "Training loss" not in page
