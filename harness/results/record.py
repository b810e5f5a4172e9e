"""The record of a run: what is kept of a run directory permanently.

Reads the files of the trainer (`result.json`, `environment.json`, `events.jsonl`, `log.txt`, and
`core.parquet` if it evaluated CORE) and of the harness (`launch.json`), and turns them into a
`Record` of scalars and a table of curves. A run that crashed, hung or left incomplete files gets a
record, too: with status `failed` and the tail of its log.
"""

import contextlib
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from harness.config.field_types import Count, Moment, Name, NotNegative, Seed
from harness.errors import StoreError
from harness.files import read_json
from harness.metrics import ONE_PROCESS, is_measured
from harness.results import core_answers
from harness.results.core_answers import CoreSettings
from harness.results.run_files import EventLog, log_tail, read_event_log, read_events

if TYPE_CHECKING:
    import pyarrow as pa

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FORMAT = 1
Status = Literal["completed", "diverged", "out_of_memory", "interrupted", "failed"]
FINAL_STATUSES = ("completed", "diverged", "out_of_memory")  # results: not run again
RECORD_BYTES = 8192  # so that records stay diffable; the run directory has what is left out
SESSION_GAP_S = 600.0
MOST_METRICS = 100
LONGEST_NAME = 100  # of a metric or an id
MOST_HELPERS = 3  # named in a reason
LONGEST_TEXT = 1000  # of a reason or a hint
HINT = "Read the end of its log below; the complete log is log.txt in the run directory."
CONTRACT = "Repair the trainer: what it writes to its run directory breaks the contract."


class ProcessEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended. Helpers that outlive it would slow down the next run.

    `cause`: why the harness ended it (time-out, stopped, pruned, harness gone); None if it did not.
    """

    returncode: int
    cause: str | None
    ended_at: float
    trainer_s: float
    limit_s: float | None = None
    outlived_by: list[str] = []  # helper processes that were ended after it, as 'pid command'

    @property
    def signal(self) -> int | None:
        """The signal that ended it, if neither the trainer nor the harness sent it."""
        from_outside = self.cause is None and -self.returncode in FROM_OUTSIDE
        return -self.returncode if from_outside else None

    def describe(self) -> str:
        """What happened, as the predicate of a sentence about the trainer."""
        if self.cause == "time-out":
            return f"was ended at its limit of {(self.limit_s or 0) / 60:g} minutes"
        if self.cause == "stopped":
            return "was stopped together with the harness"
        if self.cause == "pruned":
            return "was pruned by its search"
        if self.cause == "harness gone":
            return "was ended because its harness was gone"
        if self.returncode < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-self.returncode).name}"
        return f"ended with exit code {self.returncode}"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The identifiers that runs share if they differ in nothing but their seed."""

    config_id: str
    code_id: str
    data_id: str | None = None  # None: its data is not prepared
    protocol: int


class LaunchInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was first started for. `block`: the seed of its block; `ranks`: how many."""

    study: str | None = None
    arm: str | None = None
    block: int | None = None
    # absent from the JSON for one rank, so that stored baselines keep their hashes
    ranks: Count | msgspec.UnsetType = msgspec.UNSET


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an attempt before it starts: `launch.json` in its run directory.

    Times are Unix seconds.
    """

    plan_id: Name
    attempt: Name
    trainer: str
    seed: Seed
    identity: Identity
    derived: dict[str, Any]
    tricks: dict[str, bool]
    launch: LaunchInfo
    started_at: Moment
    boot_id: str


class Record(RunPlan, frozen=True, kw_only=True):
    """One attempt at a planned run, once it has ended. Metrics are those of the contract."""

    format: int = FORMAT
    status: Status
    reason: str | None = None
    hint: str | None = None
    log_tail: str | None = None
    metrics: dict[str, float | None]
    steps: Count
    tokens: Count
    environment: dict[str, Any]
    environment_id: str
    concurrent_runs: Count
    ended_at: Moment
    wall_s: NotNegative
    trainer_s: NotNegative
    gpus: Count
    signal: int | None = None  # from outside: the result does not depend on what was run
    # absent from the JSON if CORE was not evaluated, so that stored baselines keep their hashes
    core: CoreSettings | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        for name, value in self.metrics.items():
            if value is not None and not is_measured(name, value):
                raise ValueError(f"{name} is {value:g}, which is no measurement")


def read_plan(run_dir: Path) -> RunPlan | None:
    """The plan of a run directory; None if it is missing, incomplete or that of another one.

    The trainer can write to this folder: a plan decides nothing about where a record goes.
    """
    try:
        plan = msgspec.convert(read_json(run_dir / "launch.json"), RunPlan)
    except msgspec.ValidationError:
        return None
    own = (plan.plan_id, plan.attempt) == (run_dir.parent.name, run_dir.name)
    return plan if own else None


def collect_record(
    run_dir: Path, plan: RunPlan, ended: ProcessEnd, concurrent_runs: int = 0
) -> Record:
    """The record of a finished process. `concurrent_runs`: the most other runs at a time."""
    outcome = outcome_of(run_dir, ended)
    environment = read_json(run_dir / "environment.json")
    if not isinstance(environment, dict):
        environment = {}
    gpus, environment_id = environment.get("gpus"), environment.get("environment_id")
    failed = outcome.status not in FINAL_STATUSES
    core, damaged = _core_settings(run_dir / core_answers.NAME)
    record = Record(
        **msgspec.structs.asdict(plan),
        status=outcome.status,
        reason=_shortened("; ".join(part for part in (outcome.reason, damaged) if part)),
        hint=_shortened(outcome.hint),
        log_tail=log_tail(run_dir / "log.txt") if failed else None,
        metrics=outcome.metrics,
        steps=outcome.steps,
        tokens=outcome.tokens,
        environment=environment,
        environment_id=str(environment_id or "")[:LONGEST_NAME],
        concurrent_runs=concurrent_runs,
        ended_at=ended.ended_at,
        wall_s=max(0.0, ended.ended_at - plan.started_at),
        trainer_s=ended.trainer_s,
        gpus=len(gpus) if isinstance(gpus, list) else 0,
        signal=ended.signal,
        core=core,
    )
    return _within_limit(record)


def _core_settings(path: Path) -> tuple[CoreSettings | msgspec.UnsetType, str | None]:
    """Returns (how CORE was evaluated, why its answers cannot be kept), if applicable."""
    if not path.is_file():
        return msgspec.UNSET, None
    try:
        return core_answers.read(path).settings, None
    except StoreError as error:
        return msgspec.UNSET, f"its {path.name} is damaged and was not kept ({error.got})"


def _shortened(text: str | None) -> str | None:
    """A text short enough for a record; None if it is empty."""
    return text[: LONGEST_TEXT - 4] + " ..." if text and len(text) > LONGEST_TEXT else text or None


class Outcome(msgspec.Struct, kw_only=True):
    """The content of `result.json` under the contract, or what is known without it."""

    status: Status
    steps: Count
    tokens: Count
    metrics: dict[str, float | None]
    reason: str | None = None
    hint: str | None = None


def outcome_of(run_dir: Path, ended: ProcessEnd) -> Outcome:
    """How a run ended: its result, if it and its events follow the contract, else `failed`."""
    path = run_dir / "result.json"
    value = read_json(path)
    log = read_event_log(run_dir / "events.jsonl")
    outcome = _with_faults(ended, path, value, log)
    if ended.outlived_by:
        helpers = ", ".join(ended.outlived_by[:MOST_HELPERS])
        left = f"{len(ended.outlived_by)} of its processes outlived it and were ended: {helpers}"
        outcome.reason = "; ".join(part for part in (outcome.reason, left) if part)
    return outcome


def _with_faults(ended: ProcessEnd, path: Path, value: Any, log: EventLog) -> Outcome:
    """The result in result.json, or why there is none; `failed` for invalid events."""
    fault = "half a result.json" if path.exists() else "no result.json"
    if value is not None:
        try:
            result = msgspec.convert(value, Outcome)
        except msgspec.ValidationError as error:
            fault = f"an invalid result.json ({error})"
        else:
            names = result.metrics
            if len(names) <= MOST_METRICS and all(len(name) <= LONGEST_NAME for name in names):
                return _refused(_corrected(result, ended), log.fault)
            fault = f"a result.json with more than {MOST_METRICS} metrics, or with a longer name"
    return _refused(_without_result(log.last_step, ended, fault), log.fault)


def _refused(outcome: Outcome, fault: str | None) -> Outcome:
    """An outcome whose events break the contract: `failed`, with the line."""
    if fault is not None:
        outcome.reason = "; ".join(part for part in (fault, outcome.reason) if part)
        outcome.status, outcome.hint = "failed", CONTRACT
    return outcome


def _corrected(result: Outcome, ended: ProcessEnd) -> Outcome:
    """A result without numbers that are no measurements, and with how the process ended."""
    reasons = [result.reason] if result.reason else []
    for name, number in result.metrics.items():
        if number is not None and not is_measured(name, number):
            result.metrics[name] = None
            reasons.append(f"{name} was {number} and is recorded as not measured")
    if result.metrics.get("resumes"):
        result.metrics |= dict.fromkeys(result.metrics.keys() & set(ONE_PROCESS))
        reasons.append(
            "it resumed from a checkpoint, so its speed is that of several processes and is "
            "recorded as not measured"
        )
    if ended.cause == "time-out" and result.status == "interrupted":
        result.status, reasons = "failed", [ended.describe()]
    elif ended.cause == "pruned" and result.status == "interrupted":
        reasons = [ended.describe()]
    elif ended.returncode != 0 and result.status == "completed":
        reasons.append(f"the trainer wrote its result and then {ended.describe()}")
    result.reason = "; ".join(reasons) or None
    return result


def _without_result(reached: tuple[int, int], ended: ProcessEnd, fault: str) -> Outcome:
    """`reached`: steps and tokens at the last logged step."""
    hint = HINT
    if ended.returncode == -signal.SIGKILL and ended.cause is None:
        hint = (
            "Something outside killed it, often the kernel when memory runs out: "
            "see dmesg, or use a machine with more memory."
        )
    steps, tokens = reached
    stopped = ended.cause in ("stopped", "pruned", "harness gone")
    return Outcome(
        status="interrupted" if stopped else "failed",
        reason=f"the trainer {ended.describe()} and left {fault}",
        hint=hint,
        steps=steps,
        tokens=tokens,
        metrics={},
    )


def _within_limit(record: Record) -> Record:
    """Leaves out the longest free-form parts until the record is small enough."""
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
    """The curve of a run: one row per step with its evaluation, if any; None if empty."""
    import pyarrow as pa

    rows: dict[int, dict[str, Any]] = {}
    for event in read_events(run_dir / "events.jsonl"):
        kind = event["event"]
        if kind not in ("step", "evaluation"):
            continue
        step = event["step"]
        row = rows.setdefault(step, {"step": step})
        keep = {"tokens": "tokens", "train_time_s": "train_time_s", "loss": "train_loss"}
        if kind == "evaluation":
            keep = {**keep, "val_loss": "val_loss", "val_bpb": "val_bpb"}
        for source, target in keep.items():
            if event.get(source) is not None:
                row[target] = event[source] if target == "tokens" else float(event[source])
    if not rows:
        return None
    return pa.Table.from_pylist([rows[step] for step in sorted(rows)], schema=curve_schema())


def curve_schema() -> "pa.Schema":
    """The columns of every curve."""
    import pyarrow as pa

    counts = dict.fromkeys(("step", "tokens"), pa.int64())
    floats = dict.fromkeys(("train_time_s", "train_loss", "val_loss", "val_bpb"), pa.float64())
    return pa.schema(counts | floats)


def sessions(records: Iterable[Record]) -> list[list[Record]]:
    """Groups records by session: one use of one machine, by one command or several.

    The records of a session share environment and boot, with no gap of more than SESSION_GAP_S
    between the end of a run and the start of the next. Sessions and the records in them are in
    order of time. A run that ended before it wrote its environment belongs to the session that is
    open on its boot.
    """
    grouped: list[list[Record]] = []
    open_sessions: dict[tuple[str, str], tuple[list[Record], float]] = {}
    for record in sorted(records, key=lambda r: (r.started_at, r.plan_id, r.attempt)):
        machine = (record.environment_id, record.boot_id)
        if not record.environment_id:
            known = [key for key in open_sessions if key[1] == record.boot_id]
            machine = max(known, key=lambda key: open_sessions[key][1], default=machine)
        current = open_sessions.get(machine)
        if current is None or record.started_at - current[1] > SESSION_GAP_S:
            grouped.append([])
            current = (grouped[-1], record.ended_at)
        current[0].append(record)
        open_sessions[machine] = (current[0], max(current[1], record.ended_at))
    return grouped


def attempt_name(record: Record) -> str:
    """The unique name of an attempt, `plan_id/attempt`."""
    return f"{record.plan_id}/{record.attempt}"
