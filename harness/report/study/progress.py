"""Shows a running study: a live table in a terminal, otherwise one line for each finished run."""

import time
from typing import TYPE_CHECKING

from harness import format
from harness.escape import escape
from harness.results.record import FINAL_STATUSES, Record
from harness.results.run_files import Progress
from harness.results.store import Store
from harness.results.study_plan import PlannedRun, ResolvedStudy
from harness.study.executor import StudyListener

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

REDRAW_S = 0.25
STATUS_MARKUP = {
    "completed": "[green]✓[/]",
    "diverged": "[yellow]diverged[/]",
    "out_of_memory": "[yellow]out of memory[/]",
    "interrupted": "[dim]interrupted[/]",
    "failed": "[red]failed[/]",
}


class StudyProgress(StudyListener):
    """The `StudyListener` of the command line."""

    def __init__(self, console: "Console") -> None:
        self.console = console
        self.study: ResolvedStudy | None = None
        self._live: Live | None = None
        self._last_text = ""  # the phase after one without runs would repeat it

    def phase_started(self, study: ResolvedStudy, store: Store) -> None:
        self.study, self.done, self.gpu_s = study, 0, 0.0
        self.cells: dict[tuple[str, int], str] = {}  # (arm, seed) -> rich markup
        recorded = store.attempts_by_plan()
        for planned in study.runs:
            attempts = recorded.get(planned.plan_id, [])
            self.gpu_s += sum(record.wall_s * record.gpus for record in attempts)
            if attempts:
                best = next((r for r in attempts if r.status in FINAL_STATUSES), attempts[-1])
                self.cells[planned.arm, planned.seed] = _cell(best)
                self.done += best.status in FINAL_STATUSES
        self.latest: tuple[PlannedRun, Progress] | None = None
        self.left_s: float | None = None
        self.began, self._next_draw = time.monotonic(), 0.0
        if self.console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        else:
            text = f"{study.study}: {self.done} of {len(study.runs)} runs are recorded."
            if text != self._last_text:
                self.message(text)
            self._last_text = text

    def phase_ended(self) -> None:
        if self._live is not None:
            self._draw(self._live)
            self._live.stop()
            self._live = None

    def run_started(self, planned: PlannedRun, gpu: str) -> None:
        self.cells[planned.arm, planned.seed] = "[cyan]starting[/]"

    def run_progress(self, planned: PlannedRun, latest: Progress) -> None:
        self.latest = (planned, latest)
        total = self._study.arm(planned.arm).derived.get("steps")
        if latest.step and total:
            text = format.percent(latest.step / total, 0)
        else:
            text = latest.phase or "starting"
        self.cells[planned.arm, planned.seed] = f"[cyan]{text}[/]"

    def run_ended(self, planned: PlannedRun, record: Record) -> None:
        self.cells[planned.arm, planned.seed] = _cell(record)
        self.gpu_s += record.wall_s * record.gpus
        self.done += record.status in FINAL_STATUSES
        if self._live is None:
            head = f"[{self.done}/{len(self._study.runs)}] {planned.arm}, seed {planned.seed}"
            self.message(f"{head}: {ended_text(record)}")

    def message(self, text: str) -> None:
        self.console.print(escape(text, "log"), markup=False, highlight=False, soft_wrap=True)

    def time_left(self, seconds: float | None) -> None:
        self.left_s = seconds
        if self._live is not None and time.monotonic() >= self._next_draw:
            self._draw(self._live)
            self._next_draw = time.monotonic() + REDRAW_S

    @property
    def _study(self) -> ResolvedStudy:
        assert self.study is not None, "no phase has started"
        return self.study

    def _draw(self, live: "Live") -> None:
        live.update(self._table(), refresh=True)

    def _table(self) -> "Group":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        study = self._study
        seeds = list(dict.fromkeys(planned.seed for planned in study.runs))
        runs = {(run.arm, run.seed) for run in study.runs}
        table = Table(title=study.study, title_justify="left")
        table.add_column("arm", no_wrap=True)
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right")
        for arm in study.arms:
            keys = [(arm.name, seed) for seed in seeds]
            cells = [self.cells.get(key, "[dim]waiting[/]") if key in runs else "" for key in keys]
            table.add_row(Text(arm.name), *cells)
        return Group(table, Text(self._caption(), style="dim"))

    def _caption(self) -> str:
        study = self._study
        parts = [f"{self.done} of {len(study.runs)} runs"]
        if self.latest is not None:
            planned, latest = self.latest
            parts.append(f"{planned.arm}: step {latest.step}")
            if latest.loss is not None:
                parts.append(f"loss {latest.loss:.3f}")
            batch = study.arm(planned.arm).derived.get("batch_tokens")
            if latest.step_s and batch:
                parts.append(f"{batch / latest.step_s:,.0f} tokens/s")
        parts.append(f"{format.duration(round(time.monotonic() - self.began))} elapsed")
        if self.left_s is not None:
            parts.append(f"about {format.duration(self.left_s)} left")
        if self.gpu_s:
            parts.append(format.gpu_cost(self.gpu_s, study.limits.price))
        return " · ".join(parts)


def ended_text(record: Record) -> str:
    """'completed in 12.3 s, 1.2345 bpb, 20,123 tokens/s'; the reason where it did not complete."""
    text = f"{record.status.replace('_', ' ')} in {format.duration(record.wall_s)}"
    bpb, speed = record.metrics.get("val_bpb"), record.metrics.get("tokens_per_s")
    if bpb is not None:
        text += f", {bpb:.4f} bpb"
    if speed is not None:
        text += f", {speed:,.0f} tokens/s"
    if record.status != "completed" and record.reason:
        text += f": {record.reason}"
    return text


def _cell(record: Record) -> str:
    bpb = record.metrics.get("val_bpb")
    if record.status == "completed" and bpb is not None:
        return f"[green]{bpb:.4f}[/]"
    return STATUS_MARKUP[record.status]
