"""The sections on readings, several metrics, pairs and launches, for the page in docs/.

Each has a script of its own; operating_characteristics.py puts them at the end of its page. They
take about a minute.
"""

from benchmarks.statistics import advice, launch_guard, pairing, several_metrics


def lines(draws: int) -> list[str]:
    """All sections as Markdown. `draws`: a cell of the slowest; the others have more."""
    return [
        *advice.lines(draws),
        *several_metrics.lines(2 * draws),
        *pairing.lines(2 * draws),
        *launch_guard.lines(10 * draws),
    ]
