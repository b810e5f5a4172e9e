"""The row of a full run: time to GPT-2 as nanochat's leaderboard counts and writes it.

    | # | time | val_bpb | CORE | Description | Date | Commit | Contributors |

Its rules, from karpathy/nanochat (README.md and dev/LEADERBOARD.md): the time is that of the
training steps alone, without steps 0 to 10 and without evaluations, in hours; CORE of the whole
bundle has to be above that of GPT-2 with 1.6B parameters, 0.256525; val_bpb stands beside it, as
CORE is noisy; the commit is short, and contributors are handles. Several runs of one configuration
make one row of their means.

What the leaderboard has no column for stands below the row: how sure it is that this recipe is
above the target (one run's CORE has an SD of some 0.005, so that of all recipes exactly at the
target half pass), what it cost, where it ran, and the verdict against a stored baseline. Every
number comes from records and events. After `baseline` and `judgement`, before `evidence`; pure.
"""

import datetime
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import msgspec

from harness.compare.compare import CompareOptions, compare
from harness.compare.noise_model import MEASURED_DF, NoiseModel
from harness.compare.result import Comparison
from harness.errors import HarnessError
from harness.format import markdown_row
from harness.full.cost import FIELD_FROM_STEP
from harness.full.forecast import ForecastNoise, replicate_noise
from harness.gate import baseline
from harness.gate.baseline import Baseline
from harness.metrics import QUALITY
from harness.results.logs.from_store import logged_runs
from harness.results.recipe import device_name, recipe_scale
from harness.results.record import Record
from harness.stats.inference import pool

COLUMNS = ("#", "time", "val_bpb", "CORE", "Description", "Date", "Commit", "Contributors")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ENVIRONMENT = ("driver", "cuda", "torch", "triton", "precision", "attention_backend", "python")


class LeaderboardError(HarnessError):
    """A row that cannot be made from these runs."""


class CompletedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A completed record with the events of its run directory.

    `earlier_wall_s`: of attempts that it went on from, which were paid for too.
    """

    record: Record
    events: list[dict[str, Any]]
    earlier_wall_s: float = 0.0


class LeaderboardEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the leaderboard and what stands behind it; means over the runs.

    `reached` is the field's rule: CORE above the target. `p_above` is the probability that the CORE
    of this recipe, over all runs that might be made of it, is above.
    """

    reached: bool
    target: float
    train_s: float  # without steps 0 to 10
    val_bpb: float
    core: float | None
    core_se: float | None
    core_se_from: str
    p_above: float | None
    core_soft: float | None
    description: str
    date: str  # on which the last of them ended, UTC
    commit: str | None
    contributors: list[str]
    runs: int
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
    verdict: str | None
    notes: list[str]


# --- a row from runs ------------------------------------------------------------------------------


def row(
    runs: Sequence[CompletedRun],
    *,
    target: float,
    description: str,
    commit: str | None,
    noise_model: NoiseModel,
    contributors: Sequence[str] = (),
    price_usd_per_gpu_hour: float | None = None,
    verdict: str | None = None,
    nodes: int = 1,
) -> LeaderboardEntry:
    """The row of one run, or of several of one configuration. Raises RowError."""
    records = [run.record for run in runs]
    _refuse_unlike(records)
    first, ranks = records[0], ranks_of(records[0])
    cores = _values(records, "core")
    core = fmean(cores) if cores else None
    noise = _core_noise(records, noise_model) if cores else None
    se = noise.sd / math.sqrt(len(cores)) if noise else None
    wall_s = fmean(run.record.wall_s + run.earlier_wall_s for run in runs)
    rate = price_usd_per_gpu_hour
    soft = _values(records, "core_soft")
    return LeaderboardEntry(
        reached=core is not None and core > target,
        target=target,
        train_s=fmean(field_time_s(run) for run in runs),
        val_bpb=fmean(_values(records, "val_bpb")),
        core=core,
        core_se=se,
        core_se_from=noise.source if noise else "no replicates anywhere",
        p_above=_p_above(core, target, se, noise) if core is not None else None,
        core_soft=fmean(soft) if soft else None,
        description=description,
        date=_date(max(record.ended_at for record in records)),
        commit=commit,
        contributors=list(contributors),
        runs=len(runs),
        seeds=sorted(record.seed for record in records),
        ranks=ranks,
        nodes=nodes,
        gpu=device_name(first.environment) or "unknown",
        steps=first.steps,
        tokens=first.tokens,
        parameters=first.derived.get("parameters_total"),
        wall_s=wall_s,
        usd=None if rate is None else wall_s / 3600 * ranks * rate,
        tricks=sorted(name for name, on in first.tricks.items() if on),
        environment={
            k: str(v) for k in _ENVIRONMENT if (v := first.environment.get(k)) is not None
        },
        identity={k: str(v) for k, v in msgspec.structs.asdict(first.identity).items()},
        plans=[record.plan_id for record in records],
        verdict=verdict,
        notes=_notes(runs, core, target),
    )


def field_time_s(run: CompletedRun) -> float:
    """Training time without steps 0 to 10, as nanochat counts it. Raises RowError.

    From the running sum that every step tells, so that a resumed run is counted as one. Compilation
    within a counted step is in the field's clock and not in the sum: it is added.
    """
    times = {
        int(event["step"]): float(event["train_time_s"])
        for event in run.events
        if event.get("event") == "step" and "train_time_s" in event
    }
    last = run.record.steps
    if FIELD_FROM_STEP not in times or last not in times or last <= FIELD_FROM_STEP:
        raise LeaderboardError(
            f"{run.record.plan_id}/{run.record.attempt}: events.jsonl",
            f"the running training time behind steps {FIELD_FROM_STEP} and {last}",
            f"{len(times)} steps that tell it, of {last}",
            f"Steps 0 to {FIELD_FROM_STEP - 1} do not count: a row needs a longer run, and "
            "the events of its run directory.",
        )
    compiled_s = sum(
        float(event.get("seconds") or 0.0)
        for event in run.events
        if event.get("event") == "recompilation" and int(event["step"]) > FIELD_FROM_STEP
    )
    return times[last] - times[FIELD_FROM_STEP] + compiled_s


def ranks_of(record: Record) -> int:
    """On how many ranks a run was made."""
    told = record.launch.ranks
    return 1 if isinstance(told, msgspec.UnsetType) else told


def _refuse_unlike(records: Sequence[Record]) -> None:
    """Raises RowError unless these are completed runs of one thing."""
    bad = [record for record in records if record.status != "completed"]
    if bad or not records:
        raise LeaderboardError(
            "runs",
            "completed runs",
            ", ".join(f"{record.plan_id} {record.status}" for record in bad) or "none",
            "The same command goes on with a run that was interrupted.",
        )
    for field in ("identity", "gpus", "steps", "core"):
        values = {str(getattr(record, field)) for record in records}
        if len(values) > 1:
            raise LeaderboardError(
                field,
                "runs of one configuration, on as many GPUs, for one row",
                " and ".join(sorted(values)),
                "Make a row of each.",
            )


def _values(records: Sequence[Record], metric: str) -> list[float]:
    found = [record.metrics.get(metric) for record in records]
    return [value for value in found if value is not None]


def _core_noise(records: Sequence[Record], noise_model: NoiseModel) -> ForecastNoise | None:
    """SD of one run's CORE: own runs where there are enough, else what the noise model knows."""
    own = pool([_values(records, "core")])
    if own.df >= MEASURED_DF:
        return ForecastNoise(sd=own.sd, df=own.df, source=f"{len(records)} own runs")
    first = records[0]
    known = replicate_noise(noise_model, recipe_scale(first), device_name(first.environment))
    return known.get("core")


def _p_above(
    core: float, target: float, se: float | None, noise: ForecastNoise | None
) -> float | None:
    from scipy import special

    if se is None or noise is None or not se > 0:
        return None
    return float(special.stdtr(noise.df, (core - target) / se))


def _date(moment: float) -> str:
    day = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return f"{_MONTHS[day.month - 1]} {day.day} {day.year}"


def _notes(runs: Sequence[CompletedRun], core: float | None, target: float) -> list[str]:
    notes = []
    if core is None:
        notes.append("CORE was not evaluated: this is no row of the leaderboard")
    elif core <= target:
        notes.append(f"the target was not reached: CORE {core:.4f}, {target:g} asked")
    for run in runs:
        if resumes := run.record.metrics.get("resumes"):
            often = "once" if resumes == 1 else f"{resumes:.0f} times"
            notes.append(f"{run.record.plan_id} went on {often} from a checkpoint")
        settings = run.record.core
        if not isinstance(settings, msgspec.UnsetType) and settings.max_per_task is not None:
            notes.append(
                f"CORE of at most {settings.max_per_task} examples a task, the leaderboard's is of "
                "all"
            )
    return list(dict.fromkeys(notes))


# --- against a baseline ---------------------------------------------------------------------------


def against(stored: Baseline, records: Sequence[Record], noise_model: NoiseModel) -> Comparison:
    """The verdict on a job's runs against a stored baseline, in quality.

    Speed needs both sides in one session; a stored one only screens, and the row has its own time.
    Raises BaselineError where they may not be compared, LogError where nothing can be.
    """
    baseline.check_comparable(stored, records[0].identity, own_settings=False)
    baseline.check_same_hardware(stored, records[0])
    a, b = logged_runs(stored.now.records, stored.name), logged_runs(records, "this job")
    both = [n for n in QUALITY if all(any(n in run.metrics for run in side) for side in (a, b))]
    return compare(a, b, CompareOptions(metrics=both), noise_model)


def verdict_words(found: Comparison, stored: Baseline) -> str:
    """A verdict as a row has it."""
    return f"{found.outcome} against {stored.place}: {found.reason}"


# --- as people and programs read it ---------------------------------------------------------------


def as_json(row: LeaderboardEntry) -> str:
    """All of it."""
    return msgspec.json.format(msgspec.json.encode(row), indent=1).decode() + "\n"


def as_markdown(row: LeaderboardEntry) -> str:
    """The row under the leaderboard's head, and below it what stands behind it."""
    rule = markdown_row(["---"] * len(COLUMNS))
    lines = [markdown_row(COLUMNS), rule, markdown_row(cells(row)), ""]
    return "\n".join([*lines, *(f"- {line}" for line in behind(row))]) + "\n"


def cells(row: LeaderboardEntry) -> list[str]:
    """One for each of COLUMNS; the number is for those who keep the leaderboard."""
    hours = row.train_s / 3600
    time = f"{hours:.2f}" if hours >= 1 else f"{hours:.3g}"
    return [
        "–",
        time if row.reached else f"not reached ({time})",
        f"{row.val_bpb:.5f}",
        f"{row.core:.4f}" if row.core is not None else "–",
        row.description,
        row.date,
        row.commit[:7] if row.commit else "uncommitted",
        " ".join(row.contributors) or "–",
    ]


def behind(row: LeaderboardEntry) -> list[str]:
    """What the leaderboard has no column for, a line each."""
    where = f"{row.ranks} × {row.gpu}" + (f" on {row.nodes} nodes" if row.nodes > 1 else "")
    size = f", {row.parameters:,} parameters" if row.parameters else ""
    several, seeds = "s" * (row.runs > 1), ", ".join(map(str, row.seeds))
    lines = [
        f"{row.runs} run{several} (seed{several} {seeds}) on {where}",
        f"{row.steps:,} steps, {row.tokens:,} tokens{size}",
        f"{row.train_s:,.1f} s of training without steps 0 to {FIELD_FROM_STEP - 1}; "
        f"{row.wall_s:,.0f} s from start to end"
        + (f", USD {row.usd:,.2f}" if row.usd is not None else ""),
    ]
    if row.core is not None and row.core_se is not None:
        sure = f"; P(above {row.target:g}) {row.p_above:.2f}" if row.p_above is not None else ""
        lines.append(f"CORE {row.core:.5f} ± {row.core_se:.5f} (SE, from {row.core_se_from}){sure}")
    if row.core_soft is not None:
        lines.append(f"core_soft {row.core_soft:.5f}")
    lines += [f"verdict: {row.verdict}"] if row.verdict else []
    lines.append("; ".join(f"{name} {value}" for name, value in row.environment.items()))
    lines.append("; ".join(f"{name} {value[:12]}" for name, value in row.identity.items()))
    lines.append(f"tricks: {', '.join(row.tricks) or 'none'}")
    return [line for line in [*lines, *row.notes] if line]
