"""The leaderboard entry: what counts, runs below the target, comparison with a baseline."""

import re

import pytest

from harness.comparison.noise_model import SHIPPED, NoiseModel, read_rows
from harness.full import leaderboard
from harness.full.leaderboard import (
    CompletedRun,
    LeaderboardError,
    against_baseline,
    as_markdown,
    decision_text,
    leaderboard_time_s,
)
from harness.gate.baseline import Baseline, BaselineEntry, BaselineError
from harness.results.record import LaunchInfo

NOISE_MODEL = NoiseModel(read_rows(SHIPPED))
GPT2 = 0.256525


@pytest.fixture
def run(full_record, full_events):
    def make(**changes):
        events = changes.pop("events", None) or full_events()
        return CompletedRun(record=full_record(**changes), events=events)

    return make


def entry(run, **changes):
    arguments = {
        "target": GPT2,
        "description": "d24",
        "commit": "a825e63fff",
        "noise_model": NOISE_MODEL,
    }
    return leaderboard.make_entry(run, **{**arguments, **changes})


def test_steps_0_to_10_are_not_counted(run):
    assert leaderboard_time_s(run()) == pytest.approx(9 * 100)


def test_compilation_within_a_counted_step_is_counted(run, full_events):
    extra = [
        {"event": "recompilation", "step": 5, "seconds": 30.0},
        {"event": "recompilation", "step": 15, "seconds": 7.0},
    ]
    assert leaderboard_time_s(run(events=full_events(extra=extra))) == pytest.approx(907)


@pytest.mark.parametrize(("steps", "of"), [(11, 11), (15, 20), (1, 20)])
def test_a_run_without_all_counted_steps_has_no_entry(run, full_events, steps, of):
    with pytest.raises(LeaderboardError, match="train_time_s of"):
        leaderboard_time_s(run(events=full_events(steps), steps=of))


def test_the_entry_has_the_leaderboards_columns_and_formats(run, full_events):
    made = entry(run(events=full_events(step_s=660.0)))
    head, rule, line = as_markdown(made).splitlines()[:3]
    assert head == "| # | time | val_bpb | CORE | Description | Date | Commit | Contributors |"
    assert rule.count("---") == 8
    expected = "| – | 1.65 | 0.71800 | 0.2626 | d24 | Mar 14 2026 | a825e63 | – |"
    assert line == expected
    assert made.reached


def test_an_entry_below_the_target_is_marked(run):
    made = entry(run(core=0.25))
    assert not made.reached
    assert "not reached (0.25)" in as_markdown(made)
    assert "the target was not reached: CORE 0.2500, target 0.256525" in as_markdown(made)
    assert made.p_above < 0.5


def test_core_exactly_at_the_target_is_not_above_it(run):
    made = entry(run(core=GPT2))
    assert not made.reached
    assert made.p_above == pytest.approx(0.5)


def test_an_entry_without_core_has_a_note(run):
    made = entry(run(core=None))
    assert (made.core, made.core_se, made.p_above, made.reached) == (None, None, None, False)
    assert "CORE was not evaluated" in as_markdown(made)


def test_the_standard_error_of_core_comes_from_the_noise_model(run):
    made = entry(run())
    assert made.core_se > 0
    assert "of other recipes" in made.core_se_source


def test_cost_includes_every_rank_and_earlier_attempts(run):
    alone = run()
    resumed = CompletedRun(record=alone.record, events=alone.events, earlier_wall_s=3600.0)
    assert entry(resumed, price_usd_per_gpu_hour=3.0).usd == pytest.approx(3 * 8 * 3)


def test_ranks_are_counted_on_any_device(run):
    cpu = run(launch=LaunchInfo(ranks=4), gpus=0, environment={"cpu": {"name": "some CPU"}})
    assert "1 run (seed 1) on 4 × some CPU" in as_markdown(entry(cpu))
    alone = run(launch=LaunchInfo(), gpus=0, environment={"cpu": {"name": "some CPU"}})
    assert "1 run (seed 1) on 1 × some CPU" in as_markdown(entry(alone))


def test_details_name_uncommitted_code_and_resumes(run):
    assert "uncommitted" in as_markdown(entry(run(), commit=None))
    resumed = run()
    resumed.record.metrics["resumes"] = 2.0
    assert "was resumed 2 times from a checkpoint" in as_markdown(entry(resumed))


def test_a_run_without_val_bpb_has_no_entry(run):
    with pytest.raises(LeaderboardError, match="did not measure it"):
        entry(run(val_bpb=None))


def test_the_cost_in_markdown_is_that_of_the_entry(run):
    made = entry(run(), price_usd_per_gpu_hour=3.0)
    assert made.train_s == pytest.approx(900)
    assert re.search(rf"USD {made.usd:.2f}", as_markdown(made))


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
def test_the_decision_against_a_baseline_is_that_of_compare(full_record, bpb, outcome):
    old = stored(replicates(full_record, 0.718))
    found = against_baseline(old, replicates(full_record, bpb), NOISE_MODEL)
    outcomes = {one.metric: one.outcome for one in found.metrics}
    assert outcomes["val_bpb"] == outcome
    assert "against nvidia-h100-80gb-hbm3x8/1/d24" in decision_text(found, old)
    assert "train_time_s" not in outcomes


@pytest.mark.parametrize("changes", [{"gpus": 4}, {"environment": {"gpus": [{"name": "B200"}]}}])
def test_other_hardware_is_not_compared(full_record, changes):
    with pytest.raises(BaselineError):
        against_baseline(
            stored(replicates(full_record, 0.718)), [full_record(**changes)], NOISE_MODEL
        )
