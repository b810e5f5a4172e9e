"""How often each verdict comes: by simulation, and on real runs that should not differ.

    python benchmarks/operating_characteristics.py [--gates 20000] [--noise FOLDER] [--write FILE]

Simulates whole gates (runs drawn, noise chosen, guard, limits, looks, verdict) for harms of 0, 0.5,
1 and 2 margins; then deals groups of replicated real runs into two sides at random and judges them;
then judges the pairs of groups that their authors published as comparisons. Prints Markdown; with
--write it becomes a page of docs/. All gates of a cell are one array, because the table takes a
million of them; a test holds this arithmetic equal to `harness.verdict`, gate by gate.

FOLDER holds runs.parquet and comparisons.csv (see benchmarks/noise_priors.py).
"""

import argparse
import csv
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import mixture, sequential, verdict
from harness.margins import LOSS_MARGIN_NATS, LOSS_SD_NATS, SPEED_MARGIN
from harness.statistics import BROWN_FORSYTHE_ALPHA, pool

Array = np.ndarray[Any, np.dtype[Any]]

ALPHA = 0.05
SD = LOSS_SD_NATS / LOSS_MARGIN_NATS  # of one run, in margins
LEDGERS: dict[str, float | None] = {"ledger, 600 df": 600.0, "ledger, 5 df": 5.0, "own runs": None}
RUNS = (1, 3, 5, 10)
HARMS = (0.0, 0.5, 1.0, 2.0)
OPEN_BLOCKS = (5, 10, 30)
LEAST_RUNS = 10  # of a group, to be dealt into two sides
DEALS = 400
REGRESSION, INCONCLUSIVE, PASS = 1, 0, -1


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Shares of the outcomes in one cell, and how many runs a side it took on average."""

    passes: float
    regression: float
    runs: float
    gates: int

    def error(self, share: float) -> float:
        """The Monte-Carlo standard error of a share."""
        return math.sqrt(share * (1 - share) / self.gates)


# --- the verdict, on many gates at once -----------------------------------------------------------


def outcomes(a: Array, b: Array, known: Array | None, df: float | None, level: float) -> Array:
    """The verdicts on (gates, n) runs of two sides, each limit good with probability `level`.

    `known` (gates,): the ledger's SDs, with `df`; None for the runs' own noise.
    """
    estimate = b.mean(axis=1) - a.mean(axis=1)
    se, behind = _noise(a, b, known, df)
    with np.errstate(invalid="ignore"):
        half = np.where(behind > 0, special.stdtrit(np.maximum(behind, 1e-9), level), np.nan) * se
        passes, worse = estimate + half < 1.0, estimate - half > 0
    return np.where(passes, PASS, np.where(worse, REGRESSION, INCONCLUSIVE))


def _noise(a: Array, b: Array, known: Array | None, df: float | None) -> tuple[Array, Array]:
    """Standard error and df of each gate: the ledger's, pooled, or Welch's."""
    gates, n = a.shape
    if n == 1:
        if known is None or df is None:
            return np.full(gates, np.nan), np.zeros(gates)
        return known * math.sqrt(2), np.full(gates, df)
    v_a, v_b = a.var(axis=1, ddof=1) / n, b.var(axis=1, ddof=1) / n
    welch_df = (v_a + v_b) ** 2 / (v_a**2 + v_b**2) * (n - 1)
    if known is None or df is None:
        unequal = _brown_forsythe_p(a, b) < BROWN_FORSYTHE_ALPHA
        return np.sqrt(v_a + v_b), np.where(unequal, welch_df, 2.0 * (n - 1))
    risen = np.zeros(gates, dtype=bool)
    if n >= verdict.GUARD_RUNS:
        limit = special.fdtri(n - 1, df, 1 - verdict.GUARD_ALPHA)
        risen = np.maximum(v_a, v_b) * n / known**2 > limit
    se = np.where(risen, np.sqrt(v_a + v_b), known * math.sqrt(2 / n))
    return se, np.where(risen, welch_df, df)


def _brown_forsythe_p(a: Array, b: Array) -> Array:
    """Of two sides of n runs; 1 where n is below three and nothing can be asked."""
    gates, n = a.shape
    if n < 3:
        return np.ones(gates)
    spreads = [np.abs(x - np.median(x, axis=1, keepdims=True)) for x in (a, b)]
    means = [spread.mean(axis=1) for spread in spreads]
    between = n * (means[0] - means[1]) ** 2 / 2
    within = sum(((s - m[:, None]) ** 2).sum(axis=1) for s, m in zip(spreads, means, strict=True))
    return special.fdtrc(1, 2 * n - 2, between / (within / (2 * n - 2)))


# --- simulated gates ------------------------------------------------------------------------------


def simulate(n: int, harm: float, df: float | None, looks: bool, gates: int, seed: int = 0) -> Rate:
    """One cell: gates of n runs a side, all at once or in three looks."""
    rng = np.random.default_rng([seed, n])
    a, b = rng.normal(0, SD, (2, gates, n))
    known = SD * np.sqrt(rng.chisquare(df, gates) / df) if df else None
    at = sequential.looks(n) if looks else (n,)
    own_df = None if df else [2 * (k - 1) for k in at]
    tails = sequential.look_tails(ALPHA, [k / n for k in at], own_df)
    found = np.zeros(gates, dtype=int)
    used = np.full(gates, n)
    for k, tail in zip(at, tails, strict=True):
        now = outcomes(a[:, :k], b[:, :k] + harm, known, df, 1 - tail)
        decided = (found == INCONCLUSIVE) & (now != INCONCLUSIVE)
        used[decided] = k
        found = np.where(found == INCONCLUSIVE, now, found)
    return Rate(
        passes=float((found == PASS).mean()),
        regression=float((found == REGRESSION).mean()),
        runs=float(used.mean()),
        gates=gates,
    )


def simulate_open(blocks: int, harm: float, gates: int, seed: int = 0) -> Rate:
    """One cell of the open test: a look after every block, the SD known."""
    rng = np.random.default_rng([seed, blocks, 99])
    variance = mixture.block_variance(SD)
    d = rng.normal(harm, math.sqrt(variance), (gates, blocks))
    mean = np.cumsum(d, axis=1) / np.arange(1, blocks + 1)
    tests = {
        PASS: (mixture.running_p(d - 1.0, variance, 0.5) <= 2 * ALPHA) & (mean < 1.0),
        REGRESSION: (mixture.running_p(d, variance, 0.5) <= 2 * ALPHA) & (mean > 0),
    }
    first = {kind: np.where(hit.any(1), hit.argmax(1), blocks) for kind, hit in tests.items()}
    used = np.minimum(first[PASS], first[REGRESSION])
    passes = (first[PASS] <= first[REGRESSION]) & (used < blocks)
    return Rate(
        passes=float(passes.mean()),
        regression=float(((used < blocks) & ~passes).mean()),
        runs=float(np.minimum(used + 1, blocks).mean()),
        gates=gates,
    )


Cell = tuple[str, int, bool, float]  # noise, runs a side, looks, harm


def cells(gates: int) -> Iterator[tuple[Cell, Rate]]:
    """Every cell of the table."""
    for noise, df in LEDGERS.items():
        for n in RUNS:
            for looks in (False, True):
                if n == 1 and (looks or df is None):
                    continue
                for harm in HARMS:
                    yield (noise, n, looks, harm), simulate(n, harm, df, looks, gates)


# --- real runs ------------------------------------------------------------------------------------

Run = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is judged of real runs: a value, what its noise is pooled in, and its margin."""

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
class Dealt:
    """One group, dealt at random into two sides again and again."""

    name: str
    runs: int
    sd: float
    regression: float
    passes_harmed: float  # of deals to whose side B a whole margin was added
    passes: float
    guarded: float  # deals in which the guard tripped


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


def ledger_without(groups: dict[Any, list[Run]], left_out: set[Any], kind: Kind) -> verdict.Known:
    """The pooled SD of all groups since 2025 but those that are judged by it."""
    others = [
        [kind.value(run) for run in members]
        for key, members in groups.items()
        if key not in left_out and len(members) > 1 and _year(members[0]) >= 2025
    ]
    pooled = pool(others)
    return verdict.Known(sd=pooled.sd, df=pooled.df)


def deal(runs: Sequence[Run], kind: Kind, deals: int) -> list[Dealt]:
    """Each group of LEAST_RUNS, dealt into halves: nothing to find, and then a whole margin."""
    groups = groups_of(runs, kind)
    found = []
    for key, members in groups.items():
        if len(members) < LEAST_RUNS:
            continue
        known = ledger_without(groups, {key}, kind)
        values = np.array([kind.value(run) for run in members]) / kind.margin
        found.append(_dealt(members, values, known, kind, deals))
    return found


def _dealt(
    members: Sequence[Run], values: Array, known: verdict.Known, kind: Kind, deals: int
) -> Dealt:
    rng, half = np.random.default_rng(len(values)), len(values) // 2
    order = rng.permuted(np.tile(np.arange(len(values)), (deals, 1)), axis=1)
    a, b = values[order[:, :half]], values[order[:, half : 2 * half]]
    sds = np.full(deals, known.sd / kind.margin)
    same = outcomes(a, b, sds, known.df, 1 - ALPHA)
    harmed = outcomes(a, b + 1.0, sds, known.df, 1 - ALPHA)
    _, df = _noise(a, b, sds, known.df)
    name = members[0]["record"].rpartition("/")[2] + " " + members[0]["variant"]
    return Dealt(
        name=name.strip(),
        runs=len(values),
        sd=float(values.std(ddof=1)) * kind.margin,
        regression=float((same == REGRESSION).mean()),
        passes=float((same == PASS).mean()),
        passes_harmed=float((harmed == PASS).mean()),
        guarded=float((df != known.df).mean()),
    )


def clustered(shares: Sequence[float]) -> tuple[float, float]:
    """The mean of the groups' shares and its standard error: a group is one piece of evidence."""
    return float(np.mean(shares)), float(np.std(shares, ddof=1) / math.sqrt(len(shares)))


# --- recorded comparisons -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One published comparison of losses, judged by the ledger and by Welch's limits."""

    name: str
    n: int
    difference: float
    ledger: verdict.Outcome
    welch: verdict.Outcome
    own_sd: float
    ledger_sd: float
    guarded: bool


def pairs(folder: Path, runs: Sequence[Run]) -> list[Pair]:
    """The pairs of comparisons.csv at equal n: each side cut to the runs that came first."""
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
            known = ledger_without(groups, set(keys), kind)
            found.append(_pair(line, sides, known))
    return found


def _when(run: Run) -> tuple[str, str]:
    return str(run["log_time"] or ""), run["run_id"]


def _pair(line: dict[str, str], sides: list[list[float]], known: verdict.Known) -> Pair:
    a, b = sides
    mine = verdict.difference(a, b, known)
    pooled = pool(sides)
    own = verdict.welch(a, b)
    return Pair(
        name=f"{line['record'].rpartition('/')[2]}: {_label(line, 'a')} → {_label(line, 'b')}",
        n=len(a),
        difference=mine.contrast.estimate,
        ledger=verdict.decide(mine.contrast, LOSS_MARGIN_NATS, ALPHA).outcome,
        welch=verdict.decide(own, LOSS_MARGIN_NATS, ALPHA).outcome,
        own_sd=pooled.sd,
        ledger_sd=known.sd,
        guarded=bool(mine.risen),
    )


def _label(line: dict[str, str], side: str) -> str:
    return line[f"variant_{side}"] or line[f"group_{side}"]


def why(pair: Pair) -> str:
    """What makes the two verdicts on a pair differ."""
    if pair.guarded:
        return "a side varies more than the ledger allows, and both are Welch's"
    smaller = "smaller" if pair.own_sd < pair.ledger_sd else "larger"
    return (
        f"the SD of these {2 * pair.n} runs, {pair.own_sd:.5f}, is {smaller} than the ledger's "
        f"{pair.ledger_sd:.5f}, and Welch's t has fewer df"
    )


# --- the page -------------------------------------------------------------------------------------


def page(gates: int, noise: Path | None) -> str:
    """The whole page as Markdown."""
    parts = [_head(gates), *_simulated(gates), *_open(gates)]
    if noise is not None:
        runs = load(noise)
        parts += [*_real(runs), *_recorded(pairs(noise, runs))]
    return "\n".join(parts) + "\n"


def _head(gates: int) -> str:
    alpha, error = 100 * ALPHA, 100 * math.sqrt(ALPHA * (1 - ALPHA) / gates)
    return "\n".join(
        (
            "# How often each verdict comes",
            "",
            "Generated by `benchmarks/operating_characteristics.py`; not edited by hand.",
            "",
            f"{gates:,} simulated gates a cell, {alpha:g} % one-sided, SD of one run {SD:g} "
            "margins",
            f"(the GPT-2-small speedrun: {LOSS_SD_NATS:g} nats, margin {LOSS_MARGIN_NATS:g}). "
            "A harm of 0 should not",
            "be called a regression and a harm of one margin should not pass, each in at most",
            f"{alpha:g} % of gates; between the two neither is an error. A share of {alpha:g} %",
            f"has a Monte-Carlo error of {error:.2f} %.",
        )
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _trio(rate: Rate) -> str:
    open_share = max(0.0, 1 - rate.passes - rate.regression)
    return " / ".join(map(_percent, (rate.passes, open_share, rate.regression)))


def _simulated(gates: int) -> list[str]:
    rates = dict(cells(gates))
    lines = [
        "",
        "## Simulated gates: pass / inconclusive / regression, in %",
        "",
        "| noise | runs a side | looks | " + " | ".join(f"harm {h:g}" for h in HARMS) + " |",
        "|---|---|---|" + "---|" * len(HARMS),
    ]
    for noise, n, looks in dict.fromkeys(cell[:3] for cell in rates):
        shown = []
        for harm in HARMS:
            rate = rates[noise, n, looks, harm]
            shown.append(f"{_trio(rate)} ({rate.runs:.1f} runs)" if looks else _trio(rate))
        lines.append(f"| {noise} | {n} | {'3' if looks else '1'} | {' | '.join(shown)} |")
    worst = {
        "a regression without harm": max(r.regression for c, r in rates.items() if c[3] == 0),
        "a pass at a harm of one margin": max(r.passes for c, r in rates.items() if c[3] == 1),
    }
    stated = "; ".join(f"{what} {_percent(share)} %" for what, share in worst.items())
    bound = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / gates)
    lines += ["", f"Worst cells: {stated}; alpha plus two standard errors is {_percent(bound)} %."]
    return lines


def _open(gates: int) -> list[str]:
    lines = [
        "",
        "## The open test: a look after every block",
        "",
        "| at most | " + " | ".join(f"harm {harm:g}" for harm in HARMS) + " |",
        "|---|" + "---|" * len(HARMS),
    ]
    for blocks in OPEN_BLOCKS:
        shown = []
        for harm in HARMS:
            rate = simulate_open(blocks, harm, gates)
            shown.append(f"{_trio(rate)} ({rate.runs:.1f} blocks)")
        lines.append(f"| {blocks} blocks | {' | '.join(shown)} |")
    return lines


def _real(runs: Sequence[Run]) -> list[str]:
    lines = [
        "",
        "## Real runs that should not differ",
        "",
        "Replicates published with modded-nanogpt: every group of one code with at least "
        f"{LEAST_RUNS} runs,",
        f"dealt at random into two halves {DEALS} times and judged by the pooled SD of all other",
        "groups since 2025, the variance guard on.",
        "Errors are clustered by group. A harm of one margin is planted by adding it to one side.",
        "",
        "| | groups | regression, no harm | pass, no harm | pass, harm of one margin |",
        "|---|---|---|---|---|",
    ]
    tripped = []
    for kind in KINDS:
        dealt = deal(runs, kind, DEALS)
        cells = [
            "{:.1f} ± {:.1f} %".format(*(100 * part for part in clustered(shares)))
            for shares in (
                [group.regression for group in dealt],
                [group.passes for group in dealt],
                [group.passes_harmed for group in dealt],
            )
        ]
        lines.append(f"| {kind.title} | {len(dealt)} | {' | '.join(cells)} |")
        tripped += [(kind, group) for group in dealt if group.guarded > 0.05]
    lines += [
        "",
        "Groups in which the guard trips in more than 5 % of deals (the limits are then Welch's):",
        "",
        "| | group | runs | SD | deals with the guard |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {kind.title} | {g.name} | {g.runs} | {g.sd:.2g} | {_percent(g.guarded)} % |"
        for kind, g in sorted(tripped, key=lambda item: (item[0].title, -item[1].guarded))
    ]
    return lines


def _recorded(found: Sequence[Pair]) -> list[str]:
    same = sum(pair.ledger == pair.welch for pair in found)
    lines = [
        "",
        "## Recorded comparisons",
        "",
        f"{len(found)} pairs of groups that stand side by side in one record, at equal n: the",
        f"final loss judged at a margin of {LOSS_MARGIN_NATS:g} nats, by the ledger's SD (both",
        f"groups left out of it) and by Welch's limits on the pair alone. They agree on {same}.",
        "",
        "| comparison | n | B − A | by the ledger | by Welch | why they differ |",
        "|---|---|---|---|---|---|",
    ]
    for pair in found:
        reason = "" if pair.ledger == pair.welch else why(pair)
        lines.append(
            f"| {pair.name} | {pair.n} | {pair.difference:+z.4f} | {pair.ledger} | {pair.welch} | "
            f"{reason} |"
        )
    return lines


def main() -> None:
    """Prints the page, or writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--gates", type=int, default=20_000)
    parser.add_argument("--noise", type=Path)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    text = page(arguments.gates, arguments.noise)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
