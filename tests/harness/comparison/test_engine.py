"""One engine behind studies and comparisons: equal estimates, each with its rule."""

import pytest

from harness.comparison.compare import compare
from harness.comparison.noise_model import NoiseModel
from harness.comparison.options import CompareOptions
from harness.results.logs.from_store import logged_runs
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
