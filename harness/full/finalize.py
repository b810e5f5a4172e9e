"""Finalizes a completed job: its leaderboard entry, baseline comparison and artifact bundle."""

from collections.abc import Sequence
from pathlib import Path

from harness import errors, files
from harness.comparison.noise_model import NoiseModel
from harness.config.full_file import FullFile
from harness.errors import HarnessError
from harness.full import artifacts, leaderboard
from harness.full.forecast import Estimate
from harness.full.job_forecast import JobForecast
from harness.full.leaderboard import CompletedRun, LeaderboardEntry
from harness.full.listener import ForecastCheck
from harness.gate.baseline import Baseline
from harness.results import stored_file
from harness.results.record import Record
from harness.results.run_files import read_events
from harness.results.store import Store

FORECAST, ENTRY = "forecast", "leaderboard_entry"  # .json in the job's folder


class Finalizer:
    """Finalizes one job. `stored`: the baseline that its quality is compared with."""

    def __init__(
        self,
        store: Store,
        file: FullFile,
        record: Record,
        noise_model: NoiseModel,
        stored: Baseline | None,
    ) -> None:
        self.store, self.file, self.record = store, file, record
        self.noise_model, self.stored = noise_model, stored
        self.folder = artifacts.job_dir(store, file.full)
        self.launch_folder, self.run = self._launch_folder(), self._completed_run()
        path = self.launch_folder / f"{FORECAST}.json"
        self.forecast = stored_file.convert(
            files.read_json(path) or {}, JobForecast, path, "a forecast"
        )

    def entry(self) -> tuple[LeaderboardEntry, int]:
        """The leaderboard entry, and the exit code of the comparison with the baseline."""
        decision, code = self._decision()
        entry = leaderboard.make_entry(
            self.run,
            target=self.file.target.core,
            description=self.file.question or self.file.full,
            commit=self._commit(),
            noise_model=self.noise_model,
            price_usd_per_gpu_hour=self.file.price_usd_per_gpu_hour,
            decision=decision,
            nodes=self.file.nodes,
        )
        return entry, code

    def checks(self, entry: LeaderboardEntry) -> list[ForecastCheck]:
        """The forecasts beside the measured values."""
        forecast, cost = self.forecast.forecast, self.forecast.cost
        pairs: list[tuple[str, Estimate | None, float | None, int]] = [
            ("val_bpb", forecast.val_bpb if forecast else None, entry.val_bpb, 4),
            ("CORE", forecast.core if forecast else None, entry.core, 4),
            ("leaderboard time (s)", cost.leaderboard_s if cost else None, entry.train_s, 1),
        ]
        return [
            ForecastCheck(name=name, forecast=estimate, measured=measured, digits=digits)
            for name, estimate, measured, digits in pairs
            if estimate is not None and measured is not None
        ]

    def loss_points(self) -> list[tuple[float, float]]:
        """The training loss of the run: (fraction of its steps, nats per token)."""
        steps = [one for one in self.run.events if one.get("event") == "step" and one.get("loss")]
        return [(one["step"] / self.record.steps, one["loss"]) for one in steps]

    def write(self, entry: LeaderboardEntry) -> None:
        """Writes the entry as Markdown. Raises DiskError."""
        files.write_text(self.folder / f"{ENTRY}.md", leaderboard.as_markdown(entry))

    def bundle(self, out: Path, proxies: Sequence[Record]) -> int:
        """Writes the artifact bundle; returns its number of files. Raises DiskError."""
        job = [self.record]
        return artifacts.pack(self.store, self.file.full, out, job=job, proxies=proxies)

    def _launch_folder(self) -> Path:
        """The folder of the job that made the run: this one, or one with another name."""
        for code in sorted(self.folder.parent.glob(f"*/{artifacts.CODE_COMMIT}")):
            stored = files.read_json(code.parent / "plan.json")
            if isinstance(stored, dict) and stored.get("plan_id") == self.record.plan_id:
                return code.parent
        return self.folder

    def _decision(self) -> tuple[str | None, int]:
        """The comparison with the baseline as text, and its exit code."""
        if self.stored is None:
            return None, errors.PASS
        try:
            result = leaderboard.against_baseline(self.stored, [self.record], self.noise_model)
        except HarnessError as error:
            return f"not comparable with {self.stored.place}: {error}", errors.INCONCLUSIVE
        return leaderboard.decision_text(result, self.stored), result.exit_code

    def _completed_run(self) -> CompletedRun:
        """The run with its events, and the time of the attempts that it resumed."""
        record = self.record
        events = self.store.run_dir(record.plan_id, record.attempt) / "events.jsonl"
        attempts = self.store.attempts(record.plan_id)
        return CompletedRun(
            record=record,
            events=read_events(events),
            earlier_wall_s=sum(
                one.wall_s for one in attempts if one.started_at < record.started_at
            ),
        )

    def _commit(self) -> str | None:
        """The commit that was launched; None if files differed from it."""
        code = files.read_json(self.launch_folder / artifacts.CODE_COMMIT)
        clean = isinstance(code, dict) and not code.get("changed")
        return code.get("commit") if clean else None
