"""The noise model as a frame."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness.api.frames import StorePath, html
from harness.comparison.noise_model import SHIPPED, NoiseRow, read_rows
from harness.comparison.noise_model import NoiseModel as NoiseRows
from harness.format import plural
from harness.gate.noise_sources import derived_rows
from harness.results.store import Store

if TYPE_CHECKING:
    import pandas as pd


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
