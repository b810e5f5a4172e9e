"""Effects of a study: truth found, parts adding up, and every refusal with its reason."""

import math

import msgspec
import numpy as np
import pytest

from harness.report import metric_text
from harness.results.record import Identity
from harness.study.attribution import TOY_LINE, attribute
from harness.study.effects import ArmResult, Attribution


def _arm(found: Attribution, name: str) -> ArmResult:
    return next(arm for arm in found.arms if arm.name == name)


def test_effects_are_arm_minus_base_and_find_the_truth(synthetic) -> None:
    study = synthetic()
    found = attribute(study.study, study.records)
    muon = _arm(found, "no_muon")
    assert muon.change == "removed"
    bpb, speed = muon.effects["val_bpb"], muon.effects["tokens_per_s"]
    assert bpb.low < 0.034 < bpb.high
    assert bpb.outside
    assert speed.low < 0.06 < speed.high
    assert (bpb.n_arm, bpb.n_base, speed.n_arm) == (3, 3, 3)
    assert not _arm(found, "no_residual_scalars").effects["val_bpb"].outside


def test_effects_do_not_depend_on_the_order_of_the_records(synthetic) -> None:
    study = synthetic()
    there, back = (attribute(study.study, r) for r in (study.records, study.records[::-1]))
    assert there == back


@pytest.mark.parametrize("correction", ["none", "dunnett", "holm", "benjamini_hochberg"])
def test_intervals_of_a_study_hold_their_level_on_null_data(synthetic, correction: str) -> None:
    fired = 0
    studies, arms = 150, 3
    for rng_seed in range(studies):
        null = synthetic(
            true={f"no_{i}": (0.0, 0.0) for i in range(arms)},
            horizons=(1.0,),
            correction=correction,
            rng_seed=rng_seed,
        )
        found = attribute(null.study, null.records)
        fired += any(arm.effects["val_bpb"].outside for arm in found.arms)
    alpha = 0.05 if correction != "none" else 0.05 * arms
    assert fired / studies <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / studies)


def test_pooled_sd_counts_every_arm(synthetic) -> None:
    study = synthetic(seeds=(1, 2))
    found = attribute(study.study, study.records)
    assert found.noise["val_bpb"].df == 5
    assert found.noise["tokens_per_s"].df == (2 - 1) * 4


def test_one_seed_gives_estimates_without_intervals_and_a_reason(synthetic) -> None:
    study = synthetic(seeds=(1,))
    found = attribute(study.study, study.records)
    for metric in ("val_bpb", "tokens_per_s"):
        effect = _arm(found, "no_muon").effects[metric]
        assert effect.estimate is not None
        assert effect.low is effect.high is effect.outside is effect.minimum_detectable is None
        assert "one run" in effect.no_interval


def test_equal_losses_under_different_seeds_are_one_run_by_name(synthetic) -> None:
    study = synthetic()
    losses = {"val_bpb": 1.25, "val_loss": 3.6}
    study.records = [
        msgspec.structs.replace(record, metrics={**record.metrics, **losses})
        if record.launch.arm == "no_muon"
        else record
        for record in study.records
    ]
    found = attribute(study.study, study.records)
    muon = _arm(found, "no_muon")
    assert (muon.effects["val_bpb"].n_arm, muon.effects["tokens_per_s"].n_arm) == (1, 3)
    assert any("no_muon: seeds 1, 2 and 3 have equal losses" in line for line in found.warnings)


def test_an_arm_with_fewer_runs_has_a_wider_interval(synthetic) -> None:
    study = synthetic(seeds=(1, 2, 3, 4))
    study.records = [
        r for r in study.records if not (r.launch.arm == "no_muon" and r.seed in (3, 4))
    ]
    found = attribute(study.study, study.records)
    few, correction = (_arm(found, name).effects["val_bpb"] for name in ("no_muon", "no_windows"))
    assert (few.n_arm, correction.n_arm, few.n_base) == (2, 4, 4)
    assert few.high - few.low > correction.high - correction.low
    assert _arm(found, "no_muon").statuses == {"completed": 2, "not run": 2}
    assert (found.completed, found.planned) == (26, 28)
    assert "26 of 28 runs completed: 2 not run" in found.warnings[0]


def test_a_run_that_is_repeated_outside_the_study_is_not_a_reused_one(synthetic) -> None:
    study = synthetic(seeds=(1, 2))
    first = study.records[0]
    launch = msgspec.structs.replace(first.launch, study=None)
    again = msgspec.structs.replace(
        first, attempt="again", started_at=first.started_at + 1e6, launch=launch
    )
    found = attribute(study.study, [*study.records, again])
    assert found.price.reused_runs == 0
    assert "1 run was completed more than once; the first is used." in found.warnings


def test_each_arm_has_its_own_spread(synthetic) -> None:
    study = synthetic(seeds=tuple(range(1, 13)), horizons=(1.0,))
    rng = np.random.default_rng(0)
    study.records = [
        msgspec.structs.replace(r, metrics={**r.metrics, "val_bpb": 1.5 + rng.normal(0, 0.05)})
        if r.launch.arm == "no_muon"
        else r
        for r in study.records
    ]
    found = attribute(study.study, study.records)
    wide, narrow = (_arm(found, n).effects["val_bpb"] for n in ("no_muon", "no_windows"))
    assert wide.method == "moderated"
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
    noise = found.noise["val_bpb"]
    assert noise.highest > 5 * noise.lowest


def test_arms_whose_runs_follow_the_bases_are_compared_seed_by_seed(synthetic) -> None:
    study = synthetic(seeds=(1, 2, 3), horizons=(1.0,))
    rng = np.random.default_rng(1)
    seeds, own = dict(enumerate(rng.normal(0, 0.02, 4))), rng.normal(0, 0.0002, 4)
    study.records = [
        msgspec.structs.replace(
            r,
            metrics={
                **r.metrics,
                "val_bpb": 1.5
                + (rng.normal(0, 0.02) if r.launch.arm == "no_muon" else seeds[r.seed])
                + (0.003 + own[r.seed] if r.launch.arm == "no_windows" else 0.0),
            },
        )
        for r in study.records
    ]
    found = attribute(study.study, study.records)
    windows, muon = (_arm(found, n).effects["val_bpb"] for n in ("no_windows", "no_muon"))
    assert (windows.method, muon.method) == ("paired", "moderated")
    assert windows.df == 2
    assert windows.outside
    assert windows.high - windows.low < (muon.high - muon.low) / 5
    assert (windows.p < 0.05) == windows.outside


def test_arms_with_the_same_value_at_every_seed_are_not_paired(synthetic) -> None:
    """Differences without spread decide nothing."""
    study = synthetic(seeds=(1, 2, 3), horizons=(1.0,))
    base = {r.seed: r.metrics["val_bpb"] for r in study.records if r.launch.arm == "base"}
    study.records = [
        msgspec.structs.replace(r, metrics={**r.metrics, "val_bpb": base[r.seed]})
        if r.launch.arm == "no_windows"
        else r
        for r in study.records
    ]
    windows = _arm(attribute(study.study, study.records), "no_windows").effects["val_bpb"]
    assert windows.method == "moderated"
    assert windows.high > 0


def test_runs_of_the_base_in_other_studies_add_to_its_variance(synthetic) -> None:
    study = synthetic(seeds=(1, 2), horizons=(1.0,))
    base = next(r for r in study.records if r.launch.arm == "base")
    mean = base.metrics["val_bpb"]
    others = [
        msgspec.structs.replace(
            base,
            plan_id=f"other{seed}",
            seed=seed,
            metrics={**base.metrics, "val_bpb": mean + 0.001 * seed},
        )
        for seed in range(10, 16)
    ]
    alone, more = (
        _arm(attribute(study.study, records), "no_muon").effects["val_bpb"]
        for records in (study.records, [*study.records, *others])
    )
    assert more.df > alone.df
    assert (more.estimate, more.n) == (alone.estimate, alone.n)


def test_a_diverged_arm_shows_its_reason_and_no_effect(synthetic) -> None:
    study = synthetic()
    study.edit(
        lambda r: r.launch.arm == "no_muon", status="diverged", reason="loss is nan at step 9"
    )
    found = attribute(study.study, study.records)
    muon = _arm(found, "no_muon")
    assert muon.statuses == {"diverged": 3}
    assert muon.reasons == ["loss is nan at step 9"]
    for effect in (*muon.effects.values(), muon.time_to_target.total):
        assert effect.estimate is None
    assert "3 diverged (loss is nan at step 9)" in muon.effects["val_bpb"].missing
    assert _arm(found, "no_windows").effects["val_bpb"].estimate is not None


def test_a_study_without_any_base_run_reports_it(synthetic) -> None:
    study = synthetic()
    study.records = [r for r in study.records if r.launch.arm != "base"]
    found = attribute(study.study, study.records)
    effect = _arm(found, "no_muon").effects["val_bpb"]
    assert effect.missing == "the base: 0 of 3 runs completed: 3 not run"


def test_a_study_that_has_not_begun_has_an_answer(synthetic) -> None:
    found = attribute(synthetic().study, [])
    assert found.completed == 0
    assert all(arm.effects["val_bpb"].missing for arm in found.arms)


@pytest.mark.parametrize(("field", "value"), [("protocol", 2), ("data_id", "another-corpus")])
def test_another_protocol_or_other_data_is_refused_by_name(synthetic, field, value) -> None:
    study = synthetic()
    old = study.study.arm("no_muon").identity
    identity = msgspec.structs.replace(old, **{field: value})
    assert isinstance(identity, Identity)
    study.edit_arm("no_muon", identity=identity)
    study.edit(lambda r: r.launch.arm == "no_muon", identity=identity)
    found = attribute(study.study, study.records)
    for effect in _arm(found, "no_muon").effects.values():
        assert effect.estimate is None
        assert field in effect.missing
        assert str(value) in effect.missing
    assert _arm(found, "no_windows").effects["val_bpb"].estimate is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"environment_id": "gpu-b"}, "environment_id differs from the base's"),
        ({"boot_id": "later"}, "boot_id differs from the base's"),
        ({"concurrent_runs": 7}, "7 concurrent runs; the base's run had 0"),
    ],
)
def test_speed_is_refused_across_sessions_and_loss_is_kept(synthetic, changes, reason) -> None:
    study = synthetic()
    study.edit(lambda r: r.launch.arm == "no_muon", **changes)
    muon = _arm(attribute(study.study, study.records), "no_muon")
    assert muon.effects["tokens_per_s"].estimate is None
    assert reason in muon.effects["tokens_per_s"].missing
    assert muon.effects["val_bpb"].estimate is not None
    assert muon.time_to_target.quality.estimate is not None
    assert reason in muon.time_to_target.total.missing


def test_a_gap_of_over_ten_minutes_ends_the_session(synthetic) -> None:
    study = synthetic(true={"no_muon": (0.0, 0.0), "no_windows": (0.0, 0.0)}, horizons=(1.0,))
    last = max(r.started_at for r in study.records if r.seed == 3)
    assert next(r for r in study.records if r.started_at == last).launch.arm == "no_windows"
    study.edit(lambda r: r.started_at == last, started_at=last + 700, ended_at=last + 760)
    windows = _arm(attribute(study.study, study.records), "no_windows").effects["tokens_per_s"]
    assert windows.n_arm == 2
    assert windows.left_out == ["seed 3: another session than the base's: a gap of over 10 minutes"]


def test_speed_is_not_moved_by_drift_between_blocks(synthetic) -> None:
    study = synthetic()
    study.records = [
        msgspec.structs.replace(
            r, metrics={**r.metrics, "tokens_per_s": r.metrics["tokens_per_s"] * 3**r.seed}
        )
        for r in study.records
    ]
    drifted = _arm(attribute(study.study, study.records), "no_muon").effects["tokens_per_s"]
    assert drifted.low < 0.06 < drifted.high
    assert drifted.high - drifted.low < 0.02


def test_the_parts_of_time_to_target_add_exactly(synthetic) -> None:
    study = synthetic()
    found = attribute(study.study, study.records)
    for arm in found.arms:
        time = arm.time_to_target
        assert time.total.estimate == time.quality.estimate + time.speed.estimate
        assert time.speed.estimate == -arm.effects["tokens_per_s"].estimate
        line = arm.effects["val_bpb"].estimate / -found.slope.slope
        assert time.quality.estimate == pytest.approx(line, rel=0.05, abs=1e-4)


def test_time_to_target_finds_the_truth(synthetic) -> None:
    study = synthetic(true={"no_muon": (0.02, 0.05), "no_windows": (0.0, -0.03)})
    found = attribute(study.study, study.records)
    for name, truth in (("no_muon", 0.2 - 0.05), ("no_windows", 0.03)):
        total = _arm(found, name).time_to_target.total
        assert total.low < truth < total.high


@pytest.mark.parametrize(("loss", "sign"), [(0.2, 1), (-0.2, -1)])
def test_beyond_the_horizons_there_is_a_limit_and_no_point(synthetic, loss, sign) -> None:
    study = synthetic(true={"no_muon": (loss, 0.0)})
    time = _arm(attribute(study.study, study.records), "no_muon").time_to_target
    assert time.quality.estimate is time.quality.low is time.total.estimate is None
    assert time.quality.beyond == pytest.approx(sign * math.log(1.41))
    assert time.total.beyond == time.quality.beyond + time.speed.estimate


def test_a_study_without_horizons_has_no_time_to_target(synthetic) -> None:
    study = synthetic(horizons=(1.0,))
    found = attribute(study.study, study.records)
    assert found.slope is None
    assert all(arm.time_to_target is None for arm in found.arms)


def test_unfinished_horizons_leave_the_time_missing_with_the_reason(synthetic) -> None:
    study = synthetic()
    study.records = [r for r in study.records if not r.launch.arm.startswith("base@")]
    found = attribute(study.study, study.records)
    assert "two horizons" in _arm(found, "no_muon").time_to_target.total.missing


def test_a_loss_that_does_not_fall_with_tokens_gives_no_exchange_rate(synthetic) -> None:
    study = synthetic()
    study.records = [
        msgspec.structs.replace(r, metrics={**r.metrics, "val_bpb": 2.0 + r.tokens / 1e7})
        if r.launch.arm.startswith("base")
        else r
        for r in study.records
    ]
    found = attribute(study.study, study.records)
    assert "did not fall with more tokens" in found.slope.missing
    assert _arm(found, "no_muon").time_to_target.total.missing == found.slope.missing


def test_an_arm_of_another_length_has_no_time_to_target(synthetic) -> None:
    study = synthetic()
    study.edit(lambda r: r.launch.arm == "no_muon", tokens=900_000)
    time = _arm(attribute(study.study, study.records), "no_muon").time_to_target
    assert time.total.missing.startswith("trained on 900,000 tokens, the base on 1,000,000")


def test_no_effect_tricks_lie_inside_the_margin_and_list_where_else_they_pay(synthetic) -> None:
    study = synthetic()
    found = attribute(study.study, study.records)
    by_trick = {item.trick: item for item in found.no_effect_tricks}
    assert set(by_trick) == {"windows", "residual_scalars"}
    assert by_trick["windows"].pays_in == ["tokens_per_s"]
    assert by_trick["residual_scalars"].pays_in == []
    assert by_trick["windows"].lines == 40


def test_an_interval_wider_than_the_margin_makes_no_no_effect_trick(synthetic) -> None:
    study = synthetic(margin={"val_bpb": 0.0005})
    assert attribute(study.study, study.records).no_effect_tricks == []


def test_no_margin_means_no_list_of_no_effect_tricks(synthetic) -> None:
    study = synthetic(margin={})
    assert attribute(study.study, study.records).no_effect_tricks is None


def test_the_largest_effect_is_shrunk_towards_zero(synthetic) -> None:
    study = synthetic()
    winner = attribute(study.study, study.records).winner
    assert winner.arm == "no_muon"
    assert 0 < winner.shrunk < winner.estimate


def test_toy_scale_and_own_pins_come_first(synthetic) -> None:
    study = synthetic()
    study.edit_study(pin="own")
    lines = attribute(study.study, study.records).headlines
    assert lines[0] == TOY_LINE
    assert lines[1].startswith("pin: own")


@pytest.mark.parametrize(
    ("derived", "toy"),
    [
        ({"flops_per_token": 4.8e9, "tokens": 5.8e9, "parameters": {"matrices": 6.8e8}}, False),
        ({"flops_per_token": 4.8e9, "tokens": 1e6, "parameters": {"matrices": 6.8e8}}, True),
        ({"flops_per_token": 4.8e9, "tokens": 5.8e9, "parameters": {"matrices": 3e6}}, True),
    ],
)
def test_scale_is_judged_by_flops_and_by_parameters(synthetic, derived, toy) -> None:
    study = synthetic()
    study.edit_arm("base", derived=derived)
    assert (TOY_LINE in attribute(study.study, study.records).headlines) == toy


def test_price_counts_failed_attempts_and_not_what_was_on_record(synthetic) -> None:
    study = synthetic(horizons=(1.0,))
    study.edit(lambda r: True, wall_s=100.0, gpus=2)
    first = study.records[0]
    study.records.append(msgspec.structs.replace(first, attempt="a0", status="failed"))
    other = msgspec.structs.replace(first.launch, study="earlier")
    study.edit(lambda r: r.plan_id == study.records[1].plan_id, launch=other)
    study.edit_study(limits=msgspec.structs.replace(study.study.limits, price=3.6))
    price = attribute(study.study, study.records).price
    assert (price.runs, price.reused_runs) == (15, 1)
    assert price.gpu_s == pytest.approx(3000)
    assert price.usd == pytest.approx(3.0)


def test_an_untuned_arm_and_one_at_the_edge_of_its_sweep_are_warned_of(synthetic) -> None:
    from harness.results.study_plan import Retuned

    study = synthetic()
    study.edit_arm(
        "no_windows", retuned={"lr": Retuned(value=0.1, at_edge=True, tried={"0.1": 1.0})}
    )
    found = attribute(study.study, study.records)
    assert "untuned" in _arm(found, "no_muon").warnings[0]
    assert "edge of its sweep" in _arm(found, "no_windows").warnings[0]


def test_the_first_of_two_completed_attempts_is_used_and_reported(synthetic) -> None:
    study = synthetic()
    first = study.records[0]
    later = msgspec.structs.replace(
        first, attempt="a2", started_at=first.started_at + 9e5, metrics={"val_bpb": 9.0}
    )
    before = attribute(study.study, study.records)
    study.records.append(later)
    after = attribute(study.study, study.records)
    assert after.arms == before.arms
    assert "completed more than once" in after.warnings[-1]


def test_added_tricks_keep_their_sign(synthetic) -> None:
    study = synthetic()
    study.edit_arm("no_muon", role="add_one_in")
    muon = _arm(attribute(study.study, study.records), "no_muon")
    assert muon.change == "added"
    assert muon.effects["val_bpb"].estimate > 0
    assert muon.helps("val_bpb") < 0


def test_memory_that_differs_by_less_than_a_mebibyte_is_not_marked(synthetic) -> None:
    made = synthetic()
    for changed, more in (("no_muon", 2**22), ("no_windows", 2048)):
        for record in made.records:
            if record.identity.config_id == f"config-{changed}":
                record.metrics["peak_memory_bytes"] += more
    found = attribute(made.study, made.records)
    memory = {arm.name: arm.effects["peak_memory_bytes"] for arm in found.arms}
    assert memory["no_windows"].low == memory["no_windows"].high == 2048
    assert memory["no_muon"].outside
    assert not memory["no_windows"].outside
    assert metric_text.full(memory["no_windows"]) == "0 MiB"
