"""One run's record: what is kept of a run directory for good.

Reads what a trainer left (`result.json`, `environment.json`, `events.jsonl`, `log.txt`, and
`core.parquet` where it evaluated CORE) beside what the harness wrote before and after
(`launch.json`, `process.json`), and turns it into a `Record` of scalars and a curve table. A run
that died, hung or wrote half a line is a record too: status `failed`, with the tail of its log.
Comes after run.py in the flow and before the store. Never starts anything; never writes.
"""

import contextlib
import math
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.errors import StoreError
from harness.files import read_json
from harness.metrics import ONE_PROCESS
from harness.results import core_answers
from harness.results.core_answers import CoreSettings
from harness.results.run_files import last_step, log_tail, read_events

if TYPE_CHECKING:
    import pyarrow as pa

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FORMAT = 1
STATUSES = ("completed", "diverged", "out_of_memory", "interrupted", "failed")
FINAL_STATUSES = ("completed", "diverged", "out_of_memory")  # answers about the arm: not run again
RECORD_BYTES = 8192  # a record stays readable and diffable; longer parts stay in the run directory
SESSION_GAP_S = 600.0


class ProcessEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended. `cause`: None (by itself), time-out, stopped, pruned, harness gone."""

    returncode: int
    cause: str | None
    ended_at: float
    trainer_s: float
    limit_s: float | None = None

    @property
    def signal(self) -> int | None:
        """The signal by which somebody else than the trainer or the harness ended it."""
        from_outside = self.cause is None and -self.returncode in FROM_OUTSIDE
        return -self.returncode if from_outside else None

    def describe(self) -> str:
        """What happened, as the end of a sentence about the trainer."""
        if self.cause == "time-out":
            return f"was ended at its limit of {(self.limit_s or 0) / 60:g} minutes"
        if self.cause == "stopped":
            return "was stopped together with the harness"
        if self.cause == "pruned":
            return "was ended because its search expects nothing of it any more"
        if self.cause == "harness gone":
            return "was ended because its harness had died"
        if self.returncode < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-self.returncode).name}"
        return f"ended with exit code {self.returncode}"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What makes two runs the same but for their seed."""

    config_id: str
    code_id: str
    data_id: str | None
    protocol: int


class LaunchInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was first started for, and on how many ranks. `block` is the seed of its block."""

    study: str | None = None
    arm: str | None = None
    block: int | None = None
    # left out of the JSON where there is one: stored baselines keep their hashes
    ranks: int | msgspec.UnsetType = msgspec.UNSET


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one planned run. Moments are Unix seconds; metrics are the contract's."""

    format: int = FORMAT
    plan_id: str
    attempt: str
    trainer: str
    seed: int
    identity: Identity
    status: str
    reason: str | None = None
    hint: str | None = None
    log_tail: str | None = None
    metrics: dict[str, float | None]
    steps: int
    tokens: int
    derived: dict[str, Any]
    tricks: dict[str, bool]
    environment: dict[str, Any]
    environment_id: str
    boot_id: str
    concurrent_runs: int
    started_at: float
    ended_at: float
    wall_s: float
    trainer_s: float
    gpus: int
    launch: LaunchInfo
    signal: int | None = None  # that ended it from outside: no word about what was run
    # left out of the JSON where CORE was not evaluated: stored baselines keep their hashes
    core: CoreSettings | msgspec.UnsetType = msgspec.UNSET


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an attempt before it starts; `launch.json` of its run directory."""

    plan_id: str
    attempt: str
    trainer: str
    seed: int
    identity: Identity
    derived: dict[str, Any]
    tricks: dict[str, bool]
    launch: LaunchInfo
    started_at: float
    boot_id: str


def read_plan(run_dir: Path) -> RunPlan | None:
    """The plan of a run directory, or None where the harness died before it was written."""
    value = read_json(run_dir / "launch.json")
    try:
        return None if value is None else msgspec.convert(value, RunPlan)
    except msgspec.ValidationError:
        return None


def collect_record(
    run_dir: Path, plan: RunPlan, ended: ProcessEnd, concurrent_runs: int = 0
) -> Record:
    """The record of a finished process. `concurrent_runs`: the most other runs at the same time."""
    verdict = _Verdict.read(run_dir, ended)
    environment = read_json(run_dir / "environment.json")
    if not isinstance(environment, dict):
        environment = {}
    gpus = environment.get("gpus")
    failed = verdict.status not in FINAL_STATUSES
    core, damaged = _core_settings(run_dir / core_answers.NAME)
    record = Record(
        plan_id=plan.plan_id,
        attempt=plan.attempt,
        trainer=plan.trainer,
        seed=plan.seed,
        identity=plan.identity,
        status=verdict.status,
        reason="; ".join(part for part in (verdict.reason, damaged) if part) or None,
        hint=verdict.hint,
        log_tail=log_tail(run_dir / "log.txt") if failed else None,
        metrics=verdict.metrics,
        steps=verdict.steps,
        tokens=verdict.tokens,
        derived=plan.derived,
        tricks=plan.tricks,
        environment=environment,
        environment_id=str(environment.get("environment_id") or ""),
        boot_id=plan.boot_id,
        concurrent_runs=concurrent_runs,
        started_at=plan.started_at,
        ended_at=ended.ended_at,
        wall_s=max(0.0, ended.ended_at - plan.started_at),
        trainer_s=ended.trainer_s,
        gpus=len(gpus) if isinstance(gpus, list) else 0,
        launch=plan.launch,
        signal=ended.signal,
        core=core,
    )
    return _within_limit(record)


def _core_settings(path: Path) -> tuple[CoreSettings | msgspec.UnsetType, str | None]:
    """How CORE was evaluated, if it was; the reason where its outcomes cannot be kept."""
    if not path.is_file():
        return msgspec.UNSET, None
    try:
        return core_answers.read(path).settings, None
    except StoreError as error:
        return msgspec.UNSET, f"its {path.name} is damaged and was not kept ({error.got})"


class _Verdict(msgspec.Struct, kw_only=True):
    """The part of a record that `result.json` decides, or its absence."""

    status: str
    reason: str | None = None
    hint: str | None = None
    steps: int = 0
    tokens: int = 0
    metrics: dict[str, float | None] = {}

    @classmethod
    def read(cls, run_dir: Path, ended: ProcessEnd) -> "_Verdict":
        path = run_dir / "result.json"
        value = read_json(path)
        if value is None:
            half = path.exists()
            return cls._without_result(run_dir, ended, "half a result.json" if half else None)
        try:
            result = msgspec.convert(value, _Result)
        except msgspec.ValidationError as error:
            return cls._without_result(run_dir, ended, f"a result.json that says: {error}")
        if result.status not in STATUSES:
            fault = f"a result.json of status {result.status!r}"
            return cls._without_result(run_dir, ended, fault)
        return cls._of_result(result, ended)

    @classmethod
    def _of_result(cls, result: "_Result", ended: ProcessEnd) -> "_Verdict":
        reasons = [result.reason] if result.reason else []
        metrics: dict[str, float | None] = {}
        for name, number in result.metrics.items():
            finite = number is None or math.isfinite(number)
            metrics[name] = number if finite else None
            if not finite:
                reasons.append(f"{name} was {number}, recorded as not measured")
        if metrics.get("resumes"):
            metrics |= dict.fromkeys(metrics.keys() & set(ONE_PROCESS))
            reasons.append(
                "it went on from a checkpoint: its speed is of several processes, recorded as not "
                "measured"
            )
        status = result.status
        if ended.cause == "time-out" and status == "interrupted":
            status, reasons = "failed", [ended.describe()]
        elif ended.cause == "pruned" and status == "interrupted":
            reasons = [ended.describe()]
        elif ended.returncode != 0 and status == "completed":
            reasons.append(f"the trainer wrote its result and then {ended.describe()}")
        return cls(
            status=status,
            reason="; ".join(reasons) or None,
            hint=result.hint,
            steps=result.steps,
            tokens=result.tokens,
            metrics=metrics,
        )

    @classmethod
    def _without_result(cls, run_dir: Path, ended: ProcessEnd, found: str | None) -> "_Verdict":
        reason = f"the trainer {ended.describe()} and left {found or 'no result.json'}"
        steps, tokens = last_step(run_dir / "events.jsonl")
        hint = "Read the tail of its log below; the whole of it is log.txt in its run directory."
        if ended.returncode == -signal.SIGKILL and ended.cause is None:
            hint = (
                "Something outside killed it, often the kernel for want of memory: "
                "see dmesg, and run on a machine with more of it."
            )
        stopped = ended.cause in ("stopped", "pruned", "harness gone")
        return cls(
            status="interrupted" if stopped else "failed",
            reason=reason,
            hint=hint,
            steps=steps,
            tokens=tokens,
        )


class _Result(msgspec.Struct, kw_only=True):
    """`result.json` as the contract has it."""

    status: str
    steps: int
    tokens: int
    metrics: dict[str, float | None]
    reason: str | None = None
    hint: str | None = None


def _within_limit(record: Record) -> Record:
    """Leaves out the longest free-form parts until it is small; the run directory has them."""
    for field in ("environment", "derived", "log_tail"):
        if len(msgspec.json.encode(record)) <= RECORD_BYTES:
            return record
        value = getattr(record, field)
        if isinstance(value, str):
            record = msgspec.structs.replace(record, log_tail=value[-500:])
        elif isinstance(value, dict):
            small = {k: v for k, v in value.items() if len(msgspec.json.encode(v)) <= 512}
            left_out = sorted(set(value) - set(small))
            if left_out:
                small["left_in_run_directory"] = left_out
                record = msgspec.structs.replace(record, **{field: small})
    return record


def curve_table(run_dir: Path) -> "pa.Table | None":
    """The curve of a run: a row for each step, evaluations on the row of theirs; None if empty."""
    import pyarrow as pa

    rows: dict[int, dict[str, Any]] = {}
    for event in read_events(run_dir / "events.jsonl"):
        kind, step = event.get("event"), event.get("step")
        if kind not in ("step", "evaluation") or not isinstance(step, int):
            continue
        row = rows.setdefault(step, {"step": step})
        keep = {"tokens": "tokens", "train_time_s": "train_time_s", "loss": "train_loss"}
        if kind == "evaluation":
            keep = {**keep, "val_loss": "val_loss", "val_bpb": "val_bpb"}
        for source, target in keep.items():
            if isinstance(event.get(source), (int, float)):
                row[target] = event[source]
    if not rows:
        return None
    names = ("step", "tokens", "train_time_s", "train_loss", "val_loss", "val_bpb")
    ordered = [rows[step] for step in sorted(rows)]
    types = [pa.int64(), pa.int64(), *[pa.float64()] * 4]
    columns = [
        pa.array([row.get(name) for row in ordered], type=kind)
        for name, kind in zip(names, types, strict=True)
    ]
    return pa.table(columns, names=list(names))


def sessions(records: Iterable[Record], gap_s: float = SESSION_GAP_S) -> list[list[Record]]:
    """Records grouped by session: one holding of one machine, however many commands.

    Same environment and boot, and no gap of more than `gap_s` between the end of what ran before
    and the start of the next run. Oldest session first; records inside by their start. A run that
    died before it said where it ran belongs to the session that is open on its boot.
    """
    found: list[list[Record]] = []
    open_sessions: dict[tuple[str, str], tuple[list[Record], float]] = {}
    for record in sorted(records, key=lambda r: (r.started_at, r.plan_id, r.attempt)):
        machine = (record.environment_id, record.boot_id)
        if not record.environment_id:
            known = [key for key in open_sessions if key[1] == record.boot_id]
            machine = max(known, key=lambda key: open_sessions[key][1], default=machine)
        current = open_sessions.get(machine)
        if current is None or record.started_at - current[1] > gap_s:
            found.append([])
            current = (found[-1], record.ended_at)
        current[0].append(record)
        open_sessions[machine] = (current[0], max(current[1], record.ended_at))
    return found


def attempt_name(record: Record) -> str:
    """`plan_id/attempt`: one attempt among all."""
    return f"{record.plan_id}/{record.attempt}"
