"""Preflight of a full job, cheapest check first: requirements, probe, step test.

The trainer checks its own requirements and what its ranks measure; then the job's ranks run steps
for half a minute, as they will for hours. Every finding has expected, got and hint; an error keeps
the job from starting. The forecast of time is based on these steps.
"""

import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import files
from harness.format import duration, percent, plural
from harness.full.plan import JobPlan
from harness.results.record import ProcessEnd, Record
from harness.results.run_files import log_tail
from harness.runner import process
from harness.runner.replies import PreflightFinding
from harness.runner.stepper import StepperFailed, StepperProcess, wait_for_replies
from harness.runner.trainer import NativeTrainer

PROBE_LIMIT_S = 600.0  # its phases have limits of their own
START_LIMIT_S = 1800.0  # cold compilation of a large model
LEAST_STEPS = 5
STEP_TIMEOUT_FACTOR = 5.0  # times the expected time, plus a minute
SLOW_SHARE = 0.03  # above the median: three times the spread of equal GPUs in the field
LOADER_SHARE = 0.01
MEMORY_SHARE = 0.95  # of the device: fragmentation needs the rest
SEVERITIES = ("error", "warning", "info")


class StepTest(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of the job's own ranks. `step_s`: time of each, after compilation and warm-up.

    `at_step`: first step of the tested stage, in a job whose steps change their shape.
    """

    step_s: list[float]
    loader_wait_s: list[float] = []
    batch_tokens: int
    startup_s: float = 0.0
    compile_s: float = 0.0
    compute_s_by_rank: list[float] = []
    peak_memory_bytes_by_rank: list[float | None] = []
    device_memory_bytes: float | None = None
    device: str | None = None
    environment_id: str = ""
    at_step: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Throughput of all ranks."""
        return self.batch_tokens * len(self.step_s) / sum(self.step_s)


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """All findings; stored with the job."""

    at: float
    ranks: int
    findings: list[PreflightFinding] = []
    checkpoint_bytes: int | None = None
    planned_tokens: int | None = None
    data: dict[str, Any] = {}
    gpus: int = 0
    steps: list[StepTest] = []  # one per stage

    @property
    def errors(self) -> list[PreflightFinding]:
        """The findings that keep the job from starting."""
        return [one for one in self.findings if not one.ok and one.severity == "error"]

    def extended(self, findings: Sequence[PreflightFinding], **changes: Any) -> "Preflight":
        """A copy with further findings and changed fields."""
        return msgspec.structs.replace(self, findings=[*self.findings, *findings], **changes)


def worst_first(findings: Sequence[PreflightFinding]) -> list[PreflightFinding]:
    """Errors, then warnings, then what is as expected."""
    return sorted(findings, key=lambda one: (one.ok, SEVERITIES.index(one.severity)))


class PreflightRunner:
    """Checks one machine for one job. `folder`: the job's; earlier outputs there are replaced."""

    def __init__(
        self,
        trainer: NativeTrainer,
        config: dict[str, Any],
        ranks: int,
        folder: Path,
        stop: process.Stop,
        nodes: int = 1,
        config_file: Path | None = None,
    ) -> None:
        """`config_file`: where the configuration is written; None: in the folder."""
        self.trainer, self.ranks, self.nodes, self.stop = trainer, ranks, nodes, stop
        self.folder = folder.resolve()
        self.config_file = config_file or self.folder / "config.json"
        files.write_json(self.config_file, config)

    def requirements(self) -> Preflight:
        """The trainer's requirements; takes seconds. Raises TrainerError."""
        required = self.trainer.requirements(self.config_file, self.folder, self.ranks, self.nodes)
        return Preflight(
            at=time.time(),
            ranks=self.ranks,
            findings=required.findings,
            checkpoint_bytes=required.checkpoint_bytes,
            planned_tokens=required.planned_tokens,
            data=required.data,
        )

    def probe(self, before: Preflight) -> Preflight:
        """Measurements of the ranks, without training; takes a minute. Raises TrainerError."""
        run_dir = self._fresh("probe")
        command = self.trainer.probe_command(self.config_file, run_dir, self.ranks)
        ended = process.run_process(
            command=command,
            run_dir=run_dir,
            checkout=self.trainer.checkout,
            timeout_s=PROBE_LIMIT_S,
            stop=self.stop,
        )
        result = self.trainer.read_probe(run_dir)
        findings = list(result.findings) if result is not None else []
        if result is None or ended.returncode != 0:
            findings.append(_probe_failed(result is not None, ended, run_dir))
        if result is not None:
            shutil.copyfile(run_dir / "probe.json", self.folder / "probe.json")
        return before.extended(findings, gpus=len(result.gpus) if result is not None else 0)

    def step_test(
        self, before: Preflight, seconds: float, stages: Sequence[int] = (0,)
    ) -> Preflight:
        """Times steps of the job in each of its stages, given by their first steps.

        The stages share the seconds; a failure ends the test. Raises StepperStopped.
        """
        preflight = before
        for at_step in stages:
            preflight = self._test_stage(before, seconds / len(stages), at_step)
            if len(preflight.steps) == len(before.steps):
                break
            before = preflight
        return preflight

    def _test_stage(self, before: Preflight, seconds: float, at_step: int) -> Preflight:
        run_dir = self._fresh("steps")
        command = self.trainer.pace_command(self.config_file, run_dir, self.ranks, at_step)
        stepper = StepperProcess("the step test", command, self.trainer.checkout, run_dir)
        try:
            ready = wait_for_replies([stepper], START_LIMIT_S, self.stop)[0]
            count = max(LEAST_STEPS, round(seconds / max(1e-6, float(ready["step_s"]))))
            reply = stepper.ask(f"go {count}", 60 + STEP_TIMEOUT_FACTOR * seconds, self.stop)
            stepper.stop()
        except StepperFailed as failure:
            return before.extended([_step_test_failed(failure, run_dir)])
        finally:
            stepper.kill()
        test = msgspec.structs.replace(step_test_of(ready, reply), at_step=at_step)
        findings = step_test_findings(test, self.ranks)
        return before.extended(findings, steps=[*before.steps, test])

    def _fresh(self, name: str) -> Path:
        """An empty folder in place of an earlier one."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        with files.disk_errors(path):
            path.mkdir(parents=True)
        return path


def _probe_failed(has_findings: bool, ended: ProcessEnd, run_dir: Path) -> PreflightFinding:
    tail = (log_tail(run_dir / process.LOG, 600) or "").strip()
    part = "with a part of its findings" if has_findings else "without findings"
    return PreflightFinding(
        what="probe",
        ok=False,
        expected="measurements of all ranks",
        got=f"it {ended.describe()}, {part}" + (f": {tail}" if tail else ""),
        hint="Fix what the last lines of its log name: often a link, a driver or a GPU in use.",
    )


def _step_test_failed(failure: StepperFailed, run_dir: Path) -> PreflightFinding:
    result = files.read_json(run_dir / "result.json")
    hint = result.get("hint") if isinstance(result, dict) else None
    tail = (failure.log or "").strip()[-600:]
    return PreflightFinding(
        what="step test",
        ok=False,
        expected="steps of the job on all its ranks",
        got=f"{failure.status.replace('_', ' ')}: {failure.reason}" + (f": {tail}" if tail else ""),
        hint=str(hint or "Fix what the last lines of its log name, and re-run the same command."),
    )


def step_test_of(ready: dict[str, Any], reply: dict[str, Any]) -> StepTest:
    """A step test from the trainer's two replies; what one leaves out has its default."""
    known = {name: value for name, value in {**ready, **reply}.items() if value is not None}
    return msgspec.convert(known, StepTest, strict=False)


def step_test_findings(test: StepTest, ranks: int) -> list[PreflightFinding]:
    """Findings of a step test; those of a later stage name its first step. Pure."""
    findings = [_speed(test, ranks), _loader(test)]
    if len(test.compute_s_by_rank) > 1:
        findings.append(_equal_ranks(test.compute_s_by_rank))
    peaks = [peak for peak in test.peak_memory_bytes_by_rank if peak is not None]
    if peaks and test.device_memory_bytes:
        findings.append(_memory(max(peaks), test.device_memory_bytes))
    where = f" from step {test.at_step:,}" if test.at_step else ""
    return [msgspec.structs.replace(one, what=one.what + where) for one in findings]


def _speed(test: StepTest, ranks: int) -> PreflightFinding:
    median = statistics.median(test.step_s)
    return PreflightFinding(
        what="step test",
        ok=True,
        expected=f"steps on {plural(ranks, 'rank')}",
        got=f"{len(test.step_s)} steps, median {1e3 * median:,.1f} ms, "
        f"{test.tokens_per_s:,.0f} tokens/s",
        severity="info",
    )


def _loader(test: StepTest) -> PreflightFinding:
    share = sum(test.loader_wait_s) / sum(test.step_s)
    return PreflightFinding(
        what="loader",
        ok=share <= LOADER_SHARE,
        expected=f"at most {percent(LOADER_SHARE, 0)} of the step time spent waiting for data",
        got=percent(share),
        hint="Move the prepared data to a faster disk; check for other readers of this disk.",
        severity="warning",
    )


def _equal_ranks(compute_s: Sequence[float]) -> PreflightFinding:
    median = statistics.median(compute_s)
    slow = [
        f"rank {rank} {percent(each / median - 1, sign=True)}"
        for rank, each in enumerate(compute_s)
        if each > median * (1 + SLOW_SHARE)
    ]
    return PreflightFinding(
        what="equal ranks",
        ok=not slow,
        expected=f"compute time of every rank at most {percent(SLOW_SHARE, 0)} above the median",
        got=", ".join(slow) or f"at most {percent(max(compute_s) / median - 1, sign=True)}",
        hint="All ranks wait for the slowest: check the clock, temperature and other processes of "
        "that GPU, or leave it out.",
        severity="warning",
    )


def _memory(peak: float, device: float) -> PreflightFinding:
    return PreflightFinding(
        what="memory of a step",
        ok=peak <= MEMORY_SHARE * device,
        expected=f"at most {percent(MEMORY_SHARE, 0)} of {device / 2**30:.1f} GiB",
        got=f"{peak / 2**30:.1f} GiB",
        hint="Lower the rows per pass (system.device_batch_rows): the batch size stays the same.",
        severity="warning",
    )


def time_limit(plan: JobPlan, wall_s: float, attempts: Sequence[Record]) -> PreflightFinding:
    """Whether the job can end within limits.hours; `wall_s`: at most, for the whole job."""
    left_s = 3600 * plan.file.limits.hours - sum(record.wall_s for record in attempts)
    done = max((record.steps for record in attempts), default=0) / max(1, plan.steps)
    return PreflightFinding(
        what="time limit",
        ok=wall_s * (1 - done) <= left_s,
        expected=f"at most {duration(wall_s * (1 - done))} by the forecast",
        got=f"{duration(max(0.0, left_s))} left of limits.hours",
        hint="Raise limits.hours. At the limit the run stops with a checkpoint, and the same "
        "command resumes it.",
        severity="warning",
    )
