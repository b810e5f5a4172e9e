"""The leaderboard entry of a full run: time to GPT-2, as nanochat's leaderboard counts it.

    | # | time | val_bpb | CORE | Description | Date | Commit | Contributors |

The rules of karpathy/nanochat (README.md and dev/LEADERBOARD.md): the time is that of training
steps, in hours, without steps 0 to 10 and without evaluations; CORE of the whole bundle must exceed
that of GPT-2 with 1.6B parameters, 0.256525; val_bpb is given because CORE is noisy; the commit is
short, and contributors are handles.

Below the entry stands what the leaderboard has no column for: the probability that the recipe
exceeds the target (CORE of one run has an SD of about 0.005, so half the runs of a recipe exactly
at the target pass), cost, hardware, and the comparison with a stored baseline. Every number comes
from records and events. Pure functions.
"""

import datetime
from collections.abc import Sequence
from typing import Any

import msgspec

from harness.comparison.compare import compare
from harness.comparison.noise_model import NoiseModel
from harness.comparison.options import CompareOptions
from harness.comparison.result import Comparison
from harness.errors import HarnessError
from harness.escape import escape
from harness.format import hours, markdown_row
from harness.full.cost import FIRST_COUNTED_STEP
from harness.full.forecast import ForecastNoise, replicate_noise
from harness.gate import baseline
from harness.gate.baseline import Baseline
from harness.metrics import QUALITY
from harness.results.logs.from_store import logged_runs
from harness.results.recipe import device_name, recipe_scale
from harness.results.record import Record

COLUMNS = ("#", "time", "val_bpb", "CORE", "Description", "Date", "Commit", "Contributors")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ENVIRONMENT = ("driver", "cuda", "torch", "triton", "precision", "attention_backend", "python")


class LeaderboardError(HarnessError):
    """These runs cannot make a leaderboard entry."""


class CompletedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A completed record with the events of its run directory.

    `earlier_wall_s`: wall time of the attempts that it resumed, which are part of the cost.
    """

    record: Record
    events: list[dict[str, Any]]
    earlier_wall_s: float = 0.0


class LeaderboardEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the leaderboard and its details.

    `reached`: CORE is above the target, the leaderboard's rule. `p_above`: probability that the
    recipe's mean CORE is above it.
    """

    reached: bool
    target: float
    train_s: float  # without steps 0 to 10
    val_bpb: float
    core: float | None
    core_se: float | None
    core_se_source: str
    p_above: float | None
    core_soft: float | None
    description: str
    date: str  # end of the last run, UTC
    commit: str | None
    contributors: list[str] = []  # their handles, which no record has
    runs: int = 1
    seeds: list[int]
    ranks: int
    nodes: int
    gpu: str
    steps: int
    tokens: int
    parameters: int | None
    wall_s: float
    usd: float | None
    tricks: list[str]
    environment: dict[str, str]
    identity: dict[str, str]
    plans: list[str]
    decision: str | None  # against the baseline
    notes: list[str]


# --- an entry from a run --------------------------------------------------------------------------


def make_entry(
    run: CompletedRun,
    *,
    target: float,
    description: str,
    commit: str | None,
    noise_model: NoiseModel,
    price_usd_per_gpu_hour: float | None = None,
    decision: str | None = None,
    nodes: int = 1,
) -> LeaderboardEntry:
    """The entry of a run. Raises LeaderboardError."""
    record, ranks = run.record, ranks_of(run.record)
    device, core = device_name(record.environment), record.metrics.get("core")
    if (val_bpb := record.metrics.get("val_bpb")) is None:
        got = "a run that did not measure it"
        raise LeaderboardError(record.plan_id, "val_bpb", got, "Let the trainer report it.")
    noise = None
    if core is not None:
        noise = replicate_noise(noise_model, recipe_scale(record), device).get("core")
    wall_s, rate = record.wall_s + run.earlier_wall_s, price_usd_per_gpu_hour
    return LeaderboardEntry(
        reached=core is not None and core > target,
        target=target,
        train_s=leaderboard_time_s(run),
        val_bpb=val_bpb,
        core=core,
        core_se=noise.sd if noise else None,
        core_se_source=noise.source if noise else "no replicates",
        p_above=_p_above(core, target, noise) if core is not None else None,
        core_soft=record.metrics.get("core_soft"),
        description=description,
        date=_date(record.ended_at),
        commit=commit,
        seeds=[record.seed],
        ranks=ranks,
        nodes=nodes,
        gpu=device or "unknown",
        steps=record.steps,
        tokens=record.tokens,
        parameters=record.derived.get("parameters_total"),
        wall_s=wall_s,
        usd=None if rate is None else wall_s / 3600 * ranks * rate,
        tricks=sorted(name for name, on in record.tricks.items() if on),
        environment={
            k: str(v) for k in _ENVIRONMENT if (v := record.environment.get(k)) is not None
        },
        identity={k: str(v) for k, v in msgspec.structs.asdict(record.identity).items()},
        plans=[record.plan_id],
        decision=decision,
        notes=_notes(record, core, target),
    )


def leaderboard_time_s(run: CompletedRun) -> float:
    """Training time without steps 0 to 10, as nanochat counts it. Raises LeaderboardError.

    From the running sum that every step logs, so that a resumed run counts as one. nanochat's clock
    includes compilation within a counted step and the sum does not, so it is added.
    """
    times = {
        int(event["step"]): float(event["train_time_s"])
        for event in run.events
        if event.get("event") == "step" and "train_time_s" in event
    }
    last = run.record.steps
    if FIRST_COUNTED_STEP not in times or last not in times or last <= FIRST_COUNTED_STEP:
        raise LeaderboardError(
            f"{run.record.plan_id}/{run.record.attempt}: events.jsonl",
            f"train_time_s of steps {FIRST_COUNTED_STEP} and {last}",
            f"train_time_s of {len(times)} steps, of {last}",
            f"Steps 0 to {FIRST_COUNTED_STEP - 1} do not count: an entry needs a longer run with "
            "its events.",
        )
    compiled_s = sum(
        float(event.get("seconds") or 0.0)
        for event in run.events
        if event.get("event") == "recompilation" and int(event["step"]) > FIRST_COUNTED_STEP
    )
    return times[last] - times[FIRST_COUNTED_STEP] + compiled_s


def ranks_of(record: Record) -> int:
    """Number of ranks of a run."""
    ranks = record.launch.ranks
    return 1 if isinstance(ranks, msgspec.UnsetType) else ranks


def _p_above(core: float, target: float, noise: ForecastNoise | None) -> float | None:
    from scipy import special

    if noise is None or not noise.sd > 0:
        return None
    return float(special.stdtr(noise.df, (core - target) / noise.sd))


def _date(moment: float) -> str:
    day = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return f"{_MONTHS[day.month - 1]} {day.day} {day.year}"


def _notes(record: Record, core: float | None, target: float) -> list[str]:
    notes = []
    if core is None:
        notes.append("CORE was not evaluated: the leaderboard does not accept this entry")
    elif core <= target:
        notes.append(f"the target was not reached: CORE {core:.4f}, target {target:g}")
    if resumes := record.metrics.get("resumes"):
        often = "once" if resumes == 1 else f"{resumes:.0f} times"
        notes.append(f"{record.plan_id} was resumed {often} from a checkpoint")
    settings = record.core
    if not isinstance(settings, msgspec.UnsetType) and settings.max_per_task is not None:
        notes.append(
            f"CORE of at most {settings.max_per_task} examples per task; the leaderboard uses all"
        )
    return notes


# --- against a baseline ---------------------------------------------------------------------------


def against_baseline(
    stored: Baseline, records: Sequence[Record], noise_model: NoiseModel
) -> Comparison:
    """Compares the quality of a job's runs with a stored baseline.

    Speed is not compared: that needs both sides in one session. Raises BaselineError if they are
    not comparable, LogError without a common metric.
    """
    baseline.check_comparable(stored, records[0].identity, own_settings=False)
    baseline.check_same_hardware(stored, records[0])
    a, b = logged_runs(stored.now.records, stored.name), logged_runs(records, "this job")
    both = [n for n in QUALITY if all(any(n in run.metrics for run in side) for side in (a, b))]
    return compare(a, b, CompareOptions(metrics=both), noise_model)


def decision_text(result: Comparison, stored: Baseline) -> str:
    """The comparison with a baseline as one sentence."""
    return f"{result.outcome} against {stored.place}: {result.reason}"


# --- as text --------------------------------------------------------------------------------------


def as_markdown(entry: LeaderboardEntry) -> str:
    """The entry as a row of the leaderboard's table, with its details below."""
    rule = markdown_row(["---"] * len(COLUMNS))
    *row, people = cells(entry)  # people are mentioned on purpose
    row = [*map(_text, row), people.replace("|", "\\|")]
    lines = [markdown_row(COLUMNS), rule, markdown_row(row), ""]
    return "\n".join([*lines, *(f"- {_text(line)}" for line in details(entry))]) + "\n"


def _text(text: str) -> str:
    return escape(text, "markdown")


def cells(entry: LeaderboardEntry) -> list[str]:
    """One cell for each of COLUMNS; the leaderboard's maintainers assign the number."""
    time = hours(entry.train_s)
    return [
        "–",
        time if entry.reached else f"not reached ({time})",
        f"{entry.val_bpb:.5f}",
        f"{entry.core:.4f}" if entry.core is not None else "–",
        entry.description,
        entry.date,
        entry.commit[:7] if entry.commit else "uncommitted",
        " ".join(entry.contributors) or "–",
    ]


def details(entry: LeaderboardEntry) -> list[str]:
    """What the leaderboard has no column for, one line each."""
    where = f"{entry.ranks} × {entry.gpu}" + (f" on {entry.nodes} nodes" if entry.nodes > 1 else "")
    size = f", {entry.parameters:,} parameters" if entry.parameters else ""
    lines = [
        f"1 run (seed {entry.seeds[0]}) on {where}",
        f"{entry.steps:,} steps, {entry.tokens:,} tokens{size}",
        f"{entry.train_s:,.1f} s of training time without steps 0 to {FIRST_COUNTED_STEP - 1}; "
        f"{entry.wall_s:,.0f} s from start to end"
        + (f", USD {entry.usd:,.2f}" if entry.usd is not None else ""),
    ]
    if entry.core is not None and entry.core_se is not None:
        sure = (
            f"; P(above {entry.target:g}) {entry.p_above:.2f}" if entry.p_above is not None else ""
        )
        lines.append(
            f"CORE {entry.core:.5f} ± {entry.core_se:.5f} (SE, from {entry.core_se_source}){sure}"
        )
    if entry.core_soft is not None:
        lines.append(f"core_soft {entry.core_soft:.5f}")
    lines += [f"baseline: {entry.decision}"] if entry.decision else []
    lines.append("; ".join(f"{name} {value}" for name, value in entry.environment.items()))
    lines.append("; ".join(f"{name} {value[:12]}" for name, value in entry.identity.items()))
    lines.append(f"tricks: {', '.join(entry.tricks) or 'none'}")
    return [line for line in [*lines, *entry.notes] if line]
