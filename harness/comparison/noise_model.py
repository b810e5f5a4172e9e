"""How much equal runs differ, by recipe, metric, source of variance, and GPU for speeds.

One row is a pooled SD of single runs with its degrees of freedom. *Measured* rows are computed from
the user's own records with replicates; *shipped* rows come with the package, generated from
published logs (`noise_shipped.csv`; each names its source). A measured row replaces the shipped one
from MEASURED_DF degrees of freedom on: with fewer, a handful of runs is less informative than the
many runs of others.

Five sources of variance. Each includes all before it, except that `launch`, `sequential` and `host`
apply to speeds and the other two to quality:

    nondeterminism  the same run again: only the order of floating-point sums differs
    seed            another seed: initial values and, where the recipe ties it to the seed, the
                    order of the data
    launch          another process in the same session on the same machine
    sequential      a launch of whole processes one after the other: includes the drift of the host
                    inside a launch
    host            another machine or session

SDs of speeds are those of logarithms, so .001 is a tenth of a percent.

Quality does not depend on the machine, so its rows are those of a recipe on any GPU. A shipped row
comes from recipes of others: its `predictive_df` are the df with which it predicts the SD of a
recipe of its scale that was not among its groups, however many runs it has (8 for the losses of
GPT-2 small, from 800 df). A measured row is the recipe's own and has its df.
"""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from harness import files
from harness.config.field_types import NotNegative, NotNegativeInt
from harness.errors import HarnessError
from harness.format import plural
from harness.metrics import CORE_SCORES, QUALITY, SPEEDS
from harness.results.copies import without_copies
from harness.results.recipe import NoiseScope, VarianceSource, device_name, recipe_scale
from harness.results.record import Record, sessions
from harness.stats.decision import KnownSd
from harness.stats.inference import pool

Origin = Literal["shipped", "measured"]

MEASURED_DF = 5
ANY_GPU = "any GPU"
SHIPPED = Path(__file__).with_name("noise_shipped.csv")


class NoiseModelError(HarnessError):
    """A noise model file that cannot be read."""


class NoiseRow(msgspec.Struct, frozen=True, kw_only=True):
    """One pooled SD. `sd` is that of one run, in the metric's unit; of logarithms for speeds."""

    scale: str
    metric: str
    gpu: str
    source: VarianceSource
    sd: NotNegative
    df: NotNegativeInt
    runs: NotNegativeInt
    groups: NotNegativeInt
    origin: Origin
    note: str = ""
    predictive_df: float | None = None  # for another recipe; None: `df`, of this very recipe
    correlation: float | None = None  # mean, of runs of two configurations at the same seeds

    @property
    def key(self) -> "RowKey":
        """What this row is the noise of."""
        return row_key(self.scale, self.metric, self.gpu, self.source)

    @property
    def known(self) -> KnownSd:
        """The SD with the degrees of freedom with which it predicts."""
        return KnownSd(sd=self.sd, df=self.df if self.predictive_df is None else self.predictive_df)

    def describe(self, *, other_recipe: bool = False) -> str:
        """'the shipped noise model, gpt2-small, any GPU, seed'."""
        of = ", of another recipe" if other_recipe else ""
        return f"the {self.origin} noise model{of}, {self.scale}, {self.gpu}, {self.source}"


RowKey = tuple[str | None, str, str | None, VarianceSource]  # scale, metric, GPU model, source


def row_key(scale: str | None, metric: str, gpu: str | None, source: VarianceSource) -> RowKey:
    """What a row is the noise of; quality is the same on any GPU."""
    return scale, metric, ANY_GPU if metric in QUALITY else gpu, source


class NoiseModel:
    """The best row for each scale, metric, GPU model and source of variance."""

    def __init__(self, rows: Iterable[NoiseRow]) -> None:
        self.rows: list[NoiseRow] = []
        best: dict[RowKey, NoiseRow] = {}
        for row in rows:
            best[row.key] = _better(best[row.key], row) if row.key in best else row
        self.rows = sorted(best.values(), key=lambda row: (row.scale, row.metric, row.source))

    def find(
        self, scale: str | None, metric: str, gpu: str | None, source: VarianceSource
    ) -> NoiseRow | None:
        """The row that fits, with at least MEASURED_DF degrees of freedom, or None.

        A speed needs a row of the same GPU model.
        """
        wanted = row_key(scale, metric, gpu, source)
        fits = (row for row in self.rows if row.key == wanted and row.df >= MEASURED_DF)
        return next(fits, None)

    def of_launches(
        self, metric: str, bench: NoiseScope, source: VarianceSource
    ) -> NoiseRow | None:
        """The row of launches that fits; where this recipe has none, the best one of its device.

        Launches differ in memory layout and compilation, which depend on the machine more than on
        the recipe: the shipped rows of GPT-2 small and of models ten times its size differ by less
        than a factor of 2.4.
        """
        exact = self.find(bench.scale, metric, bench.device, source)
        if exact is not None or source != "launch":
            return exact
        others = [
            row
            for row in self.rows
            if (row.gpu, row.source) == (bench.device, source)
            and row.metric in SPEEDS
            and row.df >= MEASURED_DF
        ]
        return max(others, key=lambda row: (row.origin == "measured", row.df), default=None)


def _better(one: NoiseRow, other: NoiseRow) -> NoiseRow:
    """The measured row where it has enough df, else the shipped one, else that with more df."""
    enough = [row for row in (one, other) if row.origin == "measured" and row.df >= MEASURED_DF]
    candidates = enough or [row for row in (one, other) if row.origin == "shipped"] or [one, other]
    return max(candidates, key=lambda row: row.df)


# --- rows from records ----------------------------------------------------------------------------


def measured_rows(records: Iterable[Record]) -> list[NoiseRow]:
    """One row for each scale, metric, GPU model and source of variance with replicates."""
    done = _completed(records)
    session = {
        (record.plan_id, record.attempt): number
        for number, members in enumerate(sessions(done))
        for record in members
    }
    rows = []
    for metric in (*QUALITY, *SPEEDS):
        measured = [record for record in done if record.metrics.get(metric) is not None]
        for (scale, gpu), members in _by_place(measured, metric).items():
            spreads: dict[VarianceSource, dict[str, Any]]
            if metric in SPEEDS:
                launches = _by(members, lambda record: session[record.plan_id, record.attempt])
                spreads = {"launch": _pooled(launches, metric), "host": _hosts(members, metric)}
            else:
                settings = _evaluation_of(metric)
                repeats = _by(
                    members, lambda record, settings=settings: (record.plan_id, settings(record))
                )
                spreads = {
                    "nondeterminism": _pooled(repeats, metric),
                    "seed": _of_seeds(_seeds(members, settings), metric),
                }
            rows += [
                NoiseRow(
                    scale=scale, metric=metric, gpu=gpu, source=source, origin="measured", **spread
                )
                for source, spread in spreads.items()
                if spread
            ]
    return rows


def _completed(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.status == "completed" and recipe_scale(record)]


def _by_place(records: Iterable[Record], metric: str) -> dict[tuple[str, str], list[Record]]:
    found = defaultdict(list)
    for record in records:
        gpu = ANY_GPU
        if metric not in QUALITY:
            gpu = device_name(record.environment) or "unknown"
        found[str(recipe_scale(record)), gpu].append(record)
    return found


def _by(records: Iterable[Record], place: Any) -> list[list[Record]]:
    """Groups of one configuration, code, data and protocol, further split by `place`."""
    found = defaultdict(list)
    for record in records:
        found[record.identity, record.concurrent_runs, place(record)].append(record)
    return list(found.values())


def _evaluation_of(metric: str) -> Callable[[Record], object]:
    """For scores of CORE, the evaluation settings that replicates must share."""
    return (lambda record: record.core) if metric in CORE_SCORES else (lambda record: None)


def _seeds(records: Iterable[Record], settings: Callable[[Record], object]) -> list[list[Record]]:
    """Groups with one run a seed: the first. Copies under another seed are left out."""
    found = []
    for group in _by(records, settings):
        first = {record.seed: record for record in reversed(group)}
        found.append(without_copies(list(first.values())))
    return found


def _values(records: Iterable[Record], metric: str) -> list[float]:
    values = [float(record.metrics[metric] or 0) for record in records]
    return [math.log(value) for value in values if value > 0] if metric in SPEEDS else values


def _pooled(groups: Iterable[list[Record]], metric: str) -> dict[str, Any]:
    several = [values for group in groups if len(values := _values(group, metric)) > 1]
    if not several:
        return {}
    pooled = pool(several)
    runs = sum(len(values) for values in several)
    return {"sd": pooled.sd, "df": pooled.df, "runs": runs, "groups": len(several)}


def _of_seeds(groups: Sequence[list[Record]], metric: str) -> dict[str, Any]:
    """The SD between seeds, and how much configurations share of it at the same seeds."""
    spread = _pooled(groups, metric)
    if spread:
        spread["correlation"] = _same_seed_correlation(groups, metric)
    return spread


def _same_seed_correlation(groups: Iterable[list[Record]], metric: str) -> float | None:
    """The mean correlation over pairs of groups with the same seeds; None without such a pair.

    With each group's values standardised, the squares of their sums over the groups of one seed add
    up to all pairwise correlations.
    """
    alike: dict[tuple[int, ...], list[np.ndarray[Any, Any]]] = defaultdict(list)
    for group in groups:
        by_seed = {record.seed: float(record.metrics[metric] or 0) for record in group}
        values = np.array([by_seed[seed] for seed in sorted(by_seed)])
        if len(values) > 1 and values.std() > 0:
            standard = (values - values.mean()) / values.std(ddof=1)
            alike[tuple(sorted(by_seed))].append(standard)
    total = pairs = 0.0
    for seeds, standard in alike.items():
        k, df = len(standard), len(seeds) - 1
        total += df * (float((np.sum(standard, axis=0) ** 2).sum()) / df - k)
        pairs += df * k * (k - 1)
    return total / pairs if pairs else None


def _hosts(records: Iterable[Record], metric: str) -> dict[str, Any]:
    """Between machines: the SD of host means beyond their own noise, by moments."""
    groups = []
    for members in _by(records, lambda record: None):
        hosts = defaultdict(list)
        for record in members:
            hosts[record.environment_id].append(record)
        groups.append([_values(host, metric) for host in hosts.values()])
    return host_spread(groups)


def host_spread(groups: Iterable[Sequence[Sequence[float]]]) -> dict[str, Any]:
    """The SD between hosts: groups of one code, each with the values of every host it ran on."""
    total, df, runs, used = 0.0, 0, 0, 0
    for group in groups:
        hosts = [host for host in group if host]
        if len(hosts) < 2:
            continue
        inside = pool(hosts)
        noise = inside.sd**2 * float(np.mean([1 / len(h) for h in hosts])) if inside.df else 0.0
        between = float(np.var([np.mean(host) for host in hosts], ddof=1))
        total += (len(hosts) - 1) * max(0.0, between - noise)
        df, used = df + len(hosts) - 1, used + 1
        runs += sum(map(len, hosts))
    return {"sd": math.sqrt(total / df), "df": df, "runs": runs, "groups": used} if df else {}


# --- files ----------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[NoiseRow]:
    """The rows of a noise model file. Raises NoiseModelError that names the faulty line."""
    try:
        with (
            files.open_regular(path, follow=True) as binary,
            io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file,
        ):
            reader = csv.DictReader(file)
            lines, columns = list(reader), reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        expected, hint = (
            "a noise model file in UTF-8",
            "Name another file, or write this one again.",
        )
        raise NoiseModelError(str(path), expected, str(error), hint) from error
    except OSError as error:
        raise NoiseModelError(
            str(path),
            "a noise model file",
            str(error.strerror).lower(),
            "`harness noise --write FILE` writes one from records.",
        ) from error
    lacking = [name for name in NoiseRow.__struct_fields__ if name not in columns]
    if lacking and not lines:  # a row without a column has an error of its own
        raise NoiseModelError(
            str(path),
            "a noise model file, as `harness noise --write` writes it",
            f"no columns {', '.join(lacking)}",
            "Name another file, or write this one again.",
        )
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            known = {name: value for name, value in line.items() if value or name == "note"}
            row = msgspec.convert(known, NoiseRow, strict=False)
        except msgspec.ValidationError as error:
            raise NoiseModelError(
                f"{path}, line {number}",
                "a row as `harness noise --write` writes it",
                str(error),
                "Write the file again; it is not meant to be edited.",
            ) from error
        rows.append(row)
    return rows


def as_csv(rows: Iterable[NoiseRow]) -> str:
    """Rows as a noise model file has them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, NoiseRow.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        numbers = {
            name: f"{value:.4g}"
            for name in ("sd", "predictive_df", "correlation")
            if (value := getattr(row, name)) is not None
        }
        writer.writerow({**msgspec.to_builtins(row), **numbers})
    return text.getvalue()


def missing_rows(records: Iterable[Record]) -> list[str]:
    """The measured rows that records still lack, and how many more runs they need, a line each."""
    done = _completed(records)
    measured_df = {row.key: row.df for row in measured_rows(done)}
    lines = []
    for metric in (*QUALITY, *SPEEDS):
        measured = [run for run in done if run.metrics.get(metric)]
        source: VarianceSource = "launch" if metric in SPEEDS else "seed"
        for scale, gpu in sorted(_by_place(measured, metric)):
            df = measured_df.get(row_key(scale, metric, gpu, source), 0)
            if df < MEASURED_DF:
                lines.append(_lacking(scale, metric, gpu, source, df))
    return sorted(lines)


def _lacking(scale: str, metric: str, gpu: str, source: VarianceSource, df: int) -> str:
    more = MEASURED_DF - df
    what, several = ("seed", "more seeds")
    if source != "seed":
        what, several = "run of the same session", "more runs of the same session"
    on = "" if gpu == ANY_GPU else f" on {gpu}"
    return (
        f"{scale}, {metric}{on}: {df} df of {MEASURED_DF}; "
        f"needs at least {plural(more, f'more {what}', several)}"
    )
