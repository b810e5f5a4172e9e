"""What the frames of the API share: units of columns, tables for notebooks."""

import os
from html import escape
from typing import TYPE_CHECKING

from harness.metrics import METRICS

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


def with_units(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The frame with the unit of each column in its attributes."""
    frame.attrs["units"] = {name: UNITS[name] for name in frame.columns if UNITS.get(name)}
    return frame


def html(title: str, frame: "pd.DataFrame") -> str:
    """A heading and a table, for notebooks."""
    return f"<p><strong>{escape(title)}</strong></p>\n{frame.to_html(index=False, na_rep='')}"
