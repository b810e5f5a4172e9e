"""Text logs of nanochat's base training: `Step 00240 | Validation bpb: 1.322556`.

    val_bpb           bits per byte, at the last evaluation
    core              the CORE metric at the last step, where it was measured
    train_time_s      sum of the printed step times after step 10, as nanochat's own clock counts
    tokens_per_s      tokens over time in the same steps
    peak_memory_bytes

A file may contain several runs, and runs that were resumed. nanochat fixes its seed and the order
of its data, so replicates differ only by the numerics of the GPU, and a comparison is about that
one seed. The log names the GPU but neither the driver nor torch, so its environment counts as
unknown.
"""

import calendar
import math
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from harness.results.logs.run_log import (
    FinalMetrics,
    LoggedRun,
    evaluation,
    final_metrics,
    finite,
    first_backward_step,
    number,
    resumed_at,
    truncation_reason,
)
from harness.results.logs.segments import split_runs, without_repeats
from harness.results.recipe import FULL_SCALE_LAYERS, count

FAMILY = "nanochat"
SKIPPED_STEPS = 10
MINUTES_AGREE, TOTALS_AGREE = 0.006, 0.01  # it prints minutes with two digits; relative
STEP = r"[Ss]tep (?=\d+(?:/\d+ .*\| dt: | \| ))"
AFTER_STEPS = "Peak memory usage|Total training time|Minimum validation"
MARKS = r"Step \d+ \| |step \d+/\d+ \("
FULL_RATIO = 5.0  # tokens per scaling parameter; its leaderboard runs have 7 to 12

_EVALUATION = re.compile(r"^Step (\d{1,9}) \| Validation bpb: (\S+)", re.MULTILINE)
_CORE = re.compile(r"^Step (\d{1,9}) \| CORE metric: (\S+)", re.MULTILINE)
_STEP = re.compile(
    r"^step (\d{1,9})/(\d{1,9}) .*?\| dt: ([-\d.]+)ms(?:.*?\| total time: ([-\d.]+)m)?",
    re.MULTILINE,
)
_ANY_STEP = re.compile(r"\n[Ss]tep (\d{1,9})(?:/(\d{1,9}) .*\| (dt): | \| Validation bpb)")
_TRAILER = re.compile(rf"\n(?:Step \d+ \||{AFTER_STEPS}).*")
_FIELDS = {
    "batch": re.compile(r"^Total batch size ([\d,]+)", re.MULTILINE),
    "layers": re.compile(r'"n_layer": (\d+)'),
    "tokens": re.compile(r"^Total number of training tokens: ([\d,]+)", re.MULTILINE),
    "ratio": re.compile(r"^Tokens : \S+ params ratio: ([\d.]+)", re.MULTILINE),
    "peak": re.compile(r"^Peak memory usage: ([\d.]+)MiB", re.MULTILINE),
    "minutes": re.compile(r"^Total training time: ([\d.]+)m", re.MULTILINE),
    "world": re.compile(r"Distributed world size: (\d+)"),
}
_GPU = re.compile(r"^GPU: (.+?) \|", re.MULTILINE)
_CLOCK = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ - nanochat", re.MULTILINE)

_Step = tuple[int, int, float, str]  # step, planned steps, ms, minutes since the start


def recognises(text: str) -> bool:
    """Whether a text is a log of nanochat."""
    has_lines = "| Validation bpb:" in text or "| dt: " in text
    return has_lines and bool(_EVALUATION.search(text) or _STEP.search(text))


def read(text: str, source: str) -> list[LoggedRun]:
    """The runs of a file, in order, without those that were never evaluated."""
    text = text[: text.rfind("\n") + 1]  # an incomplete last line may end within a number
    runs = split_runs(without_repeats(text, _ANY_STEP), _ANY_STEP, _TRAILER)
    names = [f"{source}, run {index}" for index in range(1, len(runs) + 1)]
    logged = [
        _run(parts, name if len(runs) > 1 else source)
        for parts, name in zip(runs, names, strict=True)
    ]
    return [run for run in logged if run is not None]


class _Lines(NamedTuple):
    """What the parts of a run print at their steps, without what was repeated."""

    evaluations: list[tuple[int, float]]
    steps: list[_Step]
    resumed: list[int]


def _lines(parts: Sequence[str]) -> _Lines:
    evaluations: list[tuple[int, float]] = []
    steps: list[_Step] = []
    resumed = []
    for index, text in enumerate(parts):
        if index and (first := _ANY_STEP.search(text)):
            resumed.append(int(first[1]))
            evaluations = [one for one in evaluations if one[0] < resumed[-1]]
            steps = [one for one in steps if one[0] < resumed[-1]]
        evaluations += [(int(match[1]), number(match[2])) for match in _EVALUATION.finditer(text)]
        steps += [(int(m[1]), int(m[2]), number(m[3]), m[4]) for m in _STEP.finditer(text)]
    return _Lines(evaluations, steps, resumed)


def _run(parts: Sequence[str], source: str) -> LoggedRun | None:
    """The run of these texts; None if it was never evaluated."""
    evaluations, steps, resumed = _lines(parts)
    if not evaluations:
        return None
    text = "".join(parts)
    fields = {
        name: value
        for name, pattern in _FIELDS.items()
        if (match := pattern.search(text))
        and (value := finite(match[1].replace(",", ""))) is not None
    }
    last, bpb = evaluations[-1]
    final = final_metrics({"val_bpb": bpb, **_core(text, last)})
    speed, warnings = _speed(steps, fields, source)
    if resumed:
        speed, warnings = {}, [resumed_at(source, resumed)]
    if "peak" in fields:
        speed["peak_memory_bytes"] = fields["peak"] * 2.0**20
    gpu = match[1] if (match := _GPU.search(text)) else None
    started = _CLOCK.search(text)
    return LoggedRun(
        source=source,
        family=FAMILY,
        metrics=final.metrics | speed,
        evaluations=[at for step, bpb in evaluations for at in evaluation(step, {"val_bpb": bpb})],
        steps=max(last, steps[-1][0]) if steps else last,
        evaluated_at=last,
        planned_steps=steps[-1][1] if steps else None,
        ending=_ending(last, steps, final),
        diverged=final.diverged,
        scale=_scale(fields),
        full_scale=_is_full_length(fields) and fields.get("layers", 0) >= FULL_SCALE_LAYERS,
        gpu=gpu,
        environment={"GPUs": f"{fields.get('world', 1):g}x {gpu}"} if gpu else {},
        varied="nondeterminism",
        started_at=_unix_s(started[1]) if started else None,
        warnings=warnings,
    )


def _core(text: str, last: int) -> dict[str, float]:
    scores = [(int(match[1]), number(match[2])) for match in _CORE.finditer(text)]
    return {"core": scores[-1][1]} if scores and scores[-1][0] == last else {}


def _ending(last: int, steps: list[_Step], final: FinalMetrics) -> str | None:
    if final.ending:
        return final.ending
    if not steps:
        return "it has no training step"
    reached, planned = steps[-1][:2]
    return truncation_reason(last, reached, planned)


def _speed(
    steps: list[_Step], fields: dict[str, float], source: str
) -> tuple[dict[str, float], list[str]]:
    """Returns (time and speed of the timed steps, a warning in case of a faulty clock)."""
    timed = [dt for step, _, dt, _ in steps if step > SKIPPED_STEPS]
    clock = [(step, number(total)) for step, _, _, total in steps if total]
    fault = first_backward_step([step for step, _ in clock], [total for _, total in clock], 0)
    if fault is None:
        fault = next((step for step, _, dt, _ in steps if not 0 < dt < math.inf), None)
    if fault is not None:
        return {}, [f"{source}: its clock goes backwards at step {fault}; times are left out"]
    if not timed:
        return {}, []
    seconds, stated = sum(timed) / 1000, fields.get("minutes")
    if stated is not None and abs(seconds / 60 - stated) > MINUTES_AGREE + TOTALS_AGREE * stated:
        return {}, [
            f"{source}: its steps take {seconds / 60:.2f} minutes and it states {stated:g}: lines "
            "are missing or repeated; times are left out"
        ]
    speed = {"train_time_s": seconds}
    if "batch" in fields:
        speed["tokens_per_s"] = fields["batch"] * len(timed) / seconds
    return speed, []


def _scale(fields: dict[str, float]) -> str | None:
    """The depth, and the tokens if the run is much shorter than the recipe."""
    if "layers" not in fields:
        return None
    scale = f"nanochat d{fields['layers']:g}"
    if _is_full_length(fields):
        return scale
    return f"{scale}, {count(fields['tokens'])} tokens" if "tokens" in fields else None


def _is_full_length(fields: dict[str, float]) -> bool:
    """Whether it trains for about as many tokens as the recipe."""
    return fields.get("ratio", 0.0) >= FULL_RATIO


def _unix_s(text: str) -> float | None:
    try:
        return calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S"))
    except ValueError:
        return None
