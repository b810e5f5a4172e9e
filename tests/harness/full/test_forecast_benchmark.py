"""The coverage benchmark: its noise of real runs, and CORE."""

import numpy as np
import pytest

from benchmarks.statistics import forecast as benchmark

pandas = pytest.importorskip("pandas")
STEPS = np.arange(0, 1001, 50)


@pytest.fixture
def folder(tmp_path):
    """Twelve runs of one group whose loss varies by 0.1 %, each 1 % slower at its start."""
    random = np.random.default_rng(1)
    rows = [
        {
            "run_id": f"r{run}",
            "group_id": "g",
            "step": step,
            "val_loss": 3.0 * (1 + off),
            "train_time_s": 0.1 * step + (0.001 * min(step, 150)),
        }
        for run, off in enumerate(0.001 * random.standard_normal(12))
        for step in STEPS
    ]
    pandas.DataFrame(rows).to_parquet(tmp_path / "trajectories.parquet")
    runs = [{"run_id": f"r{n}", "track": benchmark.ONE_SHAPE, "complete": 1} for n in range(12)]
    pandas.DataFrame(runs).to_parquet(tmp_path / "runs.parquet")
    return tmp_path


def test_real_runs_deviate_from_the_mean_of_their_group(folder):
    curves = benchmark.real_noise(folder).curves
    assert len(curves) == 12
    assert np.std([curve[-1] for curve in curves], ddof=1) == pytest.approx(0.001, rel=0.5)
    assert abs(np.mean(curves)) < 1e-9


def test_a_slow_stretch_is_distinguished_from_the_whole_run(folder):
    runs, mean, _ = benchmark.stretches(folder)
    assert (runs, mean) == ("12", "-0.89%")


@pytest.mark.parametrize("curvature", benchmark.CORE_CURVATURES)
def test_the_interval_of_core_covers_whatever_its_curvature(curvature):
    holds = benchmark.core_coverage((8, 10, 12, 14), curvature, 12)[2]
    assert int(holds.removesuffix(" %")) >= 90 - 2 * 100 * (0.9 * 0.1 / 12) ** 0.5
