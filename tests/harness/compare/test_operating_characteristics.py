"""The gate's own false alarms and power: a smaller table than the page of docs/, kept true."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import many_verdicts, real_noise
from benchmarks import operating_characteristics as bench
from harness.stats.decision import KnownSd, decide, difference

ROOT = Path(__file__).resolve().parents[3]
NOISE = ROOT / ".." / "shared" / "noise"
GATES = 10_000
needs_noise = pytest.mark.skipif(
    not NOISE.is_dir(), reason="the replicated real runs are not on this machine"
)


BOUND = bench.ALPHA + 2 * math.sqrt(bench.ALPHA * (1 - bench.ALPHA) / GATES)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("df", [None, 5.0, 600.0])
def test_the_arithmetic_on_arrays_is_that_of_the_verdict(n, df):
    """Side B varies three times as much, so that guard and Welch take part."""
    rng, gates = np.random.default_rng(n), 300
    a, b = rng.normal(0, 0.7, (gates, n)), rng.normal(0.5, 2.1, (gates, n))
    known = rng.uniform(0.4, 1.2, gates) if df else None
    found = many_verdicts.outcomes(a, b, known, df, 0.95)
    names = {-1: "pass", 0: "inconclusive", 1: "regression"}
    for gate in range(gates):
        sd = KnownSd(sd=float(known[gate]), df=df) if df else None
        one = decide(difference(a[gate], b[gate], sd).contrast, 1.0, 0.05)
        assert names[found[gate]] == one.outcome


@pytest.mark.parametrize("noise", list(bench.LEDGERS))
@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("n", bench.RUNS)
def test_false_alarms_and_missed_margins_stay_below_alpha(noise, looks, n):
    df = bench.LEDGERS[noise]
    assert bench.simulate(n, 0.0, df, looks, GATES).regression <= BOUND
    assert bench.simulate(n, 1.0, df, looks, GATES).passes <= BOUND


@pytest.mark.parametrize("blocks", bench.OPEN_BLOCKS)
def test_the_open_test_keeps_alpha_however_long_it_goes_on(blocks):
    assert bench.simulate_open(blocks, 0.0, GATES).regression <= BOUND
    assert bench.simulate_open(blocks, 1.0, GATES).passes <= BOUND


def test_ten_runs_decide_and_two_margins_are_seen():
    assert bench.simulate(10, 0.0, 600.0, True, GATES).passes > 0.9
    assert bench.simulate(10, 1.0, 600.0, True, GATES).regression > 0.9
    assert bench.simulate(3, 2.0, 600.0, False, GATES).regression > 0.9


def test_three_looks_save_runs_where_the_answer_is_clear():
    assert bench.simulate(10, 2.0, 600.0, True, GATES).runs < 5


def test_the_page_of_docs_is_what_the_script_writes():
    kept = (ROOT / "docs" / "operating-characteristics.md").read_text(encoding="utf-8")
    gates = int(kept.partition(" simulated comparisons")[0].rpartition("\n")[2].replace(",", ""))
    assert gates >= 10_000
    assert kept.startswith(bench.page(gates, None))
    assert "## Real runs that should not differ" in kept


@needs_noise
def test_on_real_replicates_alarms_stay_below_alpha_clustered_by_group():
    runs = real_noise.load(NOISE)
    for kind in real_noise.KINDS:
        dealt = real_noise.deal(runs, kind, 100)
        assert len(dealt) >= 20
        for shares in (
            [group.regression for group in dealt],
            [group.passes_harmed for group in dealt],
        ):
            mean, error = real_noise.clustered(shares)
            assert mean <= bench.ALPHA + 2 * error


@needs_noise
def test_recorded_comparisons_agree_with_welch_but_for_explained_ones():
    found = real_noise.pairs(NOISE, real_noise.load(NOISE))
    assert len(found) >= 20
    differing = [pair for pair in found if pair.noise_model != pair.welch]
    assert len(differing) <= len(found) / 10
    opposite = {"pass", "regression"}
    assert not [pair for pair in differing if {pair.noise_model, pair.welch} == opposite]
    assert all(real_noise.why(pair) for pair in differing)
