"""Numbers as every report prints them."""

import pytest

from harness import format


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0512, "0.0512 s"),
        (48, "48 s"),
        (100, "100 s"),
        (119.4, "119 s"),
        (119.6, "2.0 min"),
        (750, "12.5 min"),
        (7190, "119.8 min"),
        (7199, "2.00 h"),
        (10944, "3.04 h"),
        (None, "–"),
    ],
)
def test_a_duration_has_one_form(seconds, text):
    assert format.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "noun", "several", "text"),
    [
        (1, "run", "", "1 run"),
        (0, "run", "", "0 runs"),
        (2, "launch", "launches", "2 launches"),
        (1500, "step", "", "1,500 steps"),
    ],
)
def test_counts_agree_with_their_noun(number, noun, several, text):
    assert format.plural(number, noun, several) == text


def test_signs_percentages_and_intervals():
    assert format.signed("-0.0") == "0.0"
    assert format.percent(-0.0123, 2, sign=True) == "−1.23 %"
    assert format.percent(0.5, 0) == "50 %"
    assert format.interval("+1.0 %", "+2.0 %") == "[+1.0, +2.0]"
    assert format.decimals(0.0012, 4, 6) == 4
    assert format.decimals(0.00012, 4, 6) == 5
    assert format.decimals(None, 2, 6) == 2


def test_a_price_turns_seconds_into_dollars():
    assert format.gpu_cost(3600, None) == "3,600 GPU-seconds"
    assert format.gpu_cost(3600, 2.5) == "3,600 GPU-seconds = 2.50 USD"


def test_percentages_with_as_many_digits_as_they_have():
    assert format.short_percent(0.9) == "90 %"
    assert format.short_percent(0.975) == "97.5 %"
    assert format.short_percent(0.00136, 2) == "0.14 %"


def test_large_counts_have_their_significant_digits():
    assert format.count(1_384_122_122) == "1.38B"
    assert format.count(31_616_000, 4) == "31.62M"
    assert format.count(999_900) == "1000k"
    assert format.count(74) == "74"
    assert format.count(None) == "–"


def test_hours_of_the_leaderboard():
    assert format.hours(5940) == "1.65"
    assert format.hours(900) == "0.25"
