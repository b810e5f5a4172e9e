"""Simultaneous coverage of a study's intervals, on a smaller table than that of docs/."""

import numpy as np
import pytest

from benchmarks.statistics import study_intervals as bench
from harness.stats import moderation
from harness.stats.decision import of_pairs
from harness.stats.distributions import t_quantile
from harness.stats.inference import sidak
from harness.stats.regression import fit_blocks

DRAWS = 2_000
ERROR = 2 * (bench.LEAST * (1 - bench.LEAST) / DRAWS) ** 0.5


def test_half_widths_on_arrays_equal_those_of_single_studies() -> None:
    rng, k, n = np.random.default_rng(0), 4, 3
    runs = bench.draw(rng, 30, n, bench.sds(k, "base", 2.0), np.array([0.0, 0.9, 0.999, 0.5]))
    level = sidak(moderation.PAIRING_SHARE * bench.ALPHA, k)
    for study, halves in zip(runs, bench.of_a_study(runs), strict=True):
        means = [float(arm.mean()) for arm in study]
        squares = study.var(axis=1) * n
        variances = moderation.moderate(squares, np.full(k + 1, n - 1.0))
        contrasts = moderation.unpaired(means, [n] * (k + 1), variances)
        for arm, contrast, half in zip(study[1:], contrasts, halves, strict=True):
            pair = of_pairs(study[0], arm, least=2)
            assert pair is not None
            used = pair if moderation.is_shorter(pair, contrast, level) else contrast
            assert half == pytest.approx(t_quantile(1 - level / 2, used.df) * used.se)


@pytest.mark.parametrize("n", bench.SEEDS)
@pytest.mark.parametrize(("who", "by"), bench.SPREADS)
def test_intervals_of_all_arms_hold_where_one_has_another_spread(n, who, by) -> None:
    runs = bench.draw(np.random.default_rng(n), DRAWS, n, bench.sds(4, who, by), np.zeros(4))
    assert bench.coverage(runs, bench.of_a_study(runs)) >= bench.LEAST - ERROR
    level = sidak(bench.ALPHA, 4)
    assert bench.coverage(runs, bench.in_blocks(runs, level)) >= bench.LEAST - ERROR


def test_half_widths_in_blocks_equal_those_of_single_studies() -> None:
    rng, k, n = np.random.default_rng(1), 4, 3
    runs = bench.draw(rng, 10, n, bench.sds(k, "one arm", 2.0), np.zeros(k))
    blocks, arms = np.tile(np.arange(n), k + 1), np.repeat(np.arange(k + 1), n)
    for study, halves in zip(runs, bench.in_blocks(runs, 0.01), strict=True):
        found = moderation.in_blocks(fit_blocks(study.ravel(), blocks, arms))
        assert [t_quantile(0.995, one.df) * one.se for one in found] == pytest.approx(halves)


@pytest.mark.parametrize("n", bench.PAIRED_SEEDS)
def test_choosing_the_shorter_interval_keeps_the_coverage(n) -> None:
    for correlation in bench.correlations(4).values():
        worst, _ = bench.pairing_cell(4, n, correlation, DRAWS)
        assert worst >= bench.LEAST - ERROR


def test_pairing_pays_where_arms_follow_the_base() -> None:
    _, width = bench.pairing_cell(4, 5, np.full(4, 0.99), DRAWS)
    assert width < 0.2


def test_the_oracle_has_dunnetts_published_critical_values() -> None:
    """Biometrics 20 (1964) 482-491, two-sided, joint 5 %, 4 arms: 10 df and infinitely many."""
    equal = (0.5**0.5,) * 4
    assert bench.dunnett(0.05, 10.0, equal) == pytest.approx(2.89, abs=0.0051)
    assert bench.dunnett(0.05, np.inf, equal) == pytest.approx(2.44, abs=0.0051)
