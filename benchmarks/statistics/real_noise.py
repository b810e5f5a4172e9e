"""The decision on real runs: on groups that should not differ, and on published comparisons.

Divides groups of replicated real runs into two sides at random and compares them, without a harm
and with a harm of one margin added; then compares the pairs of groups that their authors published
as comparisons. operating_characteristics.py puts both on its page.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.statistics import shipped_noise
from benchmarks.statistics.decisions import (
    ALPHA,
    PASS,
    REGRESSION,
    Array,
    noise_of,
    outcomes,
    percent,
)
from harness.metrics import METRICS
from harness.stats import decision
from harness.stats.inference import pool

LOSS_MARGIN_NATS = METRICS["val_loss"].margin.value
SPEED_MARGIN = METRICS["tokens_per_s"].margin.value

MINIMUM_RUNS = 10  # of a group, to be divided into two sides
SPLITS = 400

Run = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A metric of real runs: its value, the groups of its noise, and its margin."""

    title: str
    value: Callable[[Run], float | None]
    group: Callable[[Run], Any]
    counts: Callable[[Run], bool]
    margin: float


def _year(run: Run) -> int:
    return int(str(run["record_date"] or "2025")[:4])


KINDS = (
    Kind(
        title="final loss",
        value=lambda run: run["final_val_loss"],
        group=lambda run: run["group_id"],
        counts=lambda run: run["track"] != "track_2_medium",
        margin=LOSS_MARGIN_NATS,
    ),
    Kind(
        title="ln training time, one environment",
        value=lambda run: math.log(run["final_train_time_s"]),
        group=lambda run: (run["group_id"], run["env_id"]),
        counts=lambda run: run["track"] == "track_1_short" and _year(run) >= 2025,
        margin=math.log1p(SPEED_MARGIN),
    ),
)


@dataclass(frozen=True, kw_only=True)
class SplitGroup:
    """One group, divided at random into two sides many times."""

    name: str
    runs: int
    sd: float
    regression: float
    passes_harmed: float  # of splits with one margin of harm added to side B
    passes: float
    guarded: float  # of splits in which the variance guard tripped


def load(folder: Path) -> list[Run]:
    """The runs that reached their end."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(folder / "runs.parquet").to_pylist()
    return [run for run in table if run["complete"] == 1]


def groups_of(runs: Sequence[Run], kind: Kind) -> dict[Any, list[Run]]:
    """The replicate groups of a kind."""
    found = defaultdict(list)
    for run in runs:
        if kind.counts(run) and kind.value(run) is not None:
            found[kind.group(run)].append(run)
    return dict(found)


def noise_without(groups: dict[Any, list[Run]], left_out: set[Any], kind: Kind) -> decision.KnownSd:
    """The pooled SD of the groups since 2025 that are not compared, and what it is worth."""
    others = [
        [kind.value(run) for run in members]
        for key, members in groups.items()
        if key not in left_out and len(members) > 1 and _year(members[0]) >= 2025
    ]
    pooled = pool(others)
    worth = shipped_noise.predictive(pooled.df, shipped_noise.between_groups(others))
    return decision.KnownSd(sd=pooled.sd, df=worth)


def split_groups(runs: Sequence[Run], kind: Kind, splits: int) -> list[SplitGroup]:
    """Each group of at least MINIMUM_RUNS in random halves, without and with a harm."""
    groups = groups_of(runs, kind)
    found = []
    for key, members in groups.items():
        if len(members) < MINIMUM_RUNS:
            continue
        known = noise_without(groups, {key}, kind)
        values = np.array([kind.value(run) for run in members]) / kind.margin
        found.append(_split(members, values, known, kind, splits))
    return found


def _split(
    members: Sequence[Run], values: Array, known: decision.KnownSd, kind: Kind, splits: int
) -> SplitGroup:
    rng, half = np.random.default_rng(len(values)), len(values) // 2
    order = rng.permuted(np.tile(np.arange(len(values)), (splits, 1)), axis=1)
    a, b = values[order[:, :half]], values[order[:, half : 2 * half]]
    sds = np.full(splits, known.sd / kind.margin)
    same = outcomes(a, b, sds, known.df, 1 - ALPHA)
    harmed = outcomes(a, b + 1.0, sds, known.df, 1 - ALPHA)
    _, df = noise_of(a, b, sds, known.df)
    name = members[0]["record"].rpartition("/")[2] + " " + members[0]["variant"]
    return SplitGroup(
        name=name.strip(),
        runs=len(values),
        sd=float(values.std(ddof=1)) * kind.margin,
        regression=float((same == REGRESSION).mean()),
        passes=float((same == PASS).mean()),
        passes_harmed=float((harmed == PASS).mean()),
        guarded=float((df != known.df).mean()),
    )


def clustered(shares: Sequence[float]) -> tuple[float, float]:
    """The mean of the shares of groups and its standard error; a group is one observation."""
    return float(np.mean(shares)), float(np.std(shares, ddof=1) / math.sqrt(len(shares)))


# --- recorded comparisons -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One published comparison of losses, decided with the noise model and by Welch's limits."""

    name: str
    n: int
    difference: float
    noise_model: decision.Outcome
    welch: decision.Outcome
    own_sd: float
    noise_model_sd: float
    guarded: bool


def pairs(folder: Path, runs: Sequence[Run]) -> list[Pair]:
    """The pairs of comparisons.csv at equal n: the earliest runs of each side."""
    kind = KINDS[0]
    groups = groups_of(runs, kind)
    found = []
    with (folder / "comparisons.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            keys = line["group_a"], line["group_b"]
            if any(key not in groups for key in keys):
                continue
            n = min(len(groups[key]) for key in keys)
            sides = [[kind.value(r) for r in sorted(groups[key], key=_when)[:n]] for key in keys]
            known = noise_without(groups, set(keys), kind)
            found.append(_pair(line, sides, known))
    return found


def _when(run: Run) -> tuple[str, str]:
    return str(run["log_time"] or ""), run["run_id"]


def _pair(line: dict[str, str], sides: list[list[float]], known: decision.KnownSd) -> Pair:
    a, b = sides
    mine = decision.difference(a, b, known)
    pooled = pool(sides)
    own = decision.welch(a, b)
    return Pair(
        name=f"{line['record'].rpartition('/')[2]}: {_label(line, 'a')} → {_label(line, 'b')}",
        n=len(a),
        difference=mine.contrast.estimate,
        noise_model=decision.decide(mine.contrast, LOSS_MARGIN_NATS, ALPHA).outcome,
        welch=decision.decide(own, LOSS_MARGIN_NATS, ALPHA).outcome,
        own_sd=pooled.sd,
        noise_model_sd=known.sd,
        guarded=bool(mine.excess_variance),
    )


def _label(line: dict[str, str], side: str) -> str:
    return line[f"variant_{side}"] or line[f"group_{side}"]


def why(pair: Pair) -> str:
    """The reason why the two outcomes of a pair differ."""
    if pair.guarded:
        return "a side varies more than the noise model allows: both use Welch's limits"
    smaller = "smaller" if pair.own_sd < pair.noise_model_sd else "larger"
    return (
        f"the SD of these {2 * pair.n} runs, {pair.own_sd:.5f}, is {smaller} than the noise "
        f"model's {pair.noise_model_sd:.5f}, and Welch's t has fewer df"
    )


# --- as Markdown ----------------------------------------------------------------------------------


def split_lines(runs: Sequence[Run]) -> list[str]:
    lines = [
        "",
        "## Real runs that should not differ",
        "",
        "Replicates published with modded-nanogpt: every group of one code with at least "
        f"{MINIMUM_RUNS} runs,",
        f"divided at random into two halves {SPLITS} times and compared with the pooled SD of all",
        "other groups since 2025, with the variance guard.",
        "Errors are clustered by group. A harm of one margin is added to one side.",
        "",
        "| | groups | regression, no harm | pass, no harm | pass, harm of one margin |",
        "|---|---|---|---|---|",
    ]
    tripped = []
    for kind in KINDS:
        splits = split_groups(runs, kind, SPLITS)
        cells = [
            "{:.1f} ± {:.1f} %".format(*(100 * part for part in clustered(shares)))
            for shares in (
                [group.regression for group in splits],
                [group.passes for group in splits],
                [group.passes_harmed for group in splits],
            )
        ]
        lines.append(f"| {kind.title} | {len(splits)} | {' | '.join(cells)} |")
        tripped += [(kind, group) for group in splits if group.guarded > 0.05]
    lines += [
        "",
        "Groups in which the guard trips in more than 5 % of splits (the limits are then Welch's):",
        "",
        "| | group | runs | SD | splits with the guard |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {kind.title} | {g.name} | {g.runs} | {g.sd:.2g} | {percent(g.guarded)} % |"
        for kind, g in sorted(tripped, key=lambda item: (item[0].title, -item[1].guarded))
    ]
    return lines


def recorded_lines(found: Sequence[Pair]) -> list[str]:
    same = sum(pair.noise_model == pair.welch for pair in found)
    lines = [
        "",
        "## Published comparisons",
        "",
        f"{len(found)} pairs of groups that were published side by side, at equal n: the",
        f"final loss at a margin of {LOSS_MARGIN_NATS:g} nats, with the noise model's SD",
        f"(without both groups) and by Welch's limits on the pair alone. They agree on {same}.",
        "",
        "| comparison | n | B − A | noise model | Welch | why they differ |",
        "|---|---|---|---|---|---|",
    ]
    for pair in found:
        reason = "" if pair.noise_model == pair.welch else why(pair)
        lines.append(
            f"| {pair.name} | {pair.n} | {pair.difference:+z.4f} | {pair.noise_model} | "
            f"{pair.welch} | {reason} |"
        )
    return lines
