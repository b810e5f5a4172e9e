"""What a job ends with: its row, what was foretold beside what came, the verdict, page, evidence.

Reads a completed record and what the store keeps of the job; starts nothing.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from harness import errors
from harness import files as atomic
from harness.compare.noise_model import NoiseModel
from harness.config.full_file import FullFile
from harness.errors import HarnessError
from harness.full import evidence
from harness.full import leaderboard as rows
from harness.full.predict import Prediction
from harness.gate.baseline import Baseline
from harness.report.full import terminal
from harness.report.study import EXTRA
from harness.results.record import Record
from harness.results.run_files import read_events
from harness.results.store import Store


class Finalizer:
    """The end of one job. `stored`: the baseline that its quality is judged against."""

    def __init__(
        self,
        store: Store,
        file: FullFile,
        record: Record,
        noise_model: NoiseModel,
        stored: Baseline | None,
        say: Callable[[str], None],
    ) -> None:
        self.store, self.file, self.record = store, file, record
        self.noise_model, self.stored, self.say = noise_model, stored, say
        self.folder = evidence.job_dir(store, file.full)
        self.launched_in, self.run = self._launched_in(), self._run()
        kept = atomic.read_json(self.launched_in / "forecast.json")
        self.foretold = msgspec.convert(kept or {}, Prediction)

    def row(self) -> tuple[rows.LeaderboardEntry, int]:
        """The row, and the exit code of the verdict."""
        verdict, code = self._verdict()
        found = rows.row(
            [self.run],
            target=self.file.target.core,
            description=self.file.question or self.file.full,
            commit=self._commit(),
            noise_model=self.noise_model,
            price_usd_per_gpu_hour=self.file.price_usd_per_gpu_hour,
            verdict=verdict,
            nodes=self.file.nodes,
        )
        return found, code

    def tell(self, found: rows.LeaderboardEntry) -> None:
        """The row, and what was foretold beside it."""
        self.say(rows.as_markdown(found))
        for line in terminal.against_lines(self.foretold, found):
            self.say(line)

    def write(
        self, found: rows.LeaderboardEntry, out: Path | None, proxies: Sequence[Record]
    ) -> None:
        """`row.md`, the page, and the evidence where `out` asks for it. Raises DiskError."""
        atomic.write_text(self.folder / "row.md", rows.as_markdown(found))
        self._write_page(found)
        if out is None:
            self.say("`--evidence OUT.tar` packs the records, curves and findings behind it.")
            return
        job = [self.record]
        files = evidence.pack(self.store, self.file.full, out, job=job, proxies=proxies)
        self.say(f"evidence: {out}, {files} files")

    def _launched_in(self) -> Path:
        """The folder of the job that made a run: this one's, or that of another name before."""
        for code in sorted(self.folder.parent.glob(f"*/{evidence.CODE_COMMIT}")):
            kept = atomic.read_json(code.parent / "plan.json")
            if isinstance(kept, dict) and kept.get("plan_id") == self.record.plan_id:
                return code.parent
        return self.folder

    def _verdict(self) -> tuple[str | None, int]:
        """Against the stored baseline, in words, and its exit code; the row is told all the same
        where they may not be compared."""
        if self.stored is None:
            return None, errors.PASS
        try:
            found = rows.against(self.stored, [self.record], self.noise_model)
        except HarnessError as error:
            return f"none against {self.stored.place}: {error}", errors.INCONCLUSIVE
        return rows.verdict_words(found, self.stored), found.exit_code

    def _run(self) -> rows.CompletedRun:
        """With its events, and the time of the attempts that it went on from."""
        record = self.record
        events = self.store.run_dir(record.plan_id, record.attempt) / "events.jsonl"
        before = [
            made
            for made in self.store.attempts(record.plan_id)
            if made.started_at < record.started_at
        ]
        return rows.CompletedRun(
            record=record,
            events=read_events(events),
            earlier_wall_s=sum(made.wall_s for made in before),
        )

    def _commit(self) -> str | None:
        """The commit that the launch began with; None where files differed from it."""
        code = atomic.read_json(self.launched_in / evidence.CODE_COMMIT)
        known = isinstance(code, dict) and not code.get("changed")
        return code.get("commit") if known else None

    def _write_page(self, row: rows.LeaderboardEntry) -> None:
        """The page of a job that was foretold; left out where plotly is missing."""
        foretold, record = self.foretold, self.record
        if foretold.forecast is None:
            return
        if importlib.util.find_spec("plotly") is None:
            self.say(f"report.html was left out: it needs plotly. To have it: {EXTRA}")
            return
        from harness.report.full.html import page

        events = self.run.events
        steps = [event for event in events if event.get("event") == "step" and event.get("loss")]
        path = self.folder / "report.html"
        text = page(
            self.file.full,
            foretold.forecast,
            cost=foretold.cost,
            row=row,
            band=foretold.band,
            points=[(event["step"] / record.steps, event["loss"]) for event in steps],
        )
        atomic.write_text(path, text)
        self.say(f"html: {path}")
