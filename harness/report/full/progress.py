"""A full job while it runs: a panel that follows it on a terminal, a line a minute in a log.

Told what `watch` found; keeps no truth of its own.
"""

import time
from types import TracebackType
from typing import TYPE_CHECKING

from harness.full.monitor import Alert, RunStatus
from harness.report.full.terminal import duration, say

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 60.0
DRAW_EVERY_S = 0.5


class JobProgress:
    """Shows one attempt of a job."""

    def __init__(self, console: "Console", name: str) -> None:
        from rich.live import Live as RichLive

        self.console, self.name = console, name
        self._live = RichLive(console=console, auto_refresh=False) if console.is_terminal else None
        self._next = 0.0

    def __enter__(self) -> "JobProgress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def alarm(self, alarm: Alert) -> None:
        """Said at once, above what follows."""
        say(self._live.console if self._live is not None else self.console, alarm.text)

    def show(self, standing: RunStatus) -> None:
        """Where the job stands, as often as it can be read."""
        now = time.monotonic()
        if now < self._next:
            return
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text("\n".join(lines_of(self.name, standing))), refresh=True)
            self._next = now + DRAW_EVERY_S
        else:
            say(self.console, " · ".join(lines_of(self.name, standing)))
            self._next = now + LINE_EVERY_S


def lines_of(name: str, standing: RunStatus) -> list[str]:
    """Progress, loss against the forecast, time and money."""
    if not standing.step:
        return [f"{name}: {standing.phase or 'starts'}"]
    lines = [f"{name}: step {standing.step:,} of {standing.steps:,}"]
    if standing.loss is not None:
        lines.append(f"loss {standing.loss:.4f}")
    if standing.expected is not None:
        low, high = standing.expected.low, standing.expected.high
        lines[-1] += f" (foretold {low:.4f} to {high:.4f})"
    if standing.val_bpb is not None:
        lines.append(f"val_bpb {standing.val_bpb:.5f}")
    if standing.core is not None:
        lines.append(f"CORE {standing.core:.4f}")
    spent = f"{duration(standing.spent_s)} so far"
    lines.append(spent if standing.usd is None else f"{spent}, {standing.usd:,.2f} USD")
    if standing.left_s is not None:
        lines.append(f"about {duration(standing.left_s)} left")
    return lines
