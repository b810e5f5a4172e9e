"""The attribution of a study's gains to its tricks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.api.frames import html
from harness.api.study import Study
from harness.errors import UsageError
from harness.format import plural
from harness.results.store import Store
from harness.study.attribution import attribute
from harness.study.effects import TIME_PARTS, ArmResult
from harness.study.effects import Attribution as AttributionResult

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = (
    *("metric", "unit", "scale", "n_base", "n_arm", "base_mean", "arm_mean", "estimate", "low"),
    *("high", "se", "df", "p", "margin", "minimum_detectable", "outside", "outcome", "rule"),
    *("beyond", "reason"),
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Attribution:
    """What each arm of a study changes against the base. `result` has every computed value."""

    result: AttributionResult

    def to_frame(self) -> "pd.DataFrame":
        """One row for each arm and metric.

        Returns
        -------
        pandas.DataFrame
            `study`, `arm`, `role`, `trick`, `change` (removed, added or changed), `metric`, then
            the effect: `unit`, `scale` (of `log` effects, estimates are natural logarithms),
            `n_base`, `n_arm`, `base_mean`, `arm_mean`, `estimate` (arm minus base), `low`, `high`
            (the interval that `rule` names, corrected for the number of arms), `se`, `df`, `p`,
            `margin`, `minimum_detectable`, `outcome` (pass, regression or inconclusive, where the
            metric has a margin), `beyond` (the limit that an effect outside the measured range
            exceeds), and `reason`: why a number or a decision is absent. The change of time to the
            base's final loss has the metrics `time_quality`, `time_speed` and `time_total`, whose
            logarithms add up.
        """
        import pandas as pd

        return pd.DataFrame([row for arm in self.result.arms for row in self._rows(arm)])

    def _rows(self, arm: ArmResult) -> list[dict[str, Any]]:
        effects = list(arm.effects.values())
        if arm.time_to_target:
            effects += [getattr(arm.time_to_target, part) for part in TIME_PARTS]
        head: dict[str, Any] = {"study": self.result.study, "arm": arm.name, "role": arm.role}
        head |= {"trick": arm.trick, "change": arm.change}
        return [{**head, **{name: getattr(one, name) for name in COLUMNS}} for one in effects]

    def __repr__(self) -> str:
        arms = plural(len(self.result.arms), "arm")
        return f"<Attribution of the study {self.result.study}: {arms}>"

    def _repr_html_(self) -> str:
        """The effects as a table, for notebooks."""
        columns = ["arm", "metric", "n_base", "n_arm", "estimate", "low", "high"]
        return html(
            f"{self.result.study}: {self.result.question}",
            self.to_frame()[[*columns, "minimum_detectable"]],
        )


def attribution(study: Study) -> Attribution:
    """Attribute the gains of a study to its tricks.

    Parameters
    ----------
    study : Study
        From `load_study` or `run_study`; it need not be complete.

    Returns
    -------
    Attribution
        ``.to_frame()`` has one row for each arm and metric, ``.result`` everything that
        `harness report --json` writes under `attribution`.

    Raises
    ------
    UsageError
        If `study` is something else, such as the name of a study.

    Examples
    --------
    >>> study = harness.load_study("baselines/published", "speedrun-d8")
    >>> effects = harness.attribution(study).to_frame()
    >>> effects[effects["metric"] == "val_bpb"][["arm", "estimate", "low", "high"]]
    """
    if not isinstance(study, Study):
        raise UsageError(
            "attribution",
            "a Study of load_study or run_study",
            repr(study),
            "Load it first: harness.attribution(harness.load_study(STORE, NAME)).",
        )
    return Attribution(result=attribute(study.plan, Store(study.store).records()))
