"""The page of a job: everything that was forecast, and what it came to."""

import re

import msgspec
import pytest

from benchmarks import forecast as benchmark
from harness.compare.noise_model import SHIPPED, NoiseModel, read_rows
from harness.full import leaderboard as rows
from harness.full.cost import Stage, launch_row, time_and_cost
from harness.full.forecast import forecast
from harness.full.leaderboard import CompletedRun
from harness.full.loss_envelope import Curve, band
from harness.report.full.html import page
from harness.results.recipe import NoiseScope

NOISE_MODEL = NoiseModel(read_rows(SHIPPED))
DEPTHS = (8, 10, 12)


@pytest.fixture
def found():
    proxies = [
        msgspec.structs.replace(one, core=0.1 + 0.9 * (0.95 - one.val_bpb))
        for depth in DEPTHS
        for one in benchmark.runs_of(depth, 1, 0.0, "0.30", 0.0, benchmark.generator(depth))
    ]
    return forecast(proxies, benchmark.scale(24), core_target=0.25)


def test_the_page_shows_forecast_row_fits_and_band_and_asks_nothing_of_a_network(
    found, full_record, full_events
):
    cost = time_and_cost(
        [Stage(name="all", steps=20, step_s=[100.0])],
        [],
        ranks=8,
        launch=launch_row(NOISE_MODEL, NoiseScope(scale=None, device=None)),
        price_usd_per_gpu_hour=3.0,
    )
    made = rows.row(
        [CompletedRun(record=full_record(), events=full_events())],
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
    planned = band(curves, benchmark.scale(24), fractions=(0.5, 1.0))
    text = page("d24", found, cost=cost, row=made, band=planned, points=points)
    assert text.count('class="chart"') == 3
    assert "&lt;d24&gt;" in text
    assert "P(CORE &gt; 0.25)" in text
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert "http" not in own.replace("http-equiv", "")


def test_before_the_run_the_page_is_the_forecast_alone(found):
    text = page("d24", found)
    assert text.count('class="chart"') == 2
    assert "The row" not in text
    assert "The loss on its way" not in text
