"""One engine behind studies and comparisons: equal estimates, each with its rule."""

import math

import msgspec
import pytest
from scipy import stats

from harness.comparison import engine
from harness.comparison.compare import compare
from harness.comparison.margins import stated_margin
from harness.comparison.noise_model import NoiseModel
from harness.comparison.options import CompareOptions
from harness.metrics import METRICS
from harness.results.logs.from_store import logged_runs
from harness.stats.decision import Difference
from harness.stats.inference import Contrast
from harness.stats.power import more_runs
from harness.study.attribution import attribute


def _by_both(made, arm, metric, **options):
    """One arm against the base, as the study and as a comparison of the same records give it."""
    (studied,) = [one for one in attribute(made.study, made.records).arms if one.name == arm]
    sides = [[r for r in made.records if r.launch.arm == name] for name in ("base", arm)]
    runs = [logged_runs(side, name) for side, name in zip(sides, "AB", strict=True)]
    (compared,) = compare(
        *runs, CompareOptions(metrics=[metric], **options), NoiseModel([])
    ).metrics
    return studied.effects[metric], compared


@pytest.mark.parametrize("metric", ["val_bpb", "val_loss", "peak_memory_bytes"])
def test_a_study_and_a_comparison_agree_on_estimate_and_sides_and_name_their_rules(
    synthetic, metric
):
    studied, compared = _by_both(synthetic(), "no_windows", metric)
    assert studied.estimate == pytest.approx(compared.estimate, rel=1e-9)
    assert (studied.n, studied.better) == (compared.n, compared.better)
    assert studied.means == pytest.approx(compared.means)
    assert studied.rule == "Dunnett-Tamhane (T2) over 4 arms, simultaneous 95 %"
    assert compared.rule == "one pair, one-sided 96 % (reading 1, 0.04 of alpha 0.05)"


def test_a_regression_as_one_pair_may_be_within_noise_among_several_arms(synthetic):
    for seed in range(40):
        made = synthetic(true={"a": (0.0012, 0.0), "b": (0.0, 0.0)}, margin={}, rng_seed=seed)
        studied, compared = _by_both(made, "a", "val_bpb", margins={"val_bpb": 0.0005})
        if compared.outcome == "regression" and not studied.outside:
            break
    else:
        pytest.fail("no seed shows an effect between the two rules")
    assert studied.low < 0 < compared.low
    assert studied.rule != compared.rule


def test_each_arm_has_an_outcome_at_the_margin_of_its_study(synthetic):
    made = synthetic(margin={"val_bpb": 0.005, "tokens_per_s": 0.03})
    outcomes = {
        arm.name: (arm.effects["val_bpb"].outcome, arm.effects["tokens_per_s"].outcome)
        for arm in attribute(made.study, made.records).arms
    }
    assert outcomes == {
        "no_muon": ("regression", "pass"),
        "no_value_embeddings": ("regression", "pass"),
        "no_windows": ("pass", "regression"),
        "no_residual_scalars": ("pass", "pass"),
    }


def test_without_a_margin_of_its_own_a_study_uses_the_registered_one(synthetic):
    made = synthetic(margin={})
    (windows,) = [a for a in attribute(made.study, made.records).arms if a.name == "no_windows"]
    speed, loss = windows.effects["tokens_per_s"], windows.effects["val_bpb"]
    assert (speed.outcome, speed.margin_from) == ("regression", "the default for a speed")
    assert (loss.outcome, loss.margin) == (None, None)
    assert windows.effects["val_loss"].margin == 0.002


def test_an_arm_with_one_run_is_inconclusive_with_a_reason(synthetic):
    made = synthetic(seeds=(1,), horizons=(1.0,))
    effect = attribute(made.study, made.records).arms[0].effects["val_bpb"]
    assert (effect.outcome, effect.low) == ("inconclusive", None)
    assert effect.reason == effect.no_interval == "one run: a second seed gives an interval"


class Fixed:
    """A rule with limits two standard errors away; a known SD is advised at another rate."""

    alpha, phrase = 0.05, "fixed"

    def critical(self, contrast, known_sd, spread, share=1.0):
        return 2.0 / share  # a smaller share is a wider limit

    def advice_alpha(self, contrast, known_sd, spread):
        return 0.01 if known_sd else 0.02


def concluded(estimate, metric="val_bpb", method="pooled", margin=1.0, share=1.0, paired=None):
    start = engine.draft(METRICS[metric], (3, 4), margin=stated_margin(metric, margin))
    contrast = Contrast(estimate=estimate, se=0.5, df=5)
    difference = Difference(contrast=contrast, method=method, sd=0.7, run_sd=0.6, paired=paired)
    return engine.conclude(start, difference, Fixed(), share=share)


@pytest.mark.parametrize(
    ("estimate", "outside"), [(1.0, False), (-1.0, False), (1.01, True), (-1.01, True), (0, False)]
)
def test_an_effect_is_outside_only_where_zero_is_beyond_both_limits(estimate, outside):
    found = concluded(estimate)
    assert (found.low, found.high) == (estimate - 1.0, estimate + 1.0)
    assert found.outside is outside
    expected = (2.0 + stats.t.ppf(0.9, 5)) * 0.5
    assert found.minimum_detectable == pytest.approx(expected)


def test_the_limit_towards_less_harm_is_that_of_the_share_for_regressions():
    lower, higher = concluded(0.0, share=0.5), concluded(0.0, "core", share=0.5)
    assert (lower.low, lower.high) == (-2.0, 1.0)
    assert (higher.low, higher.high) == (-1.0, 2.0)
    assert (lower.outcome, higher.outcome) == ("inconclusive", "inconclusive")


@pytest.mark.parametrize(("method", "alpha", "df"), [("pooled", 0.02, None), ("stated", 0.01, 5)])
def test_more_runs_are_advised_at_the_rate_and_the_df_of_their_noise(method, alpha, df):
    found = concluded(0.1, method=method, share=0.5)
    expected = more_runs(0.1, 0.6, 1.0, (3, 4), alpha, df=df, share=0.5)
    assert (found.outcome, found.more_runs) == ("inconclusive", expected)
    assert expected != more_runs(0.1, 0.6, 1.0, (3, 4), 0.03 - alpha, df=df, share=0.5)


def test_the_narrower_of_pairs_and_sides_is_taken_each_at_its_part_of_the_rate():
    class Quantile(Fixed):
        def critical(self, contrast, known_sd, spread, share=1.0):
            return float(stats.t.isf(0.05 * share, contrast.df))

    start = engine.draft(METRICS["val_bpb"], (3, 3), margin=stated_margin("val_bpb", 1.0))
    whole = Contrast(estimate=0.0, se=0.5, df=4)
    for se, method, part in ((0.1, "paired", 0.2), (0.9, "pooled", 0.8)):
        pairs = Contrast(estimate=0.0, se=se, df=2)
        difference = Difference(contrast=whole, method="pooled", sd=1.0, run_sd=1.0, paired=pairs)
        found = engine.conclude(start, difference, Quantile())
        taken = pairs if method == "paired" else whole
        assert (found.method, found.df) == (method, taken.df)
        assert found.high == pytest.approx(stats.t.isf(0.05 * part, taken.df) * taken.se)


def test_numbers_that_are_not_finite_are_unknown_in_json():
    found = msgspec.structs.replace(concluded(0.0), df=math.inf, minimum_detectable=math.nan)
    finite = engine.finite(found)
    assert (finite.df, finite.minimum_detectable, finite.se) == (None, None, 0.5)
