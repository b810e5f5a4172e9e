"""What a study looks like while it runs: a table that follows it, or plain lines in a log.

Told by study.py what happens; keeps no truth of its own and decides nothing.
"""

import time
from types import TracebackType
from typing import TYPE_CHECKING

from harness.results.record import FINAL_STATUSES, Record
from harness.results.run_files import Progress
from harness.results.store import Store
from harness.results.study_plan import PlannedRun, ResolvedStudy

if TYPE_CHECKING:
    from rich.console import Console, Group

SIGNS = {
    "completed": "[green]✓[/]",
    "diverged": "[yellow]diverged[/]",
    "out_of_memory": "[yellow]no memory[/]",
    "interrupted": "[dim]interrupted[/]",
    "failed": "[red]failed[/]",
}


class StudyProgress:
    """Shows a study on a console: a table on a terminal, else a line for each run that ends."""

    def __init__(self, console: "Console", study: ResolvedStudy, store: Store) -> None:
        from rich.live import Live as RichLive

        self.console, self.study = console, study
        self.states: dict[tuple[str, int], str] = {}
        self.done = 0
        self.gpu_s = 0.0
        for planned in study.runs:
            attempts = store.attempts(planned.plan_id)
            self.gpu_s += sum(made.wall_s * made.gpus for made in attempts)
            if attempts:
                best = next((m for m in attempts if m.status in FINAL_STATUSES), attempts[-1])
                self.states[planned.arm, planned.seed] = _shown(best)
                self.done += best.status in FINAL_STATUSES
        self.latest: tuple[PlannedRun, Progress] | None = None
        self.left_s: float | None = None
        self.began = time.monotonic()
        self._live = RichLive(console=console, auto_refresh=False) if console.is_terminal else None
        self._next_draw = 0.0

    def __enter__(self) -> "StudyProgress":
        if self._live is not None:
            self._live.start()
        else:
            total = len(self.study.runs)
            self.console.print(f"{self.study.study}: {self.done} of {total} runs are recorded")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()

    def started(self, planned: PlannedRun, slot: str) -> None:
        self.states[planned.arm, planned.seed] = "[cyan]starts[/]"

    def progress(self, planned: PlannedRun, latest: Progress) -> None:
        self.latest = (planned, latest)
        total = self.study.arm(planned.arm).derived.get("steps")
        if latest.step and total:
            share = f"{100 * latest.step / total:.0f} %"
        else:
            share = latest.phase or "starts"
        self.states[planned.arm, planned.seed] = f"[cyan]{share}[/]"

    def ended(self, planned: PlannedRun, made: Record) -> None:
        self.states[planned.arm, planned.seed] = _shown(made)
        self.gpu_s += made.wall_s * made.gpus
        self.done += made.status in FINAL_STATUSES
        if self._live is None:
            self._print_line(planned, made)

    def note(self, text: str) -> None:
        console = self._live.console if self._live else self.console
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def refresh(self, left_s: float | None) -> None:
        self.left_s = left_s
        if self._live is not None and time.monotonic() >= self._next_draw:
            self._draw()
            self._next_draw = time.monotonic() + 0.25

    def _draw(self) -> None:
        assert self._live is not None
        self._live.update(self._table(), refresh=True)

    def _print_line(self, planned: PlannedRun, made: Record) -> None:
        head = f"[{self.done}/{len(self.study.runs)}] {planned.arm}, seed {planned.seed}"
        text = f"{head}: {made.status.replace('_', ' ')} in {made.wall_s:.1f} s"
        bpb, speed = made.metrics.get("val_bpb"), made.metrics.get("tokens_per_s")
        if bpb is not None:
            text += f", {bpb:.4f} bpb"
        if speed is not None:
            text += f", {speed:,.0f} tokens/s"
        if made.status != "completed" and made.reason:
            text += f": {made.reason}"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> "Group":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        seeds = list(dict.fromkeys(planned.seed for planned in self.study.runs))
        planned = {(run.arm, run.seed) for run in self.study.runs}
        table = Table(title=self.study.study, title_justify="left")
        table.add_column("arm", no_wrap=True)
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right")
        for arm in self.study.arms:
            cells = [
                self.states.get((arm.name, seed), "[dim]waits[/]")
                if (arm.name, seed) in planned
                else ""
                for seed in seeds
            ]
            table.add_row(Text(arm.name), *cells)
        return Group(table, Text(self._caption(), style="dim"))

    def _caption(self) -> str:
        parts = [f"{self.done} of {len(self.study.runs)} runs"]
        if self.latest is not None:
            planned, latest = self.latest
            parts.append(f"{planned.arm}: step {latest.step}")
            if latest.loss is not None:
                parts.append(f"loss {latest.loss:.3f}")
            batch = self.study.arm(planned.arm).derived.get("batch_tokens")
            if latest.step_s and batch:
                parts.append(f"{batch / latest.step_s:,.0f} tokens/s")
        parts.append(f"{_duration(time.monotonic() - self.began)} so far")
        if self.left_s is not None:
            parts.append(f"about {_duration(self.left_s)} left")
        if self.gpu_s:
            parts.append(cost(self.gpu_s, self.study.limits.price))
        return " · ".join(parts)


def cost(gpu_s: float, price: float | None) -> str:
    """GPU-seconds, and USD where a price is known."""
    text = f"{gpu_s:,.0f} GPU-s"
    return text if price is None else f"{text} = {gpu_s / 3600 * price:,.2f} USD"


def _shown(made: Record) -> str:
    bpb = made.metrics.get("val_bpb")
    if made.status == "completed" and bpb is not None:
        return f"[green]{bpb:.4f}[/]"
    return SIGNS[made.status]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
