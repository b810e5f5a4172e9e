"""Error rates and power of the decision, on a smaller table than that of docs/."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.statistics import (
    advice,
    decisions,
    launch_guard,
    pairing,
    real_noise,
    real_readings,
    several_metrics,
    study_intervals,
    time_to_target,
)
from benchmarks.statistics import operating_characteristics as bench
from harness.stats.decision import KnownSd, decide, difference
from harness.stats.power import more_runs

ROOT = Path(__file__).resolve().parents[3]
NOISE = ROOT / ".." / "shared" / "noise"
GATES = 10_000
needs_noise = pytest.mark.skipif(
    not NOISE.is_dir(), reason="the replicated real runs are not on this machine"
)


BOUND = bench.ALPHA + 2 * math.sqrt(bench.ALPHA * (1 - bench.ALPHA) / GATES)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("df", [None, 5.0, 600.0])
def test_decisions_on_arrays_equal_single_decisions(n, df):
    """Side B varies three times as much, so that the variance guard and Welch's limits apply."""
    rng, gates = np.random.default_rng(n), 300
    a, b = rng.normal(0, 0.7, (gates, n)), rng.normal(0.5, 2.1, (gates, n))
    known = rng.uniform(0.4, 1.2, gates) if df else None
    result = decisions.outcomes(a, b, known, df, 0.95)
    names = {-1: "pass", 0: "inconclusive", 1: "regression"}
    for gate in range(gates):
        sd = KnownSd(sd=float(known[gate]), df=df) if df else None
        one = decide(difference(a[gate], b[gate], sd).contrast, 1.0, 0.05)
        assert names[result[gate]] == one.outcome


@pytest.mark.parametrize("noise", list(bench.NOISE_MODELS))
@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("n", bench.RUNS)
def test_false_alarms_and_missed_margins_stay_below_alpha(noise, looks, n):
    df = bench.NOISE_MODELS[noise]
    assert bench.simulate(n, 0.0, df, looks, GATES).regression <= BOUND
    assert bench.simulate(n, 1.0, df, looks, GATES).passes <= BOUND


@pytest.mark.parametrize("blocks", bench.ALWAYS_VALID_BLOCKS)
def test_the_always_valid_test_keeps_alpha_for_any_number_of_blocks(blocks):
    assert bench.simulate_always_valid(blocks, 0.0, GATES).regression <= BOUND
    assert bench.simulate_always_valid(blocks, 1.0, GATES).passes <= BOUND


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, marks=[pytest.mark.slow] * (cell.noise != "noise model, 600 df"))
        for cell in advice.cells()
    ],
    ids=lambda cell: f"{cell.noise}, {cell.start}, {cell.habit}",
)
def test_whoever_follows_the_advice_until_it_is_settled_errs_at_most_at_alpha(cell):
    rates = advice.followed(cell, 2000)
    bound = bench.ALPHA + 2 * math.sqrt(bench.ALPHA * (1 - bench.ALPHA) / 2000)
    assert rates.regression <= bound
    assert rates.passes <= bound
    assert rates.settled > 0.99 or cell.habit == "one at a time"


def test_without_the_rule_following_the_advice_errs_more_often():
    cell = advice.Cell(noise="noise model, 600 df", start=1, habit="pooled")
    assert advice.followed(cell, 2000, advice.unspent).regression > 0.08


@pytest.mark.parametrize("df", [None, 8.0, 600.0])
def test_the_advice_on_arrays_is_that_of_a_comparison(df):
    rng = np.random.default_rng(1)
    harm, sd, n = rng.uniform(-0.5, 1.5, 12), rng.uniform(0.4, 1.0, 12), rng.integers(2, 6, 12)
    found = advice.more_runs(harm, sd, n, 0.005, df)
    single = [
        more_runs(float(h), float(s), 1.0, (int(k), int(k)), 0.005, df=df)
        for h, s, k in zip(harm, sd, n, strict=True)
    ]
    assert found.tolist() == [-1 if one is None else one for one in single]


def test_ten_runs_decide_and_a_harm_of_two_margins_is_detected():
    assert bench.simulate(10, 0.0, 600.0, True, GATES).passes > 0.9
    assert bench.simulate(10, 1.0, 600.0, True, GATES).regression > 0.9
    assert bench.simulate(3, 2.0, 600.0, False, GATES).regression > 0.9


def test_three_looks_save_runs_where_the_effect_is_large():
    assert bench.simulate(10, 2.0, 600.0, True, GATES).runs < 5


def test_the_page_of_docs_equals_the_output_of_the_script():
    stored = (ROOT / "docs" / "operating-characteristics.md").read_text(encoding="utf-8")
    gates = int(stored.partition(" simulated comparisons")[0].rpartition("\n")[2].replace(",", ""))
    assert gates >= 10_000
    assert stored.startswith(bench.page(gates, None))
    assert "## Real runs that should not differ" in stored


def test_the_page_of_docs_has_the_cells_of_studies_as_the_scripts_compute_them():
    stored = (ROOT / "docs" / "operating-characteristics.md").read_text(encoding="utf-8")
    assert study_intervals.spread_cell(4, 3, "base", 4.0, 10_000) in stored
    cells = [
        "{} ({})".format(
            *(
                decisions.percent(time_to_target.cell(0.004, 5, "kink", loss, terms, 10_000))
                for terms in (2, 1)
            )
        )
        for loss in time_to_target.EFFECTS
    ]
    assert f"| 0.004 | 5 | kink | {' | '.join(cells)} |" in stored


@needs_noise
def test_error_rates_on_real_replicates_stay_below_alpha():
    runs = real_noise.load(NOISE)
    for kind in real_noise.KINDS:
        splits = real_noise.split_groups(runs, kind, 100)
        assert len(splits) >= 20
        for shares in (
            [group.regression for group in splits],
            [group.passes_harmed for group in splits],
        ):
            mean, error = real_noise.clustered(shares)
            assert mean <= bench.ALPHA + 2 * error


@needs_noise
def test_published_comparisons_agree_with_welch_except_where_explained():
    pairs = real_noise.pairs(NOISE, real_noise.load(NOISE))
    assert len(pairs) >= 20
    differing = [pair for pair in pairs if pair.noise_model != pair.welch]
    assert len(differing) <= len(pairs) / 10
    opposite = {"pass", "regression"}
    assert not [pair for pair in differing if {pair.noise_model, pair.welch} == opposite]


@needs_noise
def test_first_readings_of_real_replicates_stay_below_alpha_in_one_metric_and_in_two():
    runs = real_noise.load(NOISE)
    for kinds in ([real_readings.LOSS], [real_readings.LOSS, real_readings.TIME]):
        found = list(real_readings.groups(runs, kinds))
        assert len(found) >= 20
        for n in real_readings.SIZES.values():
            rates = zip(*(real_readings.shares(group, n, 100) for group in found), strict=True)
            any_regression, _, passes, _ = (real_noise.clustered(list(rate)) for rate in rates)
            for mean, error in (any_regression, passes):
                assert mean <= bench.ALPHA + 2 * error


def test_the_page_has_the_rows_of_the_scripts_that_have_cells_of_their_own():
    stored = (ROOT / "docs" / "operating-characteristics.md").read_text(encoding="utf-8")
    sections = several_metrics.lines(20_000), pairing.lines(20_000), launch_guard.lines(100_000)
    for lines in sections:
        assert "\n".join(lines) in stored


@pytest.mark.slow
def test_the_page_has_the_rows_of_the_advice():
    stored = (ROOT / "docs" / "operating-characteristics.md").read_text(encoding="utf-8")
    assert "\n".join(advice.lines(10_000)) in stored
