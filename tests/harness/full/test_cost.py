"""Time and money of a full job from a step test."""

import math

import pytest

from harness.comparison.noise_model import SHIPPED, NoiseModel, NoiseRow, read_rows
from harness.full.cost import STRETCH_SD, Part, Stage, launch_row, parts_of, time_and_cost
from harness.full.proxies import ForecastError
from harness.results.recipe import NoiseScope

NOISE_MODEL = NoiseModel(read_rows(SHIPPED))
H100 = "NVIDIA H100 80GB HBM3"


def launches(sd=0.001, df=50):
    return NoiseRow(
        scale="s",
        metric="train_time_s",
        gpu=H100,
        source="launch",
        sd=sd,
        df=df,
        runs=df + 1,
        groups=1,
        origin="measured",
    )


def stage(steps=1000, each_s=1.0, measured=100, name="all"):
    return Stage(name=name, steps=steps, step_s=[each_s] * measured)


def test_stages_add_up_and_leaderboard_time_excludes_the_first_eleven_steps():
    stages = [stage(600, 1.0, name="short rows"), stage(400, 2.0, name="long rows")]
    found = time_and_cost(stages, [], ranks=8, launch=launches())
    assert found.train_s.estimate == pytest.approx(1400)
    assert found.leaderboard_s.estimate == pytest.approx(1389)
    assert found.usd is None


def test_the_interval_includes_the_spread_of_launches_and_stretches():
    found = time_and_cost([stage()], [], ranks=1, launch=launches(sd=0.002, df=10**9))
    half = 1.645 * math.hypot(0.002, STRETCH_SD)
    assert math.log(found.train_s.high / 1000) == pytest.approx(half, rel=0.01)
    assert "SD between launches 0.20 %: s on NVIDIA H100 80GB HBM3, 1000000000 df" in found.notes


def test_the_cost_covers_every_rank_from_start_to_end():
    parts = [
        Part(name="start-up", count=1, each_s=200.0, relative_sd=0.5),
        Part(name="CORE", count=2, each_s=150.0, relative_sd=0.1),
        Part(name="checkpoints", count=3, each_s=None),
    ]
    found = time_and_cost([stage()], parts, ranks=8, launch=launches(), price_usd_per_gpu_hour=3.0)
    assert found.wall_s.estimate == pytest.approx(1500)
    assert found.usd.estimate == pytest.approx(1500 / 3600 * 8 * 3)
    assert found.usd.high - found.usd.low > 0.1 * found.usd.estimate
    assert found.parts == [("steps", 1000), ("start-up", 200), ("CORE", 300)]
    assert "checkpoints: not included: never measured" in found.notes


def test_a_stage_without_measured_steps_is_refused_by_name():
    with pytest.raises(ForecastError, match="long rows"):
        time_and_cost(
            [stage(), stage(measured=0, name="long rows")], [], ranks=1, launch=launches()
        )


def test_launch_noise_is_the_recipes_then_the_devices_then_the_widest():
    own = NoiseModel([*NOISE_MODEL.rows, launches()])
    assert launch_row(own, NoiseScope(scale="s", device=H100)).sd == 0.001
    assert launch_row(NOISE_MODEL, NoiseScope(scale="new", device=H100)).gpu == H100
    widest = launch_row(NOISE_MODEL, NoiseScope(scale="new", device="another GPU"))
    assert widest.sd == max(row.sd for row in NOISE_MODEL.rows if row.source == "launch")
    with pytest.raises(ForecastError, match="noise model"):
        launch_row(NoiseModel([]), NoiseScope(scale="s", device=H100))


def test_parts_of_a_proxy_are_scaled_by_flops_and_ranks(full_record):
    proxy = full_record(gpus=1)
    events = [
        {"event": "evaluation", "step": 10, "seconds": 2.0},
        {"event": "core", "step": 20, "core_s": 40.0},
    ]
    derived = {"flops_per_token": 4 * proxy.derived["flops_per_token"]}
    found = parts_of(proxy, events, derived, ranks=8, evaluations=5, cores=1)
    assert [(part.name, part.count, part.each_s) for part in found] == [
        ("evaluations", 5, 1.0),
        ("CORE", 1, 20.0),
    ]
    bare = parts_of(proxy, [], derived, ranks=8, evaluations=5, cores=1)
    assert [part.each_s for part in bare] == [None, None]
