"""Sides with the same seeds: pairs narrow the limits where they can, at the same error rate."""

import math

import pytest
from scipy import stats

from benchmarks.statistics import pairing
from harness.comparison.compare import compare
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.comparison.options import CompareOptions
from harness.results.logs.run_log import LoggedRun
from harness.stats.decision import PAIRED_SHARE, PAIRS, of_pairs

ROW = NoiseRow(
    scale="toy", metric="val_loss", gpu="G", source="seed", sd=0.01, df=600, runs=1, groups=1,
    origin="shipped",
)  # fmt: skip
A = {1: 3.270, 2: 3.290, 3: 3.281, 4: 3.262}
B = {3: 3.2813, 1: 3.2702, 4: 3.2622, 2: 3.2904}


def side(losses, **changes):
    return [
        LoggedRun(
            source=f"{seed} {loss}", family="toy", metrics={"val_loss": loss}, steps=9,
            scale="toy", gpu="G", **{"seed": seed, "planned_steps": 9, **changes},
        )
        for seed, loss in losses.items()
    ]  # fmt: skip


def compared(a, b, rows=(ROW,)):
    (loss,) = compare(a, b, CompareOptions(), NoiseModel(rows)).metrics
    return loss


@pytest.mark.parametrize("rows", [(ROW,), ()])
def test_runs_of_one_seed_are_compared_as_pairs_whatever_their_order(rows):
    loss = compared(side(A), side(B), rows)
    changes = [B[seed] - A[seed] for seed in A]
    assert loss.method == "paired"
    assert loss.noise_from == "the runs' own, of pairs with one seed"
    assert loss.estimate == pytest.approx(sum(changes) / 4)
    rate = 0.04 * PAIRED_SHARE
    low, high = stats.ttest_1samp(changes, 0).confidence_interval(1 - 2 * rate)
    assert (loss.low, loss.high) == pytest.approx((low, high))
    assert loss.outcome == "pass"


def test_where_pairs_do_not_help_the_sides_have_the_rest_of_the_rate():
    apart = dict(zip(B, sorted(B.values(), reverse=True), strict=True))
    loss = compared(side(A), side(apart))
    assert loss.method == "noise_model"
    half = stats.t.ppf(1 - 0.04 * (1 - PAIRED_SHARE), 600) * 0.01 * math.sqrt(2 / 4)
    assert (loss.high - loss.low) / 2 == pytest.approx(half)


@pytest.mark.parametrize(
    "changes", [{"seed": None}, {"planned_steps": 10}], ids=["unknown seeds", "other length"]
)
def test_runs_that_share_less_than_seed_and_length_are_no_pairs(changes):
    loss = compared(side(A), side(B, **changes))
    half = stats.t.ppf(0.96, 600) * 0.01 * math.sqrt(2 / 4)
    assert (loss.high - loss.low) / 2 == pytest.approx(half)


def test_other_seeds_repeated_seeds_and_few_seeds_are_no_pairs():
    others = {seed + 1: loss for seed, loss in B.items()}
    repeated = [*side(B)[:3], *side({1: 3.265})]
    for b in (side(others), repeated, side(B)[:2]):
        assert compared(side(A), b).method == "noise_model"


def test_equal_changes_are_no_evidence_about_noise():
    values = [3.27, 3.29, 3.281, 3.262]
    assert of_pairs(values, [value + 0.001 for value in values]) is None
    assert of_pairs(values[: PAIRS - 1], [3.2, 3.3]) is None


def test_more_runs_are_advised_from_the_spread_of_the_pairs():
    worse = {seed: A[seed] + shift / 1000 for seed, shift in zip(A, (3, -1, 1, 0), strict=True)}
    loss = compared(side(A), side(worse))
    assert (loss.method, loss.outcome) == ("paired", "inconclusive")
    assert loss.more_runs < compared(side(A, seed=None), side(worse)).more_runs


@pytest.mark.parametrize("noise", ["noise model, 600 df", "own runs"])
def test_arrays_are_as_wide_as_single_comparisons(noise):
    cell = pairing.Cell(noise=noise, runs=4, correlation=0.8)
    a, b, known = pairing.drawn(cell, 20)
    parts = 1 - PAIRED_SHARE, PAIRED_SHARE
    sides, pairs = pairing.half_widths(a, b, known, pairing.NOISE[noise], parts)
    assert {bool(one) for one in pairs < sides} == {True, False}
    for draw in range(20):
        rows = []
        if known is not None:
            rows = [NoiseRow(**{**ROW_FIELDS, "sd": float(known[draw])})]
        one = compared(side(dict(enumerate(a[draw]))), side(dict(enumerate(b[draw]))), rows)
        if one.method != "welch":
            assert (one.high - one.low) / 2 == pytest.approx(min(sides[draw], pairs[draw]))


ROW_FIELDS = {name: getattr(ROW, name) for name in ROW.__struct_fields__}


@pytest.mark.parametrize("cell", list(pairing.cells()), ids=str)
def test_the_narrower_limits_err_at_most_at_their_rate(cell):
    rates = pairing.simulate(cell, 10_000)
    bound = pairing.RATE + 2 * math.sqrt(pairing.RATE * (1 - pairing.RATE) / 10_000)
    assert rates.error <= bound
    assert rates.width <= 1.12
    if cell.correlation >= 0.95 and cell.runs >= 5:
        assert rates.width < 0.5
