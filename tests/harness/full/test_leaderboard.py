"""The leaderboard's row: what counts, what is said of a run that failed the target, verdicts."""

import json
import re

import pytest

from harness.compare.noise_model import SHIPPED, NoiseModel, read_rows
from harness.full import leaderboard as rows
from harness.full.leaderboard import (
    CompletedRun,
    LeaderboardError,
    against,
    as_json,
    as_markdown,
    field_time_s,
    verdict_words,
)
from harness.gate.baseline import Baseline, BaselineEntry, BaselineError
from harness.results.record import LaunchInfo

NOISE_MODEL = NoiseModel(read_rows(SHIPPED))
GPT2 = 0.256525


@pytest.fixture
def run(full_record, full_events):
    def make(**changes):
        told = changes.pop("events", None) or full_events()
        return CompletedRun(record=full_record(**changes), events=told)

    return make


def row(*runs, **words):
    asked = {
        "target": GPT2,
        "description": "d24",
        "commit": "a825e63fff",
        "noise_model": NOISE_MODEL,
    }
    return rows.row(runs, **{**asked, **words})


def test_steps_0_to_10_are_not_counted(run):
    assert field_time_s(run()) == pytest.approx(9 * 100)


def test_compiling_within_a_counted_step_is_in_the_fields_clock(run, full_events):
    extra = [
        {"event": "recompilation", "step": 5, "seconds": 30.0},
        {"event": "recompilation", "step": 15, "seconds": 7.0},
    ]
    assert field_time_s(run(events=full_events(extra=extra))) == pytest.approx(907)


@pytest.mark.parametrize(("steps", "of"), [(11, 11), (15, 20), (1, 20)])
def test_a_run_whose_counted_steps_are_not_all_told_has_no_row(run, full_events, steps, of):
    with pytest.raises(LeaderboardError, match="steps that tell it"):
        field_time_s(run(events=full_events(steps), steps=of))


def test_the_row_has_the_leaderboards_columns_and_formats(run, full_events):
    made = row(run(events=full_events(step_s=660.0)), contributors=["@one", "@two"])
    head, rule, line = as_markdown(made).splitlines()[:3]
    assert head == "| # | time | val_bpb | CORE | Description | Date | Commit | Contributors |"
    assert rule.count("---") == 8
    expected = "| – | 1.65 | 0.71800 | 0.2626 | d24 | Mar 14 2026 | a825e63 | @one @two |"
    assert line == expected
    assert made.reached


def test_a_run_that_did_not_reach_the_target_says_so_in_its_row(run):
    made = row(run(core=0.25))
    assert not made.reached
    assert "not reached (0.25)" in as_markdown(made)
    assert "the target was not reached: CORE 0.2500, 0.256525 asked" in as_markdown(made)
    assert made.p_above < 0.5


def test_core_exactly_at_the_target_is_not_above_it(run):
    made = row(run(core=GPT2))
    assert not made.reached
    assert made.p_above == pytest.approx(0.5)


def test_a_run_without_core_is_no_row_of_the_leaderboard(run):
    made = row(run(core=None))
    assert (made.core, made.core_se, made.p_above, made.reached) == (None, None, None, False)
    assert "CORE was not evaluated" in as_markdown(made)


def test_cores_error_comes_from_the_ledger_and_shrinks_with_runs(run):
    one = row(run())
    four = row(*[run(plan_id=f"p{seed}", seed=seed) for seed in (1, 2, 3, 4)])
    assert four.core_se == pytest.approx(one.core_se / 2)
    assert "of other recipes" in one.core_se_from
    assert one.p_above < four.p_above


def test_enough_own_runs_tell_cores_error_themselves(run):
    made = row(*[run(plan_id=f"p{n}", seed=n, core=0.26 + 0.001 * n) for n in range(6)])
    assert made.core_se_from == "6 own runs"
    assert made.core == pytest.approx(0.2625)


def test_cost_counts_every_rank_and_the_attempts_before(run):
    alone = run()
    resumed = CompletedRun(record=alone.record, events=alone.events, earlier_wall_s=3600.0)
    assert row(resumed, price_usd_per_gpu_hour=3.0).usd == pytest.approx(3 * 8 * 3)


def test_ranks_are_those_that_the_run_was_made_on_whatever_they_ran_on(run):
    cpu = run(launch=LaunchInfo(ranks=4), gpus=0, environment={"cpu": {"name": "some CPU"}})
    assert "1 run (seed 1) on 4 × some CPU" in as_markdown(row(cpu))
    alone = run(launch=LaunchInfo(), gpus=0, environment={"cpu": {"name": "some CPU"}})
    assert "1 run (seed 1) on 1 × some CPU" in as_markdown(row(alone))


def test_what_a_reader_has_to_know_stands_below(run):
    assert "uncommitted" in as_markdown(row(run(), commit=None))
    went_on = run()
    went_on.record.metrics["resumes"] = 2.0
    assert "went on 2 times from a checkpoint" in as_markdown(row(went_on))


@pytest.mark.parametrize("field", ["gpus", "steps", "status"])
def test_runs_of_two_kinds_make_no_row(run, field):
    other = run(plan_id="p2", **{field: "interrupted" if field == "status" else 4})
    with pytest.raises(LeaderboardError):
        row(run(), other)


def test_the_row_as_json_has_every_number_of_its_markdown(run):
    made = row(run(), price_usd_per_gpu_hour=3.0)
    told = json.loads(as_json(made))
    assert told["train_s"] == pytest.approx(900)
    assert re.search(rf"USD {told['usd']:.2f}", as_markdown(made))


# --- against a baseline ---------------------------------------------------------------------------


def stored(records):
    entry = BaselineEntry(
        number=1,
        why="the first",
        evidence=None,
        trainer="native",
        config={},
        commit=None,
        records=records,
        stored_at=0.0,
        previous=None,
    )
    return Baseline(name="d24", gpu="NVIDIA H100 80GB HBM3", gpus=8, protocol=1, entries=[entry])


def replicates(full_record, bpb):
    return [
        full_record(
            plan_id=f"s{seed}", seed=seed, val_bpb=bpb + 0.0001 * seed, core=0.26 + 0.001 * seed
        )
        for seed in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize(("bpb", "outcome"), [(0.7181, "pass"), (0.7195, "regression")])
def test_the_verdict_against_a_baseline_is_that_of_compare(full_record, bpb, outcome):
    old = stored(replicates(full_record, 0.718))
    found = against(old, replicates(full_record, bpb), NOISE_MODEL)
    judged = {one.metric: one.outcome for one in found.metrics}
    assert judged["val_bpb"] == outcome
    assert "against nvidia-h100-80gb-hbm3x8/1/d24" in verdict_words(found, old)
    assert "train_time_s" not in judged


@pytest.mark.parametrize("changes", [{"gpus": 4}, {"environment": {"gpus": [{"name": "B200"}]}}])
def test_other_hardware_is_never_compared_in_silence(full_record, changes):
    with pytest.raises(BaselineError):
        against(stored(replicates(full_record, 0.718)), [full_record(**changes)], NOISE_MODEL)
