"""The report as data: report.json (everything) and report.csv (one line for each arm and metric).

Every number that the terminal or the HTML shows stands in the JSON; the CSV carries the effects,
with the text that the terminal prints beside each, so that the two can be held together.
"""

import csv
import io
from typing import Any

import msgspec

from harness.compare.result import MetricResult
from harness.report.study import phrases
from harness.report.study.content import Content, settings
from harness.study.effects import TIME_PARTS

FORMAT = 1
COLUMNS = (
    "study",
    "arm",
    "role",
    "trick",
    "change",
    "metric",
    "scale",
    "n_arm",
    "n_base",
    "base_mean",
    "arm_mean",
    "estimate",
    "low",
    "high",
    "se",
    "df",
    "p",
    "minimum_detectable",
    "outside",
    "method",
    "beyond",
    "shown",
    "missing",
    "no_interval",
)


def as_json(content: Content) -> bytes:
    """The whole attribution, with every arm's settings and derived values."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "trainer": content.study.trainer,
        "command": content.study.command,
        "source": content.study.source,
        "pin": content.study.pin,
        "attribution": content.found,
        "core": content.core,
        "arms": {
            arm.name: {
                **settings(arm),
                "derived": arm.derived,
                "identity": arm.identity,
                "config": arm.config,
            }
            for arm in content.study.arms
        },
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


def as_csv(content: Content) -> str:
    """One line for each arm and metric, time to target as three; counted values as `exact`."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for arm in content.ranked:
        head = {
            "study": content.study.study,
            "arm": arm.name,
            "role": arm.role,
            "trick": arm.trick,
            "change": arm.change,
        }
        effects = list(arm.effects.values())
        if arm.time_to_target:
            effects += [getattr(arm.time_to_target, part) for part in TIME_PARTS]
        for effect in effects:
            writer.writerow({**head, **_row(effect)})
        for name in ("parameters", "flops_per_token"):
            exact = getattr(arm, name)
            row = {
                "metric": name,
                "scale": "difference",
                "base_mean": exact.base,
                "arm_mean": exact.arm,
                "estimate": exact.delta,
                "method": "exact",
                "shown": phrases.change_of_count(exact.delta),
            }
            writer.writerow({**head, **row})
    return out.getvalue()


def _row(effect: MetricResult) -> dict[str, Any]:
    row = {column: getattr(effect, column) for column in COLUMNS if hasattr(effect, column)}
    return {**row, "shown": phrases.full(effect)}
