"""Pooling, intervals, corrections, detectable effects, shrinkage: against scipy and simulation."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.stats import Correction
from harness.stats.inference import (
    Contrast,
    detectable,
    effect_variance,
    from_parts,
    intervals,
    minimum_detectable_effect,
    pool,
    shrink,
    sidak,
)
from harness.stats.moderation import moderate, unpaired

DRAWS = 10_000
ALPHA = 0.05


def _tolerance(probability: float, draws: int = DRAWS) -> float:
    return 4 * math.sqrt(probability * (1 - probability) / draws)


def test_pooled_sd_weighs_arms_by_their_degrees_of_freedom() -> None:
    groups = [[1.0, 3.0], [10.0, 10.0, 13.0, 15.0]]
    pooled = pool(groups)
    squares = sum((len(g) - 1) * np.var(g, ddof=1) for g in groups)
    assert pooled.sd == pytest.approx(math.sqrt(squares / 4))
    assert pooled.df == 4
    assert pooled.means == (2.0, 12.0)


@pytest.mark.parametrize(
    ("correction", "method"), [("holm", "holm"), ("benjamini_hochberg", "fdr_bh")]
)
def test_adjusted_p_values_equal_statsmodels(correction: Correction, method: str) -> None:
    contrasts = [Contrast(estimate=e, se=1.0, df=20) for e in (0.1, 3.2, 2.4, -2.6, 1.9)]
    raw = [interval.p for interval in intervals(contrasts, ALPHA)]
    found = [interval.p for interval in intervals(contrasts, ALPHA, correction)]
    assert found == pytest.approx(list(multipletests(raw, ALPHA, method=method)[1]))


@pytest.mark.parametrize("correction", ["none", "dunnett", "holm", "benjamini_hochberg"])
def test_an_interval_leaves_zero_out_exactly_when_its_p_value_is_below_alpha(
    correction: Correction,
) -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        contrasts = [
            Contrast(estimate=e, se=1.0, df=9) for e in rng.normal(0, 2.5, rng.integers(2, 6))
        ]
        for interval in intervals(contrasts, ALPHA, correction):
            assert (interval.p < ALPHA) == (interval.low > 0 or interval.high < 0)


@pytest.mark.parametrize("correction", ["dunnett", "holm"])
def test_null_data_fires_in_at_most_five_percent_of_studies(correction: Correction) -> None:
    rng = np.random.default_rng(11)
    draws = 3_000
    data = rng.normal(size=(draws, 4, 3))  # studies, arms (0 is the control), runs
    fired = 0
    for study in data:
        contrasts = _equal_variance_contrasts(study)
        fired += any(i.p < ALPHA for i in intervals(contrasts, ALPHA, correction))
    assert 0.03 <= fired / draws <= ALPHA + _tolerance(ALPHA, draws)


def _equal_variance_contrasts(study: np.ndarray) -> list[Contrast]:
    means, sd = study.mean(axis=1), math.sqrt(study.var(axis=1, ddof=1).mean())
    n, df = study.shape[1], study.size - len(study)
    return [
        Contrast(estimate=float(mean - means[0]), se=sd * math.sqrt(2 / n), df=df)
        for mean in means[1:]
    ]


def test_a_sum_of_variances_has_the_df_of_satterthwaite() -> None:
    found = from_parts(1.0, [(4.0, 2.0), (1.0, 5.0)])
    assert (found.se, found.df) == pytest.approx((math.sqrt(5), 25 / (16 / 2 + 1 / 5)))
    assert from_parts(1.0, [(math.nan, 0.0), (1.0, 5.0)]).df == 0
    assert from_parts(1.0, [(0.0, 3.0), (0.0, 5.0)]) == Contrast(estimate=1.0, se=0.0, df=3.0)


def test_sidak_holds_over_all_arms() -> None:
    assert 1 - (1 - sidak(ALPHA, 7)) ** 7 == pytest.approx(ALPHA)


def test_benjamini_hochberg_keeps_the_share_of_false_findings() -> None:
    rng, draws = np.random.default_rng(17), 2_000
    truth = np.array([0.0, 0.0, 0.0, 4.0, 4.0])
    share = 0.0
    for _ in range(draws):
        estimates = truth + rng.normal(size=5)
        contrasts = [Contrast(estimate=e, se=1.0, df=math.inf) for e in estimates]
        fired = [i.p < ALPHA for i in intervals(contrasts, ALPHA, "benjamini_hochberg")]
        share += sum(fired[:3]) / max(1, sum(fired))
    assert share / draws <= ALPHA + _tolerance(ALPHA, draws)


def test_detectable_effect_is_found_with_probability_nine_tenths() -> None:
    rng, n, df = np.random.default_rng(19), 6, 10
    effect = minimum_detectable_effect(1.0, df, n, n, ALPHA)
    data = rng.normal(size=(DRAWS, 2, n))
    data[:, 1] += effect
    difference = data[:, 1].mean(axis=1) - data[:, 0].mean(axis=1)
    se = np.sqrt(data.var(axis=2, ddof=1).mean(axis=1) * 2 / n)
    found = np.mean(np.abs(difference / se) > stats.t.ppf(0.975, df))
    assert found == pytest.approx(0.9, abs=0.015)  # (t + t) se is good to about a percent


def test_detectable_effect_of_nine_runs_is_the_published_plan() -> None:
    """SD .0014 and margin .002, one-sided .05: 9 runs an arm make the power .9."""
    at_nine = minimum_detectable_effect(0.0014, math.inf, 9, 9, ALPHA, sides=1)
    at_eight = minimum_detectable_effect(0.0014, math.inf, 8, 8, ALPHA, sides=1)
    assert at_nine < 0.002 < at_eight


@pytest.mark.parametrize("correction", ["dunnett", "holm", "benjamini_hochberg"])
def test_more_arms_make_smaller_effects_undetectable(correction: Correction) -> None:
    one = minimum_detectable_effect(1.0, 12, 4, 4, ALPHA, arms=1, correction=correction)
    four = minimum_detectable_effect(1.0, 12, 4, 4, ALPHA, arms=4, correction=correction)
    assert one == pytest.approx(minimum_detectable_effect(1.0, 12, 4, 4, ALPHA))
    assert four > one


def test_nothing_is_detectable_without_degrees_of_freedom() -> None:
    assert minimum_detectable_effect(1.0, 0, 1, 1, ALPHA) == math.inf


def test_detectable_after_the_fact_equals_the_plan_with_the_same_noise() -> None:
    contrast = Contrast(estimate=0.3, se=0.5 * math.sqrt(2 / 4), df=6)
    (interval,) = intervals([contrast], ALPHA)
    after = detectable(interval.critical, contrast.df, contrast.se)
    assert after == pytest.approx(minimum_detectable_effect(0.5, 6, 4, 4, ALPHA))


def test_an_interval_without_noise_is_a_point() -> None:
    same, other = intervals(
        [Contrast(estimate=0.0, se=0.0, df=3), Contrast(estimate=2.0, se=0.0, df=3)], ALPHA
    )
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)
    assert (other.low, other.high, other.p) == (2.0, 2.0, 0.0)


def test_shrinking_the_winner_takes_its_bias_away() -> None:
    rng, tau, se, k = np.random.default_rng(23), 1.0, 1.0, 8
    truth = rng.normal(0, tau, (4_000, k))
    seen = truth + rng.normal(0, se, truth.shape)
    winner = seen.argmax(axis=1)
    rows = np.arange(len(seen))
    raw = seen[rows, winner] - truth[rows, winner]
    shrunk = [
        shrink(Contrast(estimate=e, se=se, df=9), tau**2) for e in seen[rows, winner]
    ] - truth[rows, winner]
    assert raw.mean() > 0.5
    assert abs(shrunk.mean()) < 0.05


def test_effect_variance_is_zero_where_noise_explains_everything() -> None:
    assert effect_variance([Contrast(estimate=0.5, se=1.0, df=9)] * 3) == 0.0
    assert effect_variance([Contrast(estimate=3.0, se=1.0, df=9)] * 3) == pytest.approx(8.0)
    assert effect_variance([]) == 0.0


NOISE = Path(__file__).parents[3] / ".." / "shared" / "noise" / "runs.parquet"


@pytest.mark.skipif(not NOISE.is_file(), reason="the replicated real runs are not on this machine")
def test_intervals_hold_their_level_on_replicates_of_real_runs() -> None:
    """Runs of one code, dealt at random to a base and three arms: there is no effect to find."""
    import pyarrow.parquet

    columns = ["group_id", "final_val_loss", "complete"]
    groups: dict[str, list[float]] = {}
    for row in pyarrow.parquet.read_table(NOISE, columns=columns).to_pylist():
        if row["complete"] == 1 and row["final_val_loss"] is not None:
            groups.setdefault(row["group_id"], []).append(row["final_val_loss"])
    rng, deals = np.random.default_rng(29), 60
    rates = []
    for losses in groups.values():
        if len(losses) < 13:
            continue
        fired = 0
        for _ in range(deals):
            dealt = rng.permutation(losses)[:13]
            fired += any(i.p < ALPHA for i in intervals(_dealt_contrasts(dealt), ALPHA, "dunnett"))
        rates.append(fired / deals)
    assert len(rates) >= 15
    clustered_error = np.std(rates, ddof=1) / math.sqrt(len(rates))
    assert np.mean(rates) <= ALPHA + 2 * clustered_error


def _dealt_contrasts(dealt: np.ndarray) -> list[Contrast]:
    """Three arms of three runs against a base of four."""
    groups = [dealt[:4], dealt[4:7], dealt[7:10], dealt[10:]]
    squares = np.array([float(np.var(group)) * len(group) for group in groups])
    counts = [len(group) for group in groups]
    variances = moderate(squares, np.array(counts) - 1.0)
    return unpaired([float(group.mean()) for group in groups], counts, variances)


def test_parts_that_are_known_exactly_have_infinite_df() -> None:
    found = from_parts(1.0, [(4.0, math.inf), (5.0, math.inf)])
    assert (found.se, found.df) == (3.0, math.inf)


def test_a_part_without_variance_counts_for_nothing_and_all_of_them_for_a_point() -> None:
    found = from_parts(2.0, [(1.0, 5), (0.0, 0)])
    assert (found.estimate, found.se, found.df) == (2.0, 1.0, 5)
    exact = from_parts(2.0, [(0.0, 3), (0.0, 5)])
    assert (exact.estimate, exact.se, exact.df) == (2.0, 0.0, 3)
    unknown = from_parts(2.0, [(math.nan, 0), (1.0, 5)])
    assert (unknown.estimate, unknown.df) == (2.0, 0)
    assert math.isnan(unknown.se)


@pytest.mark.parametrize("correction", ["none", "dunnett", "holm", "benjamini_hochberg"])
def test_without_noise_any_effect_has_p_zero_and_none_has_p_one(correction) -> None:
    exact = [Contrast(estimate=x, se=0.0, df=5) for x in (0.0, 2.0)]
    none, two = intervals(exact, 0.05, correction)
    assert (none.p, two.p) == (1.0, 0.0)
    assert (none.low, none.high, two.low, two.high) == (0.0, 0.0, 2.0, 2.0)


def test_the_defaults_of_a_detectable_effect_are_two_sides_one_arm_and_nine_in_ten() -> None:
    se = 2.0 * math.sqrt(1 / 3 + 1 / 5)
    expected = (stats.t.ppf(0.975, 6) + stats.t.ppf(0.9, 6)) * se
    assert minimum_detectable_effect(2.0, 6, 3, 5, 0.05) == pytest.approx(expected)
    assert detectable(stats.t.ppf(0.975, 6), 6, se) == pytest.approx(expected)
    assert minimum_detectable_effect(2.0, 6, 1, 1, 0.05) < math.inf
    for runs in ((0, 5), (3, 0)):
        assert minimum_detectable_effect(2.0, 6, *runs, 0.05) == math.inf
    holm = (stats.t.ppf(1 - 0.025 / 4, 6) + stats.t.ppf(0.9, 6)) * se
    found = minimum_detectable_effect(2.0, 6, 3, 5, 0.05, arms=4, correction="holm")
    assert found == pytest.approx(holm)
