"""Records and curves of a store as pandas frames."""

import os
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.errors import StoreError
from harness.metrics import METRICS
from harness.results.logs.from_store import is_store, session_numbers
from harness.results.recipe import device_name
from harness.results.record import Record
from harness.results.store import Store
from harness.results.study_plan import PlannedRun

if TYPE_CHECKING:
    import pandas as pd

StorePath = str | os.PathLike[str]

UNITS = {
    "wall_s": "s",
    "trainer_s": "s",
    "train_time_s": "s",
    "loader_wait_s": "s",
    "startup_s": "s",
    "eval_s": "s",
    "train_loss": "nats/token",
    "flops_per_token": "FLOPs",
} | {name: metric.unit for name, metric in METRICS.items()}
"""The unit of each column that has one; `frame.attrs["units"]` holds those of a frame."""
SEEN = ("driver", "cuda", "torch", "attention_backend", "precision")  # of environment.json
RECORD_COLUMNS = (
    *("store", "plan_id", "attempt", "study", "arm", "seed", "block", "status", "reason"),
    *("trainer", "config_id", "code_id", "data_id", "protocol", "session", "environment_id"),
    *("gpu", "gpus", "concurrent_runs", *SEEN, "steps", "tokens", "parameters"),
    *("flops_per_token", "started_at", "wall_s", "trainer_s"),
)
CURVE_COLUMNS = (
    *("plan_id", "study", "arm", "seed", "step", "tokens", "train_time_s"),
    *("train_loss", "val_loss", "val_bpb"),
)


def load_records(
    store: StorePath, *, study: str | None = None, all_attempts: bool = False
) -> "pd.DataFrame":
    """Load the records of a store.

    Parameters
    ----------
    store : path
        The folder that `harness study --store` writes, such as ``"runs"``.
    study : str, optional
        Only the planned runs of this study, under the names of its arms. Without it, `study` and
        `arm` name the study for which each run was first made.
    all_attempts : bool, default False
        Every attempt. By default a run that was attempted several times has one row: the completed
        attempt, else the last.

    Returns
    -------
    pandas.DataFrame, shape (runs, columns)
        Oldest run first. Identity: `store`, `plan_id`, `attempt`, `study`, `arm`, `seed`, `block`,
        `trainer`, `config_id`, `code_id`, `data_id`, `protocol`. Outcome: `status` (completed,
        diverged, out_of_memory, interrupted or failed), `reason`. Environment: `session` (speeds
        are comparable inside one), `environment_id`, `gpu`, `gpus`, `concurrent_runs`, `driver`,
        `cuda`, `torch`, `attention_backend`, `precision`. Size: `steps`, `tokens`, `parameters`,
        `flops_per_token`. Time: `started_at` (UTC), `wall_s`, `trainer_s`. Then one column for each
        metric, NaN where it was not measured. ``frame.attrs["units"]`` maps columns to their units.

    Raises
    ------
    StoreError
        If `store` has no records, or no study of that name.

    Examples
    --------
    >>> records = harness.load_records("baselines/published", study="speedrun-d8")
    >>> records.groupby("arm")["val_bpb"].agg(["count", "mean", "std"])
    """
    import pandas as pd

    opened = open_store(store)
    records = opened.records()
    session = session_numbers(records)
    planned = None if study is None else {run.plan_id: run for run in opened.study(study).runs}
    if planned is not None:
        records = [record for record in records if record.plan_id in planned]
    if not all_attempts:
        records = _deciding(records)
    metrics = _metric_names(records)
    rows = [
        {
            "store": str(opened.root),
            **_identity_columns(record, study, (planned or {}).get(record.plan_id)),
            "session": session[record.plan_id, record.attempt],
            **_run_columns(record),
            **{name: record.metrics.get(name) for name in metrics},
        }
        for record in records
    ]
    frame = pd.DataFrame(rows, columns=[*RECORD_COLUMNS, *metrics])
    frame["started_at"] = pd.to_datetime(frame["started_at"], unit="s", utc=True)
    frame["block"] = frame["block"].astype("Int64")
    frame[metrics] = frame[metrics].astype("float64")
    return with_units(frame)


def load_curves(store: StorePath, *, study: str | None = None) -> "pd.DataFrame":
    """Load the curves of all completed runs of a store, or of one study.

    Parameters
    ----------
    store : path
        The folder of the store.
    study : str, optional
        Only the planned runs of this study.

    Returns
    -------
    pandas.DataFrame, shape (runs x steps, 10)
        One row a logged step of a run: `plan_id`, `study`, `arm`, `seed`, `step`, `tokens` (seen so
        far), `train_time_s` (s), `train_loss` (nats/token), `val_loss` (nats/token) and `val_bpb`
        (bits per byte), the last two NaN on steps without an evaluation.

    Raises
    ------
    StoreError
        If `store` has no records, or no study of that name.

    Examples
    --------
    >>> curves = harness.load_curves("baselines/published", study="speedrun-d8")
    >>> curves.dropna(subset="val_bpb").pivot_table(index="tokens", columns="arm", values="val_bpb")
    """
    import pandas as pd

    opened, parts = open_store(store), []
    records = load_records(store, study=study)
    for run in records[records["status"] == "completed"].itertuples():
        table = opened.curve(run.plan_id)
        if table is not None:
            part = table.to_pandas()
            for place, name in enumerate(("plan_id", "study", "arm", "seed")):
                part.insert(place, name, getattr(run, name))
            parts.append(part)
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=CURVE_COLUMNS)
    return with_units(frame)


def open_store(store: StorePath) -> Store:
    root = Path(store)
    if not is_store(root):
        got = "a folder without records" if root.is_dir() else "no such folder"
        hint = "Name the folder that `harness study --store` wrote, such as runs."
        raise StoreError(str(root), "a store: a folder with records/ in it", got, hint)
    return Store(root)


def _deciding(records: Iterable[Record]) -> list[Record]:
    """One record a plan, oldest plan first: the completed attempt, else the last."""
    deciding: dict[str, Record] = {}
    for record in records:
        known = deciding.get(record.plan_id)
        if known is None or known.status != "completed":
            deciding[record.plan_id] = record
    return list(deciding.values())


def _identity_columns(
    record: Record, study: str | None, planned: PlannedRun | None
) -> dict[str, Any]:
    return {
        "plan_id": record.plan_id,
        "attempt": record.attempt,
        "study": study or record.launch.study,
        "arm": planned.arm if planned else record.launch.arm,
        "seed": record.seed,
        "block": planned.block if planned else record.launch.block,
        "status": record.status,
        "reason": record.reason,
        "trainer": record.trainer,
        **msgspec.structs.asdict(record.identity),
    }


def _run_columns(record: Record) -> dict[str, Any]:
    seen = record.environment
    return {
        "environment_id": record.environment_id or None,
        "gpu": device_name(seen),
        "gpus": record.gpus,
        "concurrent_runs": record.concurrent_runs,
        **{name: seen.get(name) for name in SEEN},
        "steps": record.steps,
        "tokens": record.tokens,
        "parameters": record.derived.get("parameters_total"),
        "flops_per_token": record.derived.get("flops_per_token"),
        "started_at": record.started_at,
        "wall_s": record.wall_s,
        "trainer_s": record.trainer_s,
    }


def _metric_names(records: Iterable[Record]) -> list[str]:
    """Every metric that a record has: those of the registry in its order, then the others."""
    measured = dict.fromkeys(name for record in records for name in record.metrics)
    known = [name for name in METRICS if name in measured]
    return known + [name for name in measured if name not in METRICS]


def with_units(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The frame with the unit of each column in its attributes."""
    frame.attrs["units"] = {name: UNITS[name] for name in frame.columns if UNITS.get(name)}
    return frame


def html(title: str, frame: "pd.DataFrame") -> str:
    """A heading and a table, for notebooks."""
    return f"<p><strong>{escape(title)}</strong></p>\n{frame.to_html(index=False, na_rep='')}"
