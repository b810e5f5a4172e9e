"""Text logs of modded-nanogpt: `step:1775/1775 val_loss:3.2784 train_time:105607ms`.

A file may contain several runs: the next one begins where the step does not increase. Metrics:

    val_loss      nats per token, at the last evaluation
    train_time_s  the script's clock at that evaluation, which excludes evaluations
    step_ms       mean step time since the last evaluation at least 200 steps before the end, which
                  excludes start-up and compilation and covers the last stage of the schedule

The environment is read from the nvidia-smi output in the header. The script sets no seed, so
replicates differ in their initial values. The scale follows from the loss that it reaches.
"""

import calendar
import re
import time
from typing import Any

import msgspec

from harness.results.logs.run_log import (
    NOT_A_NUMBER,
    Evaluation,
    LoggedRun,
    first_backward_step,
    split_finite,
    tail_ms,
    truncation_reason,
)

FAMILY = "modded-nanogpt"
WARM_UP_STEPS = 20  # scripts of 2024 restart their clock after ten steps
TARGETS = {"gpt2-small": 3.28, "gpt2-medium": 2.92}  # nats; the targets of its two tracks
NEAR_TARGET = 0.05

_EVALUATION = re.compile(
    r"^step:(\d+)/(\d+) val_loss:(\S+)(?: train_time:([\d.]+)(ms|s))?", re.MULTILINE
)
_STEP = re.compile(r"^step:(\d+)/(\d+) ", re.MULTILINE)
_PEAK = re.compile(r"^peak memory allocated: (\d+) MiB", re.MULTILINE)
_GPU = re.compile(r"^\|\s+\d+\s+(\S.*?)\s+(?:On|Off)\s+\|\s+([0-9A-F:.]+)", re.MULTILINE)
_FACTS = {
    "driver": re.compile(r"Driver Version: ([\d.]+)"),
    "torch": re.compile(r"^Running PyTorch (\S+)", re.MULTILINE),
    "power cap": re.compile(r"/\s*(\d+W) \|"),
}
_CLOCK = re.compile(r"^\w{3} (\w{3} +\d+ \d\d:\d\d:\d\d \d{4})\s*$", re.MULTILINE)

_Evaluation = tuple[int, int, float, float | None]  # step, planned steps, loss, seconds


def recognises(text: str) -> bool:
    """Whether a text is a log of modded-nanogpt."""
    return _STEP.search(text) is not None


def read(text: str, source: str) -> list[LoggedRun]:
    """The runs of a file, in order, without those that were never evaluated."""
    runs = _split(_evaluations(text))
    reached = [evaluations[-1][0] for evaluations in runs]
    if runs:  # the last run may have more steps than its last evaluation
        reached[-1] = int(list(_STEP.finditer(text))[-1][1])
    names = [f"{source}, run {number}" for number in range(1, len(runs) + 1)]
    if len(runs) == 1:
        names = [source]
    logged = [_run(*parts) for parts in zip(runs, names, reached, strict=True)]
    header = _header(text)
    if len(logged) == 1 and (peak := _PEAK.search(text)):
        metrics = {**logged[0].metrics, "peak_memory_bytes": int(peak[1]) * 2.0**20}
        logged = [msgspec.structs.replace(logged[0], metrics=metrics)]
    return [msgspec.structs.replace(run, **header) for run in logged]


def _evaluations(text: str) -> list[_Evaluation]:
    evaluations = []
    for match in _EVALUATION.finditer(text):
        seconds = None
        if match[4]:
            seconds = float(match[4]) / (1000 if match[5] == "ms" else 1)
        try:
            loss = float(match[3])
        except ValueError:
            continue
        if match.end() == len(text) and seconds is None:
            continue  # an incomplete last line may end within a number
        evaluations.append((int(match[1]), int(match[2]), loss, seconds))
    return evaluations


def _split(evaluations: list[_Evaluation]) -> list[list[_Evaluation]]:
    runs: list[list[_Evaluation]] = []
    for evaluation in evaluations:
        if not runs or evaluation[0] <= runs[-1][-1][0]:
            runs.append([])
        runs[-1].append(evaluation)
    return runs


def _run(evaluations: list[_Evaluation], name: str, reached: int) -> LoggedRun:
    step, planned, loss, _ = evaluations[-1]
    metrics, bad = split_finite({"val_loss": loss})
    warnings = []
    times = [(at, seconds) for at, _, _, seconds in evaluations if seconds is not None]
    fault = first_backward_step(
        [at for at, _ in times], [seconds for _, seconds in times], WARM_UP_STEPS
    )
    if fault is not None:
        warnings.append(f"{name}: its clock goes backwards at step {fault}; times are left out")
    elif times and times[-1][0] == step:
        metrics["train_time_s"] = times[-1][1]
    curve = _curve(evaluations, timed="train_time_s" in metrics)
    if (tail := tail_ms(curve)) is not None:
        metrics["step_ms"] = tail
    return LoggedRun(
        source=name,
        family=FAMILY,
        metrics=metrics,
        evaluations=curve,
        steps=max(step, reached),
        evaluated_at=step,
        planned_steps=planned,
        ending=NOT_A_NUMBER.format(bad[0]) if bad else truncation_reason(step, reached, planned),
        diverged=bool(bad),
        scale=_scale(loss),
        warnings=warnings,
    )


def _curve(evaluations: list[_Evaluation], *, timed: bool) -> list[Evaluation]:
    """The evaluations with their times, or without them where the clock is at fault."""
    curve = []
    for step, _, loss, seconds in evaluations:
        metrics = {"val_loss": loss}
        if timed and seconds is not None:
            metrics["train_time_s"] = seconds
        curve.append(Evaluation(step, metrics))
    return curve


def _scale(loss: float) -> str | None:
    return next((s for s, target in TARGETS.items() if abs(loss - target) <= NEAR_TARGET), None)


def _header(text: str) -> dict[str, Any]:
    """The fields of a run that are in the header: the machine and the start."""
    facts = {name: match[1] for name, at in _FACTS.items() if (match := at.search(text))}
    gpus = list(dict.fromkeys((match[2], match[1]) for match in _GPU.finditer(text)))
    names = sorted({name for _, name in gpus})
    if gpus:
        facts["GPUs"] = f"{len(gpus)}x {' + '.join(names)}"
        facts["bus ids"] = " ".join(bus for bus, _ in gpus)
    started = _CLOCK.search(text)
    return {
        "environment": facts,
        "environment_known": {"GPUs", "driver", "torch"} <= facts.keys(),
        "gpu": names[0] if len(names) == 1 else None,
        "started_at": _unix_s(started[1]) if started else None,
    }


def _unix_s(text: str) -> float | None:
    try:
        return calendar.timegm(time.strptime(text, "%b %d %H:%M:%S %Y"))
    except ValueError:
        return None
