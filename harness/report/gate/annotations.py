"""A gate as workflow commands: the lines that a GitHub runner shows as annotations.

One line a metric that has a verdict other than pass, and one for the whole; a runner shows ten of
a kind at most, and nobody reads about a pass. Text is escaped as the runner unescapes it, so that
neither a log nor a metric's name can start a command of its own. Pure; after `findings`.
"""

from harness.report.gate.findings import Findings, Metric, Outcome, sentence

LEVELS: dict[Outcome, str] = {
    "pass": "notice",
    "inconclusive": "warning",
    "regression": "error",
    "could not run": "error",
}


def annotations(found: Findings) -> list[str]:
    """The commands in the order in which they are to be printed: the whole gate first."""
    whole = _command(found.outcome, f"Gate: {found.outcome}", found.reason)
    return [whole, *(_metric(metric) for metric in found.metrics if _speaks(metric))]


def _speaks(metric: Metric) -> bool:
    return metric.judged.outcome not in (None, "pass")


def _metric(metric: Metric) -> str:
    outcome = metric.judged.outcome
    assert outcome is not None
    level: Outcome = "inconclusive" if metric.unconfirmed else outcome
    return _command(level, f"{metric.judged.title}: {outcome}", sentence(metric))


def _command(outcome: Outcome, title: str, message: str) -> str:
    return f"::{LEVELS[outcome]} title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
