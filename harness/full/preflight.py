"""What is looked at before a job starts, from the cheap to the dear: needs, probe, step test.

The trainer judges its own needs and what its ranks measured of themselves; here the two are asked
for, and the job's own ranks take steps for half a minute, as they will for hours. Everything found
is a `Finding`: expected, got, hint. One that stops starts nothing. After the file, before the
forecast of time, which rests on these steps.
"""

import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import files
from harness.results import record
from harness.results.run_files import log_tail
from harness.runner import process
from harness.runner.stepper import StepperFailed, StepperProcess, wait_for_replies
from harness.runner.trainer import NativeTrainer, PreflightFinding

PROBE_LIMIT_S = 600.0  # its phases have limits of their own, and leave what they found
START_LIMIT_S = 1800.0  # a cold compilation of a large model
LEAST_STEPS = 5
TURN_PATIENCE = 5.0  # times what the steps should take, and a minute
SLOW_SHARE = 0.03  # beyond the median: three times what equal GPUs differ by in the field
LOADER_SHARE = 0.01
MEMORY_SHARE = 0.95  # of the device: fragments need the rest
SEVERITIES = ("stops", "warns", "told")


class StepTest(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of the job's own ranks. `step_s`: every one of them, after compilation and warm-up.

    `at_step`: the first step of their stage, in a job whose steps change their shape.
    """

    step_s: list[float]
    loader_wait_s: list[float]
    batch_tokens: int
    startup_s: float
    compile_s: float
    compute_s_by_rank: list[float] = []
    peak_memory_bytes_by_rank: list[float | None] = []
    device_memory_bytes: float | None = None
    device: str | None = None
    environment_id: str = ""
    at_step: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Of all ranks together."""
        return self.batch_tokens * len(self.step_s) / sum(self.step_s)


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found; kept with the job."""

    at: float
    ranks: int
    findings: list[PreflightFinding] = []
    checkpoint_bytes: int | None = None
    planned_tokens: int | None = None
    data: dict[str, Any] = {}
    gpus: int = 0
    steps: list[StepTest] = []  # one of each stage

    @property
    def stops(self) -> list[PreflightFinding]:
        """What keeps the job from starting."""
        return [one for one in self.findings if not one.ok and one.severity == "stops"]

    def with_(self, found: Sequence[PreflightFinding], **more: Any) -> "Preflight":
        """The same and more."""
        return msgspec.structs.replace(self, findings=[*self.findings, *found], **more)


def worst_first(findings: Sequence[PreflightFinding]) -> list[PreflightFinding]:
    """What stops, what is only said to be wrong, what is as it should be."""
    return sorted(findings, key=lambda one: (one.ok, SEVERITIES.index(one.severity)))


class Examiner:
    """Looks at one machine for one job. `folder`: of the job; what is left there is replaced."""

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
        """`config_file`: where the configuration is written; None for the folder's own."""
        self.trainer, self.ranks, self.nodes, self.stop = trainer, ranks, nodes, stop
        self.folder = folder.resolve()
        self.config_file = config_file or self.folder / "config.json"
        files.write_json(self.config_file, config)

    def needs(self) -> Preflight:
        """What the trainer says it needs; takes seconds. Raises TrainerError."""
        told = self.trainer.needs(self.config_file, self.folder, self.ranks, self.nodes)
        return Preflight(
            at=time.time(),
            ranks=self.ranks,
            findings=told.findings,
            checkpoint_bytes=told.checkpoint_bytes,
            planned_tokens=told.planned_tokens,
            data=told.data,
        )

    def probe(self, before: Preflight) -> Preflight:
        """What the ranks measured, without training; takes a minute. Raises TrainerError."""
        run_dir = self._fresh("probe")
        command = self.trainer.probe_command(self.config_file, run_dir, self.ranks)
        ended = process.run_process(
            command=command,
            run_dir=run_dir,
            checkout=self.trainer.checkout,
            timeout_s=PROBE_LIMIT_S,
            stop=self.stop,
        )
        told = self.trainer.read_probe(run_dir)
        found = list(told.findings) if told is not None else []
        if told is None or ended.returncode != 0:
            found.append(_silent(told is not None, ended, run_dir))
        if told is not None:
            shutil.copyfile(run_dir / "probe.json", self.folder / "probe.json")
        return before.with_(found, gpus=len(told.gpus) if told is not None else 0)

    def steps(self, before: Preflight, seconds: float, stages: Sequence[int] = (0,)) -> Preflight:
        """What steps of the job itself take, in each of its stages, by their first steps.

        Stages share the seconds; one that fails is the last. Raises StepperStopped.
        """
        found = before
        for at_step in stages:
            found = self._steps_at(found, seconds / len(stages), at_step)
            if len(found.steps) == len(before.steps):
                break
            before = found
        return found

    def _steps_at(self, before: Preflight, seconds: float, at_step: int) -> Preflight:
        run_dir = self._fresh("steps")
        command = self.trainer.pace_command(self.config_file, run_dir, self.ranks, at_step)
        pace = StepperProcess("the step test", command, self.trainer.checkout, run_dir)
        try:
            ready = wait_for_replies([pace], START_LIMIT_S, self.stop)[0]
            count = max(LEAST_STEPS, round(seconds / max(1e-6, float(ready["step_s"]))))
            turn = pace.ask(f"go {count}", 60 + TURN_PATIENCE * seconds, self.stop)
            pace.stop()
        except StepperFailed as failure:
            return before.with_([_failed(failure, run_dir)])
        finally:
            pace.kill()
        told = msgspec.structs.replace(step_test(ready, turn), at_step=at_step)
        return before.with_(judged(told, self.ranks), steps=[*before.steps, told])

    def _fresh(self, name: str) -> Path:
        """An empty folder; one that a trainer was at work in before is gone."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        with files.disk_errors(path):
            path.mkdir(parents=True)
        return path


def _silent(left_something: bool, ended: record.ProcessEnd, run_dir: Path) -> PreflightFinding:
    tail = (log_tail(run_dir / process.LOG, 600) or "").strip()
    part = "with only a part of its findings" if left_something else "without a finding"
    return PreflightFinding(
        what="probe",
        ok=False,
        expected="that all ranks measure themselves and meet",
        got=f"it {ended.describe()}, {part}" + (f": {tail}" if tail else ""),
        hint="Mend what its last lines name; often it is a link, a driver or a GPU in use.",
    )


def _failed(failure: StepperFailed, run_dir: Path) -> PreflightFinding:
    told = files.read_json(run_dir / "result.json")
    hint = told.get("hint") if isinstance(told, dict) else None
    tail = (failure.log or "").strip()[-600:]
    return PreflightFinding(
        what="step test",
        ok=False,
        expected="steps of the job on all of its ranks",
        got=f"{failure.status.replace('_', ' ')}: {failure.reason}" + (f": {tail}" if tail else ""),
        hint=str(hint or "Mend what its last lines name, and give the same command again."),
    )


def step_test(ready: dict[str, Any], turn: dict[str, Any]) -> StepTest:
    """A trainer's answers, as far as they are needed."""
    return StepTest(
        step_s=[float(each) for each in turn["step_s"]],
        loader_wait_s=[float(each) for each in turn.get("loader_wait_s") or []],
        batch_tokens=int(ready["batch_tokens"]),
        startup_s=float(ready.get("startup_s") or 0.0),
        compile_s=float(ready.get("compile_s") or 0.0),
        compute_s_by_rank=[float(each) for each in turn.get("compute_s_by_rank") or []],
        peak_memory_bytes_by_rank=list(ready.get("peak_memory_bytes_by_rank") or []),
        device_memory_bytes=ready.get("device_memory_bytes"),
        device=ready.get("device"),
        environment_id=str(ready.get("environment_id") or ""),
    )


def judged(test: StepTest, ranks: int) -> list[PreflightFinding]:
    """What a step test says; pure. Of a later stage its findings name the step."""
    found = [_speed(test, ranks), _loader(test)]
    if len(test.compute_s_by_rank) > 1:
        found.append(_equal_ranks(test.compute_s_by_rank))
    peaks = [peak for peak in test.peak_memory_bytes_by_rank if peak is not None]
    if peaks and test.device_memory_bytes:
        found.append(_memory(max(peaks), test.device_memory_bytes))
    where = f" from step {test.at_step:,}" if test.at_step else ""
    return [msgspec.structs.replace(one, what=one.what + where) for one in found]


def _speed(test: StepTest, ranks: int) -> PreflightFinding:
    median = statistics.median(test.step_s)
    return PreflightFinding(
        what="step test",
        ok=True,
        expected=f"steps on {ranks} rank{'s' * (ranks > 1)}",
        got=f"{len(test.step_s)} of {1e3 * median:,.1f} ms, {test.tokens_per_s:,.0f} tokens/s",
        severity="told",
    )


def _loader(test: StepTest) -> PreflightFinding:
    share = sum(test.loader_wait_s) / sum(test.step_s)
    return PreflightFinding(
        what="loader",
        ok=share <= LOADER_SHARE,
        expected=f"waits of at most {LOADER_SHARE:.0%} of the time of steps",
        got=f"{share:.1%}",
        hint="Put the prepared data on a faster disk; look for others that read from it.",
        severity="warns",
    )


def _equal_ranks(compute_s: Sequence[float]) -> PreflightFinding:
    median = statistics.median(compute_s)
    late = [
        f"rank {rank} {each / median - 1:+.1%}"
        for rank, each in enumerate(compute_s)
        if each > median * (1 + SLOW_SHARE)
    ]
    return PreflightFinding(
        what="equal ranks",
        ok=not late,
        expected=f"every rank's own work within {SLOW_SHARE:.0%} of the median",
        got=", ".join(late) or f"at most {max(compute_s) / median - 1:+.1%}",
        hint="All wait for the slowest: look at that GPU's clock, heat and neighbours, or "
        "leave it out.",
        severity="warns",
    )


def _memory(peak: float, device: float) -> PreflightFinding:
    return PreflightFinding(
        what="memory of a step",
        ok=peak <= MEMORY_SHARE * device,
        expected=f"at most {MEMORY_SHARE:.0%} of {device / 2**30:.1f} GiB",
        got=f"{peak / 2**30:.1f} GiB",
        hint="Take fewer rows a pass: the batch stays, in more passes.",
        severity="warns",
    )
