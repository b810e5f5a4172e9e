"""The full job: preflight, forecast, launch, monitor, leaderboard entry."""
