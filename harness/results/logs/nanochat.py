"""Text logs of nanochat's base training: `Step 00240 | Validation bpb: 1.322556`.

    val_bpb           bits per byte, at the last evaluation
    core              the CORE metric at the last step, where it was measured
    train_time_s      sum of the printed step times after step 10, as nanochat's own clock counts
    tokens_per_s      tokens over time in the same steps
    peak_memory_bytes

nanochat fixes its seed and the order of its data, so replicates differ only by the numerics of the
GPU, and a comparison is about that one seed. The log names the GPU but neither the driver nor
torch, so its environment counts as unknown.
"""

import calendar
import re
import time

from harness.results.logs.run_log import (
    NOT_A_NUMBER,
    Evaluation,
    LoggedRun,
    first_backward_step,
    split_finite,
    truncation_reason,
)
from harness.results.recipe import FULL_SCALE_LAYERS, count

FAMILY = "nanochat"
SKIPPED_STEPS = 10
FULL_RATIO = 5.0  # tokens per scaling parameter; its leaderboard runs have 7 to 12

_EVALUATION = re.compile(r"^Step (\d+) \| Validation bpb: (\S+)", re.MULTILINE)
_CORE = re.compile(r"^Step (\d+) \| CORE metric: (\S+)", re.MULTILINE)
_STEP = re.compile(
    r"^step (\d+)/(\d+) .*?\| dt: ([-\d.]+)ms(?:.*?\| total time: ([-\d.]+)m)?", re.MULTILINE
)
_FIELDS = {
    "batch": re.compile(r"^Total batch size ([\d,]+)", re.MULTILINE),
    "layers": re.compile(r'"n_layer": (\d+)'),
    "tokens": re.compile(r"^Total number of training tokens: ([\d,]+)", re.MULTILINE),
    "ratio": re.compile(r"^Tokens : \S+ params ratio: ([\d.]+)", re.MULTILINE),
    "peak": re.compile(r"^Peak memory usage: ([\d.]+)MiB", re.MULTILINE),
    "world": re.compile(r"Distributed world size: (\d+)"),
}
_GPU = re.compile(r"^GPU: (.+?) \|", re.MULTILINE)
_CLOCK = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ - nanochat", re.MULTILINE)


def recognises(text: str) -> bool:
    """Whether a text is a log of nanochat."""
    return bool(_EVALUATION.search(text) or _STEP.search(text))


def read(text: str, source: str) -> list[LoggedRun]:
    """The run of a file; an empty list if it was never evaluated."""
    text = text[: text.rfind("\n") + 1]  # an incomplete last line may end within a number
    evaluations = [(int(match[1]), _number(match[2])) for match in _EVALUATION.finditer(text)]
    if not evaluations:
        return []
    fields = {
        name: float(match[1].replace(",", ""))
        for name, pattern in _FIELDS.items()
        if (match := pattern.search(text))
    }
    steps = [(int(m[1]), int(m[2]), float(m[3]), m[4]) for m in _STEP.finditer(text)]
    planned = steps[-1][1] if steps else None
    last, bpb = evaluations[-1]
    metrics, bad = split_finite({"val_bpb": bpb, **_core(text, last)})
    speed, warnings = _speed(steps, fields.get("batch"), source)
    if "peak" in fields:
        speed["peak_memory_bytes"] = fields["peak"] * 2.0**20
    gpu = match[1] if (match := _GPU.search(text)) else None
    started = _CLOCK.search(text)
    run = LoggedRun(
        source=source,
        family=FAMILY,
        metrics=metrics | speed,
        evaluations=[Evaluation(step, {"val_bpb": bpb}) for step, bpb in evaluations],
        steps=max(last, steps[-1][0]) if steps else last,
        evaluated_at=last,
        planned_steps=planned,
        ending=_ending(last, steps, bad),
        diverged=bool(bad),
        scale=_scale(fields),
        full_scale=_is_full_length(fields) and fields.get("layers", 0) >= FULL_SCALE_LAYERS,
        gpu=gpu,
        environment={"GPUs": f"{fields.get('world', 1):g}x {gpu}"} if gpu else {},
        varied="nondeterminism",
        started_at=_unix_s(started[1]) if started else None,
        warnings=warnings,
    )
    return [run]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _core(text: str, last: int) -> dict[str, float]:
    scores = [(int(match[1]), _number(match[2])) for match in _CORE.finditer(text)]
    return {"core": scores[-1][1]} if scores and scores[-1][0] == last else {}


def _ending(last: int, steps: list[tuple[int, int, float, str]], bad: list[str]) -> str | None:
    if bad:
        return NOT_A_NUMBER.format(bad[0])
    if not steps:
        return "it has no training step"
    reached, planned = steps[-1][:2]
    return truncation_reason(last, reached, planned)


def _speed(
    steps: list[tuple[int, int, float, str]], batch: float | None, source: str
) -> tuple[dict[str, float], list[str]]:
    """Returns (time and speed of the timed steps, a warning in case of a faulty clock)."""
    timed = [dt for step, _, dt, _ in steps if step > SKIPPED_STEPS]
    clock = [(step, float(total)) for step, _, _, total in steps if total]
    fault = first_backward_step([step for step, _ in clock], [total for _, total in clock], 0)
    if fault is None:
        fault = next((step for step, _, dt, _ in steps if dt <= 0), None)
    if fault is not None:
        return {}, [f"{source}: its clock goes backwards at step {fault}; times are left out"]
    if not timed:
        return {}, []
    seconds = sum(timed) / 1000
    speed = {"train_time_s": seconds}
    if batch:
        speed["tokens_per_s"] = batch * len(timed) / seconds
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


def _unix_s(text: str) -> float:
    return calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S"))
