"""Comparisons of two sides of runs, and the noise model that they use."""

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.api.records import StorePath, html
from harness.comparison.core_by_example import with_core
from harness.comparison.noise_model import SHIPPED, NoiseRow, read_rows
from harness.comparison.noise_model import NoiseModel as NoiseRows
from harness.comparison.options import CompareOptions
from harness.comparison.readings import compare_and_record
from harness.comparison.result import Comparison as ComparisonResult
from harness.comparison.result import MetricResult
from harness.errors import UsageError
from harness.format import plural
from harness.gate.noise_sources import derived_rows
from harness.results.logs import read_sides, regex
from harness.results.logs.read import MEMBER
from harness.results.store import Store
from harness.study.exchange import exchange_rate

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """Side B against side A. `result` has every computed value, with notes and reasons."""

    result: ComparisonResult

    @property
    def outcome(self) -> str:
        """Of the worst metric: pass, regression or inconclusive."""
        return self.result.outcome

    @property
    def reason(self) -> str:
        """The metrics that decided the outcome, in one sentence."""
        return self.result.reason

    def to_frame(self) -> "pd.DataFrame":
        """One row a metric.

        Returns
        -------
        pandas.DataFrame
            `metric`, `unit`, `scale` (of `log` metrics, differences are natural logarithms), `n_a`,
            `n_b`, `mean_a`, `mean_b`, `estimate` (B minus A), `low` and `high` (one-sided limits at
            `result.alpha` each), `se`, `df`, `sd` (of one run), `margin`, `minimum_detectable`,
            `outcome` (missing for an informational metric), `reason`, `rule` (the kind of limits of
            the interval), `noise_from`, `margin_from`.
        """
        import pandas as pd

        return pd.DataFrame([_metric_row(metric) for metric in self.result.metrics])

    def to_markdown(self) -> str:
        """The comparison as `harness compare --markdown` prints it, for a pull request."""
        from harness.report.compare import build_comparison
        from harness.report.markdown import as_markdown

        return as_markdown(build_comparison(self.result))

    def __repr__(self) -> str:
        return f"<Comparison: {self.outcome}: {self.reason}>"

    def _repr_html_(self) -> str:
        """The answer and one row a metric, for notebooks."""
        columns = ["metric", "n_a", "n_b", "mean_a", "mean_b", "estimate", "low", "high", "margin"]
        answer = f"{self.outcome}: {self.reason}"
        return html(answer, self.to_frame()[[*columns, "minimum_detectable", "outcome"]])


def _metric_row(metric: MetricResult) -> dict[str, Any]:
    row = msgspec.structs.asdict(metric)
    for pair, name in (("n", "n"), ("means", "mean")):
        row[f"{name}_a"], row[f"{name}_b"] = row.pop(pair)
    first = ["metric", "unit", "scale", "n_a", "n_b", "mean_a", "mean_b", "estimate", "low", "high"]
    first += ["se", "df", "sd", "margin", "minimum_detectable", "outcome", "reason", "rule"]
    return {name: row[name] for name in (*first, "noise_from", "margin_from")}


def compare(
    a: "StorePath | Sequence[StorePath] | pd.DataFrame",
    b: "StorePath | Sequence[StorePath] | pd.DataFrame",
    *,
    margins: Mapping[str, float] | None = None,
    alpha: float = 0.05,
    metrics: Sequence[str] = (),
    sds: Mapping[str, float] | None = None,
    patterns: Mapping[str, str] | None = None,
    higher_better: Sequence[str] = (),
    lower_better: Sequence[str] = (),
    noise: "NoiseModel | None" = None,
    seen: int = 0,
    exchange: float | None = None,
    targets: Mapping[str, float] | None = None,
    target_p: float = 0.01,
) -> Comparison:
    """Compare two sides of runs, metric by metric: is B worse than A?

    Parameters
    ----------
    a, b : path, sequence of paths, or pandas.DataFrame
        The baseline and the change. A path is the log of a trainer, a folder of logs, a glob
        pattern, a run directory, a record, a store, or an arm of a study as ``"STORE:STUDY/ARM"``.
        A frame holds rows of `load_records`; its columns `store`, `plan_id` and `attempt` name the
        runs.
    margins : mapping of str to float, optional
        The smallest harm that matters: in the unit of the metric, relative for speeds and times
        (0.005 is 0.5 %). By default the margins of `harness compare`.
    alpha : float, default 0.05
        Error rate of each outcome over all readings of one question, between 0 and 0.5: the first
        reading spends 0.8 of it, later ones share the rest. Limits are one-sided.
    metrics : sequence of str, optional
        Only these; by default all that both sides have.
    sds : mapping of str to float, optional
        The SD of one run, in place of the noise model's.
    patterns : mapping of str to str, optional
        Metric to a regular expression with one group: reads a number from any log.
    higher_better, lower_better : sequence of str, optional
        Metrics of `patterns` whose higher, or lower, values are better. Without a direction a
        metric of `patterns` is informational.
    noise : NoiseModel, optional
        From `noise_model`, which is called without arguments by default.
    seen : int, default 0
        How often this question was compared before, with fewer runs. Known for runs that are in a
        store, which keeps its readings.
    exchange : float, optional
        The loss in nats that 1 % more training time buys, for the training time at equal loss. By
        default that of the recipe or of a study's horizons, where it is known.
    targets : mapping of str to float, optional
        Values that the mean of each side has to be beyond.
    target_p : float, default 0.01
        A target is met with a p below this.

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError
        If a path, metric or number means nothing, or one run stands on both sides.
    LogError
        If the two sides may not be compared; the message names the field that differs.

    Examples
    --------
    >>> found = harness.compare("baseline/*.txt", "change/*.txt", margins={"val_loss": 0.002})
    >>> found.outcome
    'pass'
    >>> harness.compare("runs:smoke/base", "runs:smoke/no_windows").to_frame()
    """
    compiled = regex.parse([f"{name}={text}" for name, text in (patterns or {}).items()])
    paths = _paths(a, "a"), _paths(b, "b")
    sides = read_sides(*paths, compiled)
    options = CompareOptions(
        alpha=alpha,
        margins=margins or {},
        sds=sds or {},
        metrics=metrics,
        higher_better=higher_better,
        lower_better=lower_better,
        also=list(compiled),
        seen=seen,
        exchange=exchange_rate(exchange, [*paths[0], *paths[1]]),
        targets=targets or {},
        target_p=target_p,
    )
    model = noise_model() if noise is None else noise
    result = compare_and_record(*sides, options, NoiseRows(model.rows))
    return Comparison(result=with_core(result, *sides))


def _paths(side: Any, name: str) -> list[str]:
    """The paths of one side, as the readers take them. Raises UsageError."""
    if isinstance(side, str | os.PathLike):
        side = [side]
    paths = _rows(side, name) if hasattr(side, "columns") else _expanded(side)
    if not paths:
        raise UsageError(name, "at least one run", "none", "Name a log, a record or an arm.")
    return paths


def _rows(frame: "pd.DataFrame", name: str) -> list[str]:
    columns = ["store", "plan_id", "attempt"]
    missing = [column for column in columns if column not in frame]
    if missing:
        expected = f"a frame of load_records, with the columns {', '.join(columns)}"
        hint = "Select rows of load_records(store), and keep these columns."
        raise UsageError(name, expected, f"one without {', '.join(missing)}", hint)
    runs = frame.drop_duplicates(columns).itertuples()
    return [f"{run.store}{MEMBER}{run.plan_id}/{run.attempt}" for run in runs]


def _expanded(paths: Sequence[StorePath]) -> list[str]:
    """Glob patterns as the paths they match; what matches nothing stays, to be named in errors."""
    expanded: list[str] = []
    for path in paths:
        name = os.fspath(path)
        matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
        expanded += matches or [name]
    return expanded


@dataclass(frozen=True, kw_only=True, repr=False)
class NoiseModel:
    """How much identical runs differ: pooled SDs by recipe, metric, GPU and source of variance."""

    rows: list[NoiseRow]

    def to_frame(self) -> "pd.DataFrame":
        """One row an SD.

        Returns
        -------
        pandas.DataFrame
            `scale` (the recipe: trainer, size, tokens), `metric`, `gpu`, `source` of the variance,
            `sd` of one run (in the metric's unit; of natural logarithms for speeds and times),
            `df`, `runs`, `groups`, `origin` (shipped or measured), `note`.
        """
        import pandas as pd

        return pd.DataFrame(map(msgspec.structs.asdict, self.rows))

    def __repr__(self) -> str:
        return f"<NoiseModel: {plural(len(self.rows), 'row')}>"

    def _repr_html_(self) -> str:
        """The rows as a table, for notebooks."""
        return html("Noise model", self.to_frame().drop(columns="note"))


def noise_model(
    store: StorePath | None = "runs", file: StorePath | None = "baselines/noise.csv"
) -> NoiseModel:
    """The noise model: shipped rows, those of a file, and those measured in a store.

    Parameters
    ----------
    store : path, optional
        A store whose replicates are measured. Not read where it does not exist.
    file : path, optional
        A file that `harness noise --write` made. Not read where it does not exist.

    Returns
    -------
    NoiseModel
        A measured row replaces a shipped one from 5 degrees of freedom on.

    Examples
    --------
    >>> rows = harness.noise_model(store=None, file=None).to_frame()
    >>> rows[rows["metric"] == "val_loss"][["scale", "gpu", "source", "sd", "df"]]
    """
    rows = read_rows(SHIPPED)
    if file is not None and Path(file).exists():
        rows += read_rows(Path(file))
    if store is not None:
        rows += derived_rows(Store(Path(store)))
    return NoiseModel(rows=NoiseRows(rows).rows)
