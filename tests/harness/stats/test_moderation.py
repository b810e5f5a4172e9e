"""Moderated variances, pairing and the block model with own variances: coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import special, stats

from harness.stats.decision import of_pairs
from harness.stats.inference import Contrast
from harness.stats.moderation import (
    in_blocks,
    is_shorter,
    moderate,
    planned_df,
    prior_df,
    unpaired,
)
from harness.stats.regression import fit_blocks


def test_a_variance_is_moderated_towards_the_geometric_mean_of_all() -> None:
    squares, df = np.array([2.0, 8.0, 32.0]), np.array([2.0, 2.0, 2.0])
    found = moderate(squares, df)
    bias = special.digamma(1.0)  # of ln(s^2) with 2 df
    scale = math.exp(np.log([1.0, 4.0, 16.0]).mean() - bias)
    d0 = 1 / 5 * 1.25 * (2 - 0.6)
    assert prior_df(3, 2.0) == pytest.approx(d0)
    assert found.values == pytest.approx((d0 * scale + squares) / (d0 + 2))
    assert found.df == pytest.approx([d0 + 2] * 3)


def test_two_arms_alone_are_compared_by_welch_as_in_scipy() -> None:
    rng = np.random.default_rng(1)
    control, arm = rng.normal(0, 1, 5), rng.normal(1, 4, 7)
    squares = np.array([np.var(x) * len(x) for x in (control, arm)])
    variances = moderate(squares, np.array([4.0, 6.0]))
    (found,) = unpaired([control.mean(), arm.mean()], [5, 7], variances)
    reference = stats.ttest_ind(arm, control, equal_var=False)
    assert found.estimate / found.se == pytest.approx(reference.statistic)
    assert found.df == pytest.approx(reference.df)


def test_arms_of_one_run_or_of_equal_runs_do_not_feed_the_pool() -> None:
    with_others = moderate(
        np.array([2.0, 8.0, 32.0, 0.0, 0.0]), np.array([2.0, 2.0, 2.0, 0.0, 2.0])
    )
    alone = moderate(np.array([2.0, 8.0, 32.0]), np.array([2.0, 2.0, 2.0]))
    assert with_others.values[:3] == pytest.approx(alone.values)
    assert math.isnan(with_others.values[3])
    assert with_others.df[3] == 0


def test_an_arm_with_many_runs_keeps_its_own_variance() -> None:
    found = moderate(np.array([99.0, 99.0, 99.0, 1600.0 * 99]), np.array([99.0] * 4))
    assert found.values[3] == pytest.approx(1600, rel=0.01)


def test_block_contrasts_with_one_arm_are_the_paired_t_test() -> None:
    rng = np.random.default_rng(2)
    base, arm = rng.normal(size=4), rng.normal(size=4)
    blocks, arms = np.tile(np.arange(4), 2), np.repeat([0, 1], 4)
    (found,) = in_blocks(fit_blocks(np.concatenate([base, arm]), blocks, arms))
    reference = of_pairs(base, arm)
    assert reference is not None
    assert (found.estimate, found.se, found.df) == pytest.approx(
        (reference.estimate, reference.se, reference.df)
    )


def test_block_contrasts_follow_the_spread_of_their_arm() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(8, 4)) * [1, 1, 1, 20] + rng.normal(0, 50, (8, 1))
    blocks, arms = np.repeat(np.arange(8), 4), np.tile(np.arange(4), 8)
    first, _, wild = in_blocks(fit_blocks(values.ravel(), blocks, arms))
    assert wild.se > 1.5 * first.se


def test_an_arm_of_one_run_has_no_interval_in_blocks() -> None:
    values = np.random.default_rng(4).normal(size=7)
    fit = fit_blocks(values, np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 0, 1, 0, 1, 2]))
    known, unknown = in_blocks(fit)
    assert known.df > 0
    assert unknown.df == 0


@pytest.mark.parametrize(
    ("one", "other", "shorter"),
    [
        (Contrast(estimate=0, se=1, df=10), Contrast(estimate=0, se=2, df=10), True),
        (Contrast(estimate=0, se=1, df=1), Contrast(estimate=0, se=2, df=10), False),
        (Contrast(estimate=0, se=0, df=4), Contrast(estimate=0, se=2, df=10), False),
        (Contrast(estimate=0, se=1, df=1), Contrast(estimate=0, se=math.nan, df=0), True),
    ],
)
def test_the_shorter_interval_counts_its_degrees_of_freedom(one, other, shorter) -> None:
    assert is_shorter(one, other, 0.01) is shorter


def test_planned_df_are_those_of_equal_arms() -> None:
    assert planned_df(1, 3) == 4
    variances = moderate(np.full(5, 2.0), np.full(5, 2.0))
    assert unpaired([0.0] * 5, [3] * 5, variances)[0].df == pytest.approx(planned_df(4, 3))


def test_equal_changes_of_rounded_losses_are_no_pairs() -> None:
    assert of_pairs([3.2801, 3.2812], [3.2791, 3.2802], least=2) is None
    assert of_pairs([3.2801, 3.2812], [3.2791, 3.2803], least=2) is not None
