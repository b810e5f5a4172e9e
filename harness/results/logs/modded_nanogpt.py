"""Text logs of modded-nanogpt: `step:1775/1775 val_loss:3.2784 train_time:105607ms`.

A file may contain several runs, and runs that were resumed. Metrics:

    val_loss      nats per token, at the last evaluation
    train_time_s  the script's clock at that evaluation, which excludes evaluations
    step_ms       mean step time since the last evaluation at least 200 steps before the end, which
                  excludes start-up and compilation and covers the last stage of the schedule

The environment is read from the nvidia-smi output in the header. The script sets no seed, so
replicates differ in their initial values. The scale follows from the loss that it reaches. The
first records have lines of llm.c, `s:250 tel:6.3097`, with neither times nor planned steps.
"""

import calendar
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from harness.results.logs.run_log import (
    Evaluation,
    LoggedRun,
    evaluation,
    final_metrics,
    finite,
    first_backward_step,
    number,
    resumed_at,
    tail_ms,
    truncation_reason,
)
from harness.results.logs.segments import last_step, split_runs, without_repeats
from harness.results.logs.source_code import shared

FAMILY = "modded-nanogpt"
WARM_UP_STEPS = 20  # scripts of 2024 restart their clock after ten steps
UNTIMED_STEPS = 10  # and leave them out of their mean step time
TOTALS_AGREE = 0.05  # relative
TARGETS = {"gpt2-small": 3.28, "gpt2-medium": 2.92}  # nats; the targets of its two tracks
NEAR_TARGET = 0.05
STEP = r"step:(?=\d+/\d+ )|s:(?=\d+ t[er]l:)"
AFTER_STEPS = "peak memory allocated: "
MARKS = r"step:\d+/\d+ |s:\d+ t[er]l:"

# Patterns over the whole text begin with a line break and not with ^, which is ten times slower.
_EVALUATION = re.compile(
    r"\nstep:(\d{1,9})/(\d{1,9}) val_loss:(\S+)"
    r"(?:.*? train_time:([\d.]+)(ms|s))?(?: step_avg:([\d.]+)ms)?"
)
_STEP = re.compile(r"\nstep:(\d{1,9})/(\d{1,9}) (val_loss)?")
_LLMC_EVALUATION = re.compile(r"\ns:(\d{1,9})() tel:(\S+)()()()(?=\n)")
_LLMC_STEP = re.compile(r"\ns:(\d{1,9})() (t[er]l):")
_PEAK = re.compile(rf"\n{AFTER_STEPS}(\d{{1,9}}) MiB.*")
_RULE = "\n" + "=" * 40  # ends the source that the script prints
_GPU = re.compile(r"^\|\s+\d+\s+(\S.*?)\s+(?:On|Off)\s+\|\s+([0-9A-F:.]+)", re.MULTILINE)
_FACTS = {
    "driver": re.compile(r"Driver Version: ([\d.]+)"),
    "torch": re.compile(r"^Running PyTorch (\S+)", re.MULTILINE),
    "power cap": re.compile(r"/\s*(\d+W) \|"),
}
_CLOCK = re.compile(r"^\w{3} (\w{3} +\d+ \d\d:\d\d:\d\d \d{4})\s*$", re.MULTILINE)


class _Evaluated(NamedTuple):
    """One evaluation as it is printed; `average_ms` is the log's own mean step time."""

    step: int
    planned: int | None
    loss: float
    seconds: float | None
    average_ms: float | None


def recognises(text: str) -> bool:
    """Whether a text is a log of modded-nanogpt."""
    return bool(_STEP.search(text) or _LLMC_EVALUATION.search(text))


def read(text: str, source: str) -> list[LoggedRun]:
    """The runs of a file, in order, without those that were never evaluated."""
    step = _STEP if _STEP.search(text) else _LLMC_STEP
    runs = split_runs(without_repeats(text, step), step, _PEAK)
    of_file = _header(runs[0][0], step)
    logged = []
    for index, parts in enumerate(runs, start=1):
        name = source if len(runs) == 1 else f"{source}, run {index}"
        evaluations, resumed = _evaluations(parts, step)
        if evaluations:
            header = of_file | (_header(parts[0], step) if index > 1 else {})
            logged.append(_run(evaluations, name, parts[-1], step, resumed, header))
    return logged


def _evaluations(parts: Sequence[str], step: re.Pattern[str]) -> tuple[list[_Evaluated], list[int]]:
    """The evaluations of the parts of a run without those that were repeated, and the steps at
    which it was resumed."""
    evaluations: list[_Evaluated] = []
    resumed = []
    for index, part in enumerate(parts):
        if index and (first := step.search(part)):
            resumed.append(int(first[1]))
            evaluations = [one for one in evaluations if one.step < resumed[-1]]
        evaluations += _evaluations_of(part)
    return evaluations, resumed


def _evaluations_of(text: str) -> list[_Evaluated]:
    pattern = _EVALUATION if _STEP.search(text) else _LLMC_EVALUATION
    evaluations = []
    for match in pattern.finditer(text):
        seconds = finite(match[4])
        if match.end() == len(text) and seconds is None:
            continue  # an incomplete last line may end within a number
        if seconds is not None and match[5] == "ms":
            seconds /= 1000
        planned = int(match[2]) if match[2] else None
        loss, average = number(match[3]), finite(match[6])
        evaluations.append(_Evaluated(int(match[1]), planned, loss, seconds, average))
    return evaluations


def _run(
    evaluations: list[_Evaluated],
    name: str,
    text: str,
    step: re.Pattern[str],
    resumed: list[int],
    header: dict[str, Any],
) -> LoggedRun:
    """One run; `text`: its last part."""
    last = evaluations[-1]
    reached = max(last.step, last_step(text, step) or 0)
    final = final_metrics({"val_loss": last.loss})
    metrics = final.metrics
    seconds, warnings = _clock(evaluations, name, resumed)
    if seconds is not None:
        metrics["train_time_s"] = seconds
    curve = _curve(evaluations, timed=seconds is not None)
    if (tail := tail_ms(curve)) is not None:
        metrics["step_ms"] = tail
    if peak := _PEAK.search(text):
        metrics["peak_memory_bytes"] = int(peak[1]) * 2.0**20
    return LoggedRun(
        source=name,
        family=FAMILY,
        metrics=metrics,
        evaluations=curve,
        steps=reached,
        evaluated_at=last.step,
        planned_steps=last.planned,
        ending=final.ending or _truncation(last, reached),
        diverged=final.diverged,
        scale=_scale(last.loss),
        warnings=warnings,
        **header,
    )


def _truncation(last: _Evaluated, reached: int) -> str | None:
    if last.planned is not None:
        return truncation_reason(last.step, reached, last.planned)
    if reached > last.step:
        return f"it ends at step {reached:,}, after its last evaluation at step {last.step:,}"
    return None


def _clock(
    evaluations: list[_Evaluated], name: str, resumed: list[int]
) -> tuple[float | None, list[str]]:
    """Returns (the clock at the last evaluation, a warning where it cannot be used)."""
    last = evaluations[-1]
    if last.seconds is None:
        return None, []
    if resumed:
        return None, [resumed_at(name, resumed)]
    timed = [(one.step, one.seconds) for one in evaluations if one.seconds is not None]
    fault = first_backward_step(
        [at for at, _ in timed], [seconds for _, seconds in timed], WARM_UP_STEPS
    )
    if fault is not None:
        return None, [f"{name}: its clock goes backwards at step {fault}; times are left out"]
    if last.average_ms and last.step > WARM_UP_STEPS:
        longest_ms = 1000 * last.seconds / (last.step - UNTIMED_STEPS)  # some leave out compilation
        if last.average_ms > longest_ms * (1 + TOTALS_AGREE):
            return None, [
                f"{name}: it states {last.average_ms:g} ms a step and {last.seconds:g} s for "
                f"{last.step:,} steps; times are left out"
            ]
    return last.seconds, []


def _curve(evaluations: list[_Evaluated], *, timed: bool) -> list[Evaluation]:
    """The evaluations with their times, or without them where the clock is at fault."""
    curve: list[Evaluation] = []
    for step, _, loss, seconds, _ in evaluations:
        metrics = {"val_loss": loss}
        if timed and seconds is not None:
            metrics["train_time_s"] = seconds
        curve += evaluation(step, metrics)
    return curve


def _source_code(text: str) -> tuple[str | None, str]:
    """Splits a header at the rule after the source that a script prints first, if it does."""
    start = len(_RULE) if text.startswith(_RULE) else 0
    end = text.find(_RULE, start)
    found = text[text.find("\n", start) : end].strip() if end > 0 else ""
    return (shared(found), text[end:]) if "import " in found else (None, text)


def _scale(loss: float) -> str | None:
    return next((s for s, target in TARGETS.items() if abs(loss - target) <= NEAR_TARGET), None)


def _header(text: str, step: re.Pattern[str]) -> dict[str, Any]:
    """The fields of a run before its first step: its source, the machine and the start."""
    text = text[: match.start()] if (match := step.search(text)) else text
    source, text = _source_code(text)
    facts = {name: match[1] for name, at in _FACTS.items() if (match := at.search(text))}
    gpus = list(dict.fromkeys((match[2], match[1]) for match in _GPU.finditer(text)))
    names = sorted({name for _, name in gpus})
    if gpus:
        facts["GPUs"] = f"{len(gpus)}x {' + '.join(names)}"
        facts["bus ids"] = " ".join(bus for bus, _ in gpus)
    started = _CLOCK.search(text)
    fields: dict[str, Any] = {"source_code": source} if source else {}
    if not facts:
        return fields
    return fields | {
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
