"""The search file: its schema, and the errors of invalid files."""

import pytest

from harness.errors import StudyFileError

RANGE = "{bowl.x: {float: [-1, 1]}}"


def test_a_complete_file_is_read(parsed):
    search = parsed()
    assert search.objectives == ["val_bpb"]
    assert list(search.space) == ["bowl.x", "bowl.y"]
    assert search.confirm.seeds == [101, 102, 103]


def test_fields_of_a_trick_are_read(parsed):
    search = parsed(tricks="{muon: {off: {optimizer.adamw_lr: {float: [0.001, 0.1], log: true}}}}")
    assert search.tricks["muon"].off["optimizer.adamw_lr"].log


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"space": "{bowl.x: {flaot: [0, 1]}}"}, "search.yaml:9: space.bowl.x.flaot"),
        (
            {"space": "{bowl.x: {float: [1, 0]}}"},
            "a lower and a higher end; got [1.0, 0.0]",
        ),
        ({"space": "{bowl.x: {float: [0, 1], log: true}}"}, "a logarithmic range above 0"),
        ({"space": "{bowl.x: {int: [0, 4], step: 9}}"}, "a step above 0 and within [0, 4]"),
        ({"space": "{bowl.x: {choices: [1]}}"}, "two choices or more"),
        ({"space": "{bowl.x: {float: [0, 1], int: [0, 1]}}"}, "and choices: [...]; got 2 of them"),
        ({"space": ""}, "at least one field under space"),
        ({"tricks": "{muon: {of: {}}}"}, "tricks.muon.of: expected one of the keys on, off"),
        ({"tricks": "{muon: {on: {bowl.x: {int: [0, 1]}}}}"}, "every field once in a search"),
        ({"objective": "first_crossing"}, "The first crossing of a target is no objective"),
        ({"objective": "val_bbp"}, "Did you mean 'val_bpb'?"),
        ({"objective": "ln_time_to_target"}, "expected ln_time_to_target and slope_from together"),
        ({"budget": "{}"}, "expected trials, gpu_seconds or usd"),
        ({"budget": "{usd: 5}"}, "expected a price for a budget in USD"),
        ({"budget": "{trails: 5}"}, "Did you mean 'trials'?"),
        ({"confirm": "{seeds: [1, 102]}"}, "expected seeds that the search does not use; got [1]"),
        ({"base_seeds": "[1]"}, "expected at least two seeds"),
        ({"constraints": "{val_loss: {}}"}, "expected one of at_most and at_least"),
        ({"base": ""}, "expected the key 'base'"),
        ({"tricks": "{muon: true}"}, "tricks.muon: expected object; got bool"),
        ({"tricks": "{muon: false}"}, "tricks.muon: expected object; got bool"),
        (
            {"space": "{bowl.x: {int: [1, 8], step: 0.5}}"},
            "an integer step for a range of integers",
        ),
        ({"space": "{bowl.x: {float: [0, .inf]}}"}, "a number of 1e+15 or below; got inf"),
        ({"space": "{bowl.x: {float: [.nan, 1]}}"}, "or above; got nan"),
        ({"space": "{bowl.x: {float: [0, 1], step: .nan}}"}, "a number above 0; got nan"),
        ({"budget": "{trials: 0}"}, "budget.trials: expected a number of 1 or above; got 0"),
        ({"budget": "{gpu_seconds: .inf}"}, "a number of 1e+15 or below; got inf"),
        ({"budget": "{usd: .nan}", "limits": "{price: 1}"}, "a number above 0; got nan"),
        ({"constraints": "{val_loss: {at_most: .nan}}"}, "or above; got nan"),
        ({"confirm": "{best: 0}"}, "at least one trial to confirm; got 0"),
        ({"confirm": "{best: .inf}"}, "confirm.best: expected int; got float"),
        ({"seed": "-1"}, "seed: expected a number of 0 or above; got -1"),
        ({"confirm": "{alpha: 5}"}, "confirm.alpha: expected a number below 0.5; got 5"),
        ({"confirm": "{many: holm}"}, "confirm.many: expected one of the keys best, seeds"),
        ({"confirm": "{many: holm}"}, "Did you mean 'correction'?"),
        ({"confirm": "{best: -1}"}, "confirm.best: expected a number of 0 or above; got -1"),
        ({"limits": "{failures: 0}"}, "limits.failures: expected a number of 1 or above; got 0"),
        ({"limits": "{run_minutes: -1}"}, "limits.run_minutes: expected a number above 0; got -1"),
    ],
)
def test_an_error_names_its_place_and_a_hint(parsed, parts, message):
    with pytest.raises(StudyFileError) as fault:
        parsed(**parts)
    assert message in str(fault.value)
