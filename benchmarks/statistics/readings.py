"""The sections on readings, several metrics, pairs and launches, for the page in docs/.

Each has a script of its own; operating_characteristics.py puts them at the end of its page. They
take about a minute.
"""

from benchmarks.statistics import advice, launch_guard, pairing, several_metrics

DRAWS = 10_000


def lines() -> list[str]:
    """All sections as Markdown."""
    return [
        *advice.lines(DRAWS),
        *several_metrics.lines(2 * DRAWS),
        *pairing.lines(2 * DRAWS),
        *launch_guard.lines(10 * DRAWS),
    ]
