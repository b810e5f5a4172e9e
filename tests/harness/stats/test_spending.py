"""The error rates of the readings of one question."""

import pytest

from harness.stats.spending import Reading


def test_the_first_reading_spends_four_fifths_and_all_later_ones_share_the_rest():
    rates = [Reading(alpha=0.05, seen=seen).rate for seen in range(200)]
    assert rates[:3] == pytest.approx([0.04, 0.005, 0.0025])
    assert sum(rates[1:]) == pytest.approx(0.01)
    assert sum(rates) <= 0.05 * (1 + 1e-12)


def test_the_next_reading_keeps_the_alpha_of_the_question():
    reading = Reading(alpha=0.01, seen=1)
    assert reading.next == Reading(alpha=0.01, seen=2)
    assert reading.phrase == "reading 2, 0.001 of alpha 0.01"
