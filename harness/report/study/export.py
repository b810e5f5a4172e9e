"""The report as data: report.json (everything) and report.csv (one line per arm and metric).

The JSON has every number that another format shows. The CSV has the effects, each with the text
that the terminal prints, so that the formats can be checked against each other.
"""

import csv
import io
from typing import Any

from harness.comparison.result import MetricResult
from harness.report.metric_text import full
from harness.report.study import phrases
from harness.report.study.content import Content, settings
from harness.study.effects import TIME_PARTS, ExactChange

FORMAT = 1
HEAD = ("study", "arm", "role", "trick", "change")
FIELDS = (
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
    "margin",
    "outcome",
    "rule",
    "method",
    "beyond",
    "shown",
    "missing",
    "no_interval",
)


def data(content: Content) -> dict[str, Any]:
    """The whole attribution, with every arm's settings and derived values."""
    study = content.study
    return {
        "format": FORMAT,
        "trainer": study.trainer,
        "command": study.command,
        "source": study.source,
        "pin": study.pin,
        "attribution": content.attribution,
        "core": content.core,
        "arms": {
            arm.name: {
                **settings(arm),
                "derived": arm.derived,
                "identity": arm.identity,
                "config": arm.config,
            }
            for arm in study.arms
        },
    }


def as_csv(content: Content) -> str:
    """One line per arm and metric; time-to-target as three, counted values as `exact`."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [*HEAD, *FIELDS], lineterminator="\n")
    writer.writeheader()
    for arm in content.ranked:
        head = {name: getattr(arm, name) for name in HEAD if hasattr(arm, name)}
        head |= {"study": content.study.study, "arm": arm.name}
        effects = list(arm.effects.values())
        if arm.time_to_target:
            effects += [getattr(arm.time_to_target, part) for part in TIME_PARTS]
        writer.writerows({**head, **_effect_row(effect)} for effect in effects)
        for name in ("parameters", "flops_per_token"):
            writer.writerow({**head, **_exact_row(name, getattr(arm, name))})
    return out.getvalue()


def _effect_row(effect: MetricResult) -> dict[str, Any]:
    values = {name: getattr(effect, name) for name in FIELDS if name != "shown"}
    return {**values, "shown": full(effect)}


def _exact_row(name: str, exact: ExactChange) -> dict[str, Any]:
    return {
        "metric": name,
        "scale": "difference",
        "base_mean": exact.base,
        "arm_mean": exact.arm,
        "estimate": exact.delta,
        "method": "exact",
        "shown": phrases.change_of_count(exact.delta),
    }
