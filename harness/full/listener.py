"""What a full job reports while it runs."""

import msgspec

from harness.full.cost import Cost
from harness.full.forecast import Estimate
from harness.full.job_forecast import JobForecast
from harness.full.leaderboard import LeaderboardEntry
from harness.full.monitor import Alert, RunStatus
from harness.full.plan import ProxyPlan
from harness.full.preflight import Preflight
from harness.results.record import Record


class ProxyResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a proxy; no record if it was stopped before it began."""

    proxy: ProxyPlan
    record: Record | None


class ForecastCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A forecast beside the measured value."""

    name: str
    forecast: Estimate
    measured: float
    digits: int


class FullListener:
    """Receives what a full job finds, in order; this one ignores it. The command line prints it."""

    def message(self, text: str) -> None: ...
    def forecast_made(self, forecast: JobForecast) -> None: ...
    def preflight_done(self, preflight: Preflight, *, every_finding: bool) -> None: ...
    def cost_estimated(self, cost: Cost) -> None: ...
    def proxy_ended(self, result: ProxyResult) -> None: ...
    def attempt_started(self) -> None: ...
    def attempt_progress(self, status: RunStatus) -> None: ...
    def attempt_ended(self) -> None: ...
    def alert(self, alert: Alert) -> None: ...
    def entry_made(self, entry: LeaderboardEntry, checks: list[ForecastCheck]) -> None: ...
