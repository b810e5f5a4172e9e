"""What the user of a comparison fixes, and whether the runs have what it names."""

import math
from collections.abc import Mapping, Sequence

import msgspec

from harness.comparison.comparability import Runs
from harness.comparison.exchange import ExchangeRate
from harness.comparison.result import Replicate
from harness.errors import UsageError
from harness.metrics import METRICS, Metric, metric_named
from harness.stats.spending import MOST_READINGS


class CompareOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user fixes: error rate, margins, known SDs, metrics and their directions.

    `metrics`: only these; empty for all that both sides have. `also`: metrics that were read on
    request, shown although they are not registered. `seen`: earlier readings of the same question,
    which have spent a part of `alpha`. `regression_share`: of the error rate of a regression, where
    more metrics are decided elsewhere. `exchange`: what training longer buys, by default the
    shipped rate of the recipe. `targets`: values that the mean of a side has to be beyond, with a
    p below `target_p`.
    """

    alpha: float = 0.05
    margins: Mapping[str, float] = {}
    sds: Mapping[str, float] = {}
    metrics: Sequence[str] = ()
    higher_better: Sequence[str] = ()
    lower_better: Sequence[str] = ()
    also: Sequence[str] = ()
    replicate: Replicate = "run"
    seen: int = 0
    regression_share: float = 1.0
    exchange: ExchangeRate | None = None
    targets: Mapping[str, float] = {}
    target_p: float = 0.01

    def metric(self, name: str) -> Metric:
        """The metric of a name, with the direction that is given for it."""
        return metric_named(name, self.higher_better, self.lower_better)

    @property
    def target_metrics(self) -> list[tuple[Metric, float]]:
        """Metrics with a target, and their targets."""
        return [(self.metric(name), target) for name, target in self.targets.items()]


def check_numbers(options: CompareOptions) -> None:
    """Raises UsageError for a number that means nothing."""
    hint = "Such as 0.002 for val_loss; speeds are relative, 0.005 for 0.5 %."
    numbers = [("alpha", options.alpha, 0.0, 0.5), ("target_p", options.target_p, 0.0, 1.0)]
    for name, values in (("margins", options.margins), ("sds", options.sds)):
        numbers += [(f"{name}[{key!r}]", one, 0.0, math.inf) for key, one in values.items()]
    for key, one in options.targets.items():
        numbers.append((f"targets[{key!r}]", one, -math.inf, math.inf))
    for name, value, low, high in numbers:
        if not low < value < high:
            raise UsageError(name, f"a number above {low:g} and below {high:g}", f"{value:g}", hint)
    if not isinstance(options.seen, int) or not 0 <= options.seen <= MOST_READINGS:
        expected = f"a whole number from 0 to {MOST_READINGS}"
        raise UsageError("seen", expected, f"{options.seen}", "Count the earlier readings.")


def check_names(options: CompareOptions, a: Runs, b: Runs) -> None:
    """Raises UsageError for metrics that the logs do not have, and for wrong directions."""
    known = {name for run in (*a, *b) for name in run.metrics}
    for option, names in (
        ("--metric", options.metrics),
        ("--margin", options.margins),
        ("--sd", options.sds),
        ("--target", options.targets),
        ("--higher-better", options.higher_better),
        ("--lower-better", options.lower_better),
    ):
        for name in names:
            if name not in known:
                raise UsageError(
                    f"{option} {name}",
                    "a metric that the logs have",
                    repr(name),
                    f"They have: {', '.join(sorted(known))}.",
                )
    for option, names in (("--margin", options.margins), ("--target", options.targets)):
        for name in names:
            if options.metric(name).better is None:
                raise UsageError(
                    f"{option} {name}",
                    "a metric whose direction is known",
                    f"{name}, which is not a registered metric",
                    f"Add --higher-better {name} or --lower-better {name}.",
                )
    _check_direction(options, "higher", options.higher_better)
    _check_direction(options, "lower", options.lower_better)


def _check_direction(options: CompareOptions, better: str, names: Sequence[str]) -> None:
    for name in names:
        if name in METRICS and METRICS[name].better != better:
            raise UsageError(
                f"--{better}-better {name}",
                f"{METRICS[name].better}, the registered direction of {name}",
                better,
                "Leave the option out.",
            )
        if name in options.higher_better and name in options.lower_better:
            raise UsageError(
                name, "one direction", "two", "Give --higher-better or --lower-better."
            )
