"""A plan on the terminal: arms, runs, time, cost, and what the study will be able to see.

Prints a `Budget` and nothing else; every unknown is called unknown.
"""

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from harness.results.study_plan import Arm, ResolvedStudy
from harness.study.budget import Budget, Sensitivity

if TYPE_CHECKING:
    from rich.console import Console


def print_plan(console: "Console", study: ResolvedStudy, budget: Budget) -> None:
    """The arms as a table, then runs, time, cost and smallest detectable effects."""
    from rich.table import Table
    from rich.text import Text

    if study.pin == "own":
        console.print("pin: own. Arms differ from the base in what follows from their trick, too.")
    runs = Counter(planned.arm for planned in study.runs)
    console.print(f"{study.study}: {study.question}", markup=False, highlight=False)
    table = Table()
    table.add_column("arm", overflow="fold")
    table.add_column("role", no_wrap=True)
    for name in ("parameters", "FLOPs/token", "steps", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in study.arms:
        table.add_row(
            Text(arm.name),
            arm.role.replace("_", " "),
            _count(arm.derived.get("parameters_total")),
            _count(arm.derived.get("flops_per_token")),
            _count(arm.derived.get("steps")),
            str(runs[arm.name]),
        )
    console.print(table)
    for line in [*_overrides(study), *_lines(study, budget)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _overrides(study: ResolvedStudy) -> list[str]:
    """What each arm sets beyond the base, and what it was handed."""
    base, found = study.arm("base"), []
    for arm in study.arms:
        own = {
            path: value
            for path, value in arm.set.items()
            if path not in base.set or base.set[path] != value
        }
        parts = [_code(arm) + _settings(own), _given(arm)]
        if arm.role in ("leave_one_out", "add_one_in", "explicit"):
            found.append(f"  {arm.name}: " + "; ".join(part for part in parts if part))
    return ["beyond the base:", *found]


def _lines(study: ResolvedStudy, budget: Budget) -> list[str]:
    done = budget.runs - budget.remaining
    lines = [f"runs: {budget.runs}, of which {done} are recorded, {budget.remaining} remain"]
    if budget.wall_s is None:
        lines.append("time: unknown (no records, and no step of the base was measured)")
    else:
        lines.append(f"time: about {_time(budget.wall_s)}, from {budget.time_from}")
    lines.append("cost: " + _cost(budget))
    lines += _memory(study)
    metrics = [_sensitivity(one) for one in budget.sensitivities]
    rule = study.decide
    terms = f"alpha {rule.alpha:g}, power 0.9, {rule.correction}, n = {len(study.seeds)}"
    lines.append(f"smallest detectable effect of an arm ({terms}):")
    lines += [f"  {text}" for text in metrics]
    return lines


def _memory(study: ResolvedStudy) -> list[str]:
    """The trainer's estimate for the arm that needs most; none where it makes none."""
    needs = {arm.name: arm.derived.get("memory_bytes") for arm in study.arms}
    known = {arm: need for arm, need in needs.items() if isinstance(need, (int, float))}
    if not known:
        return []
    most = max(known, key=lambda arm: known[arm])
    line = f"memory: up to about {known[most] / 2**30:.2f} GiB a run ({most}), by estimate"
    derived = next(arm.derived for arm in study.arms if arm.name == most)
    fused = derived.get("memory_fused_bytes")
    if isinstance(fused, (int, float)) and fused < known[most]:
        line += f"; {fused / 2**30:.2f} GiB where its fused kernels run"
    return [line]


def _cost(budget: Budget) -> str:
    if budget.gpus_per_run == 0:
        return "no GPU is used"
    if budget.gpu_s is None:
        return "unknown, as the time or the number of GPUs is"
    text = f"{budget.gpu_s:,.0f} GPU-seconds"
    if budget.usd is None:
        return text + " (--price or limits.price turns them into USD)"
    return f"{text} = {budget.usd:,.2f} USD"


def _sensitivity(one: Sensitivity) -> str:
    if math.isinf(one.mde):
        return f"{one.metric}: none can be detected with one seed"
    if one.sd is None:
        return f"{one.metric}: {one.mde:.2f} SD; the SD is unknown (needs two runs of the base)"
    if one.unit == "relative":
        return f"{one.metric}: {100 * one.mde:.2f} %, from an SD of {100 * one.sd:.3f} %" + _of(one)
    return f"{one.metric}: {one.mde:.5f} {one.unit}, from an SD of {one.sd:.5f}" + _of(one)


def _of(one: Sensitivity) -> str:
    return f" over {one.replicates} recorded runs of the base"


def _code(arm: Arm) -> str:
    if arm.ref is not None:
        return f"code of {arm.ref} "
    return f"patch {arm.patch} " if arm.patch is not None else ""


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{path}={_short(value)}" for path, value in values.items())


def _short(value: Any) -> str:
    return "null" if value is None else str(value)


def _given(arm: Arm) -> str:
    parts = [
        f"{path}={_short(pin.base)} (own: {_short(pin.own)})" for path, pin in arm.pinned.items()
    ]
    parts += [
        f"tuned {path}={_short(one.value)}{' (AT THE EDGE of its sweep)' if one.at_edge else ''}"
        for path, one in arm.retuned.items()
    ]
    if arm.untuned:
        parts.append("untuned: " + ", ".join(arm.untuned))
    return "; ".join(parts)


def _count(value: Any) -> str:
    """A count to four digits, such as 31.6 M."""
    if not isinstance(value, (int, float)):
        return "unknown"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.4g} {letter}"
    return f"{value:,.0f}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
