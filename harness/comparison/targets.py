"""Is the mean of each side beyond a target, such as the 3.28 nats of a record? Pure."""

from collections.abc import Sequence

from harness.comparison.comparability import SIDES, Runs
from harness.comparison.result import TargetResult
from harness.metrics import Metric
from harness.stats.target import target_test


def target_results(
    sides: Sequence[Runs], targets: Sequence[tuple[Metric, float]], level: float
) -> list[TargetResult]:
    """The test of each target on each side that measured its metric; directions are known."""
    results = []
    for metric, target in targets:
        for label, side in zip(SIDES, sides, strict=True):
            values = [run.metrics[metric.name] for run in side if metric.name in run.metrics]
            if not values:
                continue
            found = target_test(values, target, metric.harm, level)
            results.append(
                TargetResult(
                    side=label,
                    metric=metric.name,
                    target=target,
                    level=level,
                    n=found.n,
                    mean=found.mean,
                    sd=found.sd,
                    p=found.p,
                    runs_needed=found.runs,
                )
            )
    return results
