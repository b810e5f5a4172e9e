"""Prints a full job while it runs: reports as they are made, a live status in a terminal, otherwise
one line per minute."""

import time
from typing import TYPE_CHECKING

from harness.escape import escape
from harness.format import duration
from harness.full.cost import Cost
from harness.full.job_forecast import JobForecast
from harness.full.leaderboard import LeaderboardEntry
from harness.full.listener import ForecastCheck, FullListener, ProxyResult
from harness.full.monitor import Alert, RunStatus
from harness.full.preflight import Preflight
from harness.report.full import content
from harness.report.terminal import print_document

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

LINE_EVERY_S = 60.0
DRAW_EVERY_S = 0.5


class FullProgress(FullListener):
    """The `FullListener` of the command line: reports to `console`, progress to `progress`."""

    def __init__(self, console: "Console", progress: "Console", name: str) -> None:
        self.console, self.progress, self.name = console, progress, name
        self._live: Live | None = None
        self._next = 0.0

    def message(self, text: str) -> None:
        self._print(text)

    def forecast_made(self, forecast: JobForecast) -> None:
        print_document(self.console, content.forecast_document(forecast))

    def preflight_done(self, preflight: Preflight, *, every_finding: bool) -> None:
        document = content.preflight_document(preflight, every_finding=every_finding)
        print_document(self.console, document)

    def cost_estimated(self, cost: Cost) -> None:
        print_document(self.console, content.cost_document(cost))

    def proxy_ended(self, result: ProxyResult) -> None:
        self._print(content.proxy_line(result))

    def attempt_started(self) -> None:
        self._next = 0.0
        if self.progress.is_terminal:
            from rich.live import Live

            self._live = Live(console=self.progress, auto_refresh=False)
            self._live.start()

    def attempt_ended(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def attempt_progress(self, status: RunStatus) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        lines = status_lines(self.name, status)
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text("\n".join(lines)), refresh=True)
            self._next = now + DRAW_EVERY_S
        else:
            self._print(" · ".join(lines))
            self._next = now + LINE_EVERY_S

    def alert(self, alert: Alert) -> None:
        self._print(alert.text)

    def entry_made(self, entry: LeaderboardEntry, checks: list[ForecastCheck]) -> None:
        print_document(self.console, content.entry_document(entry, checks))

    def _print(self, text: str) -> None:
        """One line above the live status."""
        console = self._live.console if self._live is not None else self.progress
        console.print(escape(text, "log"), markup=False, highlight=False, soft_wrap=True)


def status_lines(name: str, status: RunStatus) -> list[str]:
    """Progress, loss beside its forecast, time and money."""
    if not status.step:
        return [f"{name}: {status.phase or 'starting'}"]
    lines = [f"{name}: step {status.step:,} of {status.steps:,}"]
    if status.loss is not None:
        lines.append(f"loss {status.loss:.4f}")
    if status.expected is not None:
        low, high = status.expected.low, status.expected.high
        lines[-1] += f" (forecast {low:.4f} to {high:.4f})"
    if status.val_bpb is not None:
        lines.append(f"val_bpb {status.val_bpb:.5f}")
    if status.core is not None:
        lines.append(f"CORE {status.core:.4f}")
    spent = f"{duration(status.spent_s)} so far"
    lines.append(spent if status.usd is None else f"{spent}, {status.usd:,.2f} USD")
    if status.left_s is not None:
        lines.append(f"about {duration(status.left_s)} left")
    return lines
