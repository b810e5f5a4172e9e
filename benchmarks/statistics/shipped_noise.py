"""Writes the shipped rows of the noise model from published logs: `noise_shipped.csv`.

    python -m benchmarks.statistics.shipped_noise FOLDER [--write]

FOLDER holds `runs.parquet` (one row a run, read from the logs in github.com/KellerJordan/
modded-nanogpt, MIT) and `published.csv` (replicate figures of github.com/karpathy/nanochat). Only
pooled SDs leave it. Prints the table; with --write it also replaces the file that ships.

Runs that count: complete ones, dated 2025 or later (scripts of 2024 had a higher noise: SD 0.0029
nats, from two groups), of the races to a loss with a 124M model. Losses are pooled inside groups of
one code; times inside groups of one code on one environment, those of the wall-clock race only,
because the other's clock includes compilation.
"""

import argparse
import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from harness.comparison.noise_model import ANY_GPU, SHIPPED, NoiseRow, as_csv, host_spread
from harness.metrics import SPEEDS
from harness.stats.inference import pool

FROM_LOGS = "logs of KellerJordan/modded-nanogpt, 2025 on"
FROM_PAPERS = "leaderboard and pull requests of karpathy/nanochat"
SCALE = "gpt2-small"
RACE, FIXED = "track_1_short", "track_3_optimization"
H100 = "NVIDIA H100 (type not stated)"
LEAST_DF = 3
LAUNCH_COLUMNS = {"train_time_s": "final_train_time_s", "step_ms": "step_ms_tail_eval"}
# PR 516 repeats one run, but on another validation shard (its issue 541)
NOT_REPLICATES = {("PR #516", "val_bpb")}

Run = dict[str, Any]
Place = Callable[[Run], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    text = as_csv(rows(arguments.folder))
    print(text, end="")
    if arguments.write:
        SHIPPED.write_text(text, encoding="utf-8")


def rows(folder: Path) -> list[NoiseRow]:
    """All shipped rows, sorted."""
    logs = from_logs(folder / "runs.parquet")
    found = [*logs, *from_published(folder / "published.csv", _between(logs))]
    return sorted(found, key=lambda row: (row.scale, row.metric, row.gpu, row.source))


def _between(logs: list[NoiseRow]) -> dict[bool, float]:
    """The df between recipes of speeds (True) and of quality, from the rows with most groups."""
    found = {}
    for row in sorted(logs, key=lambda row: row.groups):
        if row.predictive_df is not None:
            found[row.metric in SPEEDS] = 1 / (1 / row.predictive_df - 1 / row.df)
    return found


# --- modded-nanogpt -------------------------------------------------------------------------------


def from_logs(path: Path) -> list[NoiseRow]:
    runs = [
        run
        for run in pyarrow.parquet.read_table(path).to_pylist()
        if run["complete"] == 1 and run["track"] in (RACE, FIXED) and _year(run) >= 2025
    ]
    race = [run for run in runs if run["track"] == RACE]
    losses = grouped(runs, "final_val_loss", lambda run: run["group_id"])
    found = [_row("val_loss", ANY_GPU, "seed", spread(losses), between_groups(losses))]
    for metric, column in LAUNCH_COLUMNS.items():
        between = between_groups(launches(race, column))
        for gpu in sorted({run["gpu_name"] for run in race}):
            here = [run for run in race if run["gpu_name"] == gpu]
            found.append(_row(metric, gpu, "launch", spread(launches(here, column)), between))
            found.append(_row(metric, gpu, "host", host_spread(by_host(here, column)), None))
    return [row for row in found if row is not None]


def launches(race: list[Run], column: str) -> list[list[float]]:
    """Logarithms of a time, grouped by code and environment."""
    return grouped(race, column, lambda run: (run["group_id"], run["env_id"]), math.log)


def between_groups(groups: list[list[float]]) -> float:
    """The df with which the pooled SD of some groups predicts that of another.

    With E[(q - 1)^2] = c + (1 + c) 2 / df of a group's ratio q, each group weighted by its df.
    """
    several = [values for values in groups if len(values) > 1]
    df = np.array([len(values) - 1.0 for values in several])
    squares = np.array([np.var(values) * len(values) for values in several])
    ratios = squares / df / ((squares.sum() - squares) / (df.sum() - df))
    excess = float((df * (ratios - 1) ** 2).sum()) - 2 * len(df)
    c = excess / (df.sum() + 2 * len(df))
    return 4 + 2 / float(c) if c > 0 else math.inf


def predictive(df: float, between: float) -> float:
    """The df of a row for another recipe: its own error and the spread between recipes add up."""
    return 1 / (1 / df + 1 / between)


def _year(run: Run) -> int:
    """From the record's date, or from the first digits of its folder."""
    stated = run["record_date"] or re.search(r"/(\d{4})", run["record"] + "/2025")[1]
    return int(str(stated)[:4])


def grouped(
    runs: list[Run], column: str, place: Place, scale: Callable[[float], float] = float
) -> list[list[float]]:
    """The values of a column, grouped by place; empty cells left out."""
    groups = defaultdict(list)
    for run in runs:
        if run[column] is not None and run[column] > 0:
            groups[place(run)].append(scale(run[column]))
    return list(groups.values())


def by_host(runs: list[Run], column: str) -> list[list[list[float]]]:
    """Logarithms by code, then by environment."""

    def code(run: Run) -> Any:
        return run["source_sha1_norm"], run["total_steps"], run["n_gpus"]

    codes = defaultdict(list)
    for run in runs:
        if run["source_sha1_norm"]:
            codes[code(run)].append(run)
    return [
        grouped(members, column, lambda run: run["env_id"], math.log) for members in codes.values()
    ]


def spread(groups: list[list[float]]) -> dict[str, Any]:
    """The pooled SD of the groups with replicates."""
    several = [values for values in groups if len(values) > 1]
    if not several:
        return {}
    found = pool(several)
    runs = sum(len(values) for values in several)
    return {"sd": found.sd, "df": found.df, "runs": runs, "groups": len(several)}


def _row(
    metric: str, gpu: str, source: str, found: dict[str, Any], between: float | None
) -> NoiseRow | None:
    if not found or found["df"] < LEAST_DF:
        return None
    return NoiseRow(
        scale=SCALE,
        metric=metric,
        gpu=gpu,
        source=source,
        origin="shipped",
        note=FROM_LOGS,
        predictive_df=None if between is None else predictive(found["df"], between),
        **found,
    )


# --- nanochat -------------------------------------------------------------------------------------

METRICS = {"val_bpb": "val_bpb", "CORE": "core", "train_time": "train_time_s"}


def from_published(path: Path, between: dict[bool, float]) -> list[NoiseRow]:
    sets = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            metric = METRICS.get(line["metric"])
            if metric is None or not _replicated(line) or (line["item"], metric) in NOT_REPLICATES:
                continue
            seed = "seed" if line["seed_fixed"].startswith("no") else "nondeterminism"
            source = "launch" if metric == "train_time_s" else seed
            sets[_scale(line), metric, source].append(_set(line, metric == "train_time_s"))
    return [
        NoiseRow(
            scale=scale,
            metric=metric,
            gpu=H100 if metric in SPEEDS else ANY_GPU,
            source=source,
            sd=math.sqrt(sum(df * sd**2 for df, sd in members) / sum(df for df, _ in members)),
            df=sum(df for df, _ in members),
            runs=sum(df + 1 for df, _ in members),
            groups=len(members),
            origin="shipped",
            note=FROM_PAPERS,
            predictive_df=predictive(sum(df for df, _ in members), between[metric in SPEEDS]),
        )
        for (scale, metric, source), members in sets.items()
        if sum(df for df, _ in members) >= LEAST_DF
    ]


def _replicated(line: dict[str, str]) -> bool:
    return line["n"].isdigit() and int(line["n"]) > 1 and bool(line["sd"])


def _scale(line: dict[str, str]) -> str:
    depth = re.search(r"\bd(\d+)\b", line["config"])
    return f"nanochat d{depth[1]}" if depth else "nanochat, depth not stated"


def _set(line: dict[str, str], relative: bool) -> tuple[int, float]:
    """(df, SD); the SD of the listed values where they are all there, else as published."""
    n, sd = int(line["n"]), float(line["sd"])
    values = [float(text) for text in line["values"].split(";") if text]
    if len(values) == n:
        sd = float(np.std(values, ddof=1))
    return n - 1, sd / float(line["mean"]) if relative else sd


if __name__ == "__main__":
    main()
