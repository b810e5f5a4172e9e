"""Copies, reruns of one seed, cut runs and planned stops."""

import pytest

from harness.comparison.compare import compare
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.comparison.options import CompareOptions
from harness.report.metric_text import outcome
from harness.results.logs.run_log import Evaluation, LogError, LoggedRun

EMPTY = NoiseModel([])


def noise(metric="val_loss", source="seed", sd=0.0014, scale="toy"):
    return NoiseRow(
        scale=scale, metric=metric, gpu="H100", source=source, sd=sd, df=600, runs=700, groups=70,
        origin="shipped",
    )  # fmt: skip


def curve(final, step=100, seconds=84.0):
    """Four evaluations that fall to `final`."""
    return [
        Evaluation(
            step * quarter // 4,
            {"val_loss": final + 4 - quarter, "train_time_s": seconds * quarter / 4},
        )
        for quarter in (1, 2, 3, 4)
    ]


def run(name, final=3.28, **changes):
    evaluations = changes.pop("evaluations", curve(final))
    fields = {
        "source": name,
        "family": "toy",
        "metrics": evaluations[-1].metrics if evaluations else {"val_loss": final},
        "evaluations": evaluations,
        "steps": 100,
        "evaluated_at": 100,
        "planned_steps": 100,
        "scale": "toy",
        "gpu": "H100",
    }
    return LoggedRun(**{**fields, **changes})


def side(name, finals, **changes):
    return [
        run(
            f"{name}{n}.txt", final, **{"evaluations": curve(final, seconds=84 + n / 50), **changes}
        )
        for n, final in enumerate(finals, 1)
    ]


def compared(a, b, noise_model=EMPTY, **options):
    return compare(a, b, CompareOptions(metrics=["val_loss"], **options), noise_model)


# --- copies and reruns ----------------------------------------------------------------------------


def test_a_trainer_that_ignores_its_seed_gets_no_decision_and_is_named():
    """Three equal runs a side, and a patch that only draws one random number more."""
    a = [run(f"a{seed}", seed=seed) for seed in (1, 2, 3)]
    b = [run(f"b{seed}", 3.2801, seed=seed) for seed in (1, 2, 3)]
    found = compared(a, b)
    (loss,) = found.metrics
    assert (found.outcome, loss.low, loss.n) == ("inconclusive", None, (1, 1))
    assert "3 runs of A have equal losses (seed 1, seed 2, seed 3)" in found.findings[0]


def test_copies_count_as_one_run_under_the_noise_model():
    found = compared(side("a", [3.28] * 4), side("b", [3.2815] * 4), NoiseModel([noise()]))
    (loss,) = found.metrics
    assert loss.n == (1, 1)
    assert loss.se == pytest.approx(0.0014 * 2**0.5)
    assert (found.outcome, loss.more_runs) == ("inconclusive", None)
    assert outcome(loss) == "inconclusive, other seeds needed"


def test_equal_final_losses_of_few_decimals_are_no_copies():
    evaluations = [curve(3.28), [*curve(3.2801)[:-1], Evaluation(100, {"val_loss": 3.28})]]
    a = [run(f"a{n}", evaluations=of_run) for n, of_run in enumerate(evaluations)]
    found = compared(a, side("b", [3.281, 3.279]), NoiseModel([noise()]))
    assert (found.metrics[0].n, found.findings) == ((2, 2), [])


def test_equal_values_of_both_sides_show_no_noise_and_decide_nothing():
    numbers = {"evaluations": [], "metrics": {"acc": 0.5}}
    a, b = side("a", [0, 0], **numbers), side("b", [0, 0], **{**numbers, "metrics": {"acc": 0.6}})
    options = CompareOptions(metrics=["acc"], margins={"acc": 0.01}, higher_better=["acc"])
    (acc,) = compare(a, b, options, EMPTY).metrics
    assert (acc.outcome, acc.low) == ("inconclusive", None)
    assert acc.reason.startswith("no decision: the runs of each side are equal")


def test_two_codes_at_one_seed_are_compared_with_the_seed_sd():
    """The published SD over seeds is eight times that of reruns."""
    rows = [noise(sd=0.00023), noise(source="nondeterminism", sd=0.00003)]
    b = side("b", [3.2803, 3.2803], seed=1, code_id="two", config_id="c")
    a = [run("a1", 3.28, seed=1, code_id="one", config_id="c"),
         run("a2", 3.28002, seed=1, code_id="one", config_id="c")]  # fmt: skip
    (loss,) = compared(a, b, NoiseModel(rows)).metrics
    assert loss.n == (1, 1)
    assert loss.se == pytest.approx(0.00023 * 2**0.5)
    same = [run(f"b{n}", 3.28 + n * 1e-6, seed=1, code_id="one", config_id="c") for n in (1, 2)]
    (rerun,) = compared(a, same, NoiseModel(rows)).metrics
    assert rerun.n == (2, 2)
    assert rerun.se == pytest.approx(0.00003)


def test_reruns_of_a_fixed_seed_ask_for_other_seeds_and_not_for_a_second_run():
    a, b = (side(name, [3.28, 3.2801], varied="nondeterminism") for name in "ab")
    (loss,) = compared(a, b).metrics
    assert (loss.n, loss.low) == ((1, 1), None)
    assert loss.reason.startswith("other seeds needed")


def test_full_scale_runs_of_nanochat_use_the_published_seeds_of_an_unknown_depth():
    row = noise("val_bpb", sd=0.00023, scale="nanochat, depth not stated")
    one = {"metrics": {"val_bpb": 0.72}, "family": "nanochat", "scale": "nanochat d24"}
    more = {"full_scale": True, "varied": "nondeterminism", "evaluations": []}
    a, b = [run("a", **one, **more)], [run("b", **one, **more)]
    (bpb,) = compare(a, b, CompareOptions(), NoiseModel([row])).metrics
    assert bpb.se == pytest.approx(0.00023 * 2**0.5)


def test_a_log_named_twice_in_a_side_is_left_out_by_name():
    found = compared([run("a.txt"), run("copy.txt"), run("b.txt", 3.281)], side("c", [3.279, 3.28]))
    assert found.sides[0].runs == 2
    assert found.findings == ["copy.txt has the numbers of a.txt: a copy, left out"]


# --- ends -----------------------------------------------------------------------------------------


def cut(name, final, at=75, planned=100):
    """A run of 100 steps that was stopped at an evaluation."""
    return run(
        name,
        evaluations=curve(final)[: 4 * at // 100],
        steps=at,
        evaluated_at=at,
        planned_steps=planned,
        ending=f"it ends at step {at} of {planned}",
    )


def test_a_cut_run_is_named_and_not_compared_as_an_equal():
    a = side("a", [3.279, 3.28, 3.281])
    found = compared(a, [cut("b1.txt", 3.2), *side("b", [3.279, 3.28])])
    assert found.findings == ["b1.txt of B has no result: it ends at step 75 of 100"]
    assert (found.outcome, found.metrics[0].n) == ("inconclusive", (3, 2))


def test_a_side_of_cut_runs_is_refused_against_complete_ones():
    short = [cut(f"c{n}", 3.2 + n / 1000) for n in (1, 2, 3)]
    with pytest.raises(LogError, match="step 75 of 100"):
        compared(short, side("b", [3.279, 3.28, 3.281]))
    found = compared(side("b", [3.279, 3.28, 3.281]), short)
    assert (found.outcome, found.metrics) == ("inconclusive", [])


def test_runs_that_all_stop_by_design_are_compared_at_their_last_common_evaluation():
    a = [cut(f"a{n}", 3.28 + n / 1000, at=75) for n in (1, 2, 3)]
    b = [cut(f"b{n}", 3.28 + n / 1000, at=50) for n in (1, 2, 3)]
    found = compared(a, b, NoiseModel([noise()]))
    assert found.metrics[0].means == pytest.approx((5.282, 5.282))  # two evaluations before the end
    assert found.metrics[0].low is not None
    assert "A at step 75 of 100, B at step 50 of 100" in found.findings[0]
    assert "compared at step 50" in found.findings[0]


def test_two_lone_runs_that_stop_at_different_steps_may_be_cut():
    with pytest.raises(LogError, match="reached its end"):
        compared([cut("a", 3.28, at=75)], [cut("b", 3.28, at=50)])


def test_runs_of_different_planned_lengths_are_compared_at_their_own_ends():
    b = side("b", [3.279, 3.281], planned_steps=120, steps=120, evaluated_at=120)
    found = compared(side("a", [3.279, 3.2811]), b, NoiseModel([noise()]))
    assert (found.sides[0].steps, found.sides[1].steps) == (100, 120)
    assert found.notes == [
        "different lengths: 100 steps against 120; each run is compared at its own end"
    ]


def test_a_run_without_planned_steps_is_cut_where_others_of_its_side_went_on():
    a = side("a", [3.279, 3.28, 3.281], planned_steps=None)
    short = run("short", 3.5, planned_steps=None, steps=80, evaluated_at=80)
    found = compared(a, [*side("b", [3.279, 3.28], planned_steps=None), short])
    assert found.findings == [
        "short of B has no result: it ends at step 80, others of its side at 100"
    ]
