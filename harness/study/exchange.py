"""The exchange rate of loss for training time: stated, or measured by a stored study."""

from collections.abc import Sequence
from pathlib import Path

from harness.comparison.exchange import ExchangeRate, per_percent
from harness.errors import UsageError
from harness.metrics import LOSSES
from harness.results.logs.from_store import is_store
from harness.results.store import Store
from harness.study.evidence import gather
from harness.study.time_to_target import horizon_slope


def exchange_rate(nats: float | None, paths: Sequence[str]) -> ExchangeRate | None:
    """The stated rate, or that of the first study with horizons that a path names.

    `nats`: what 1 % more training time changes; `paths`: of both sides, such as STORE:STUDY/ARM.
    Raises UsageError and StoreError.
    """
    if nats is not None:
        if not 0 < abs(nats) <= 1:
            expected, hint = "a loss other than 0, at most 1", "Such as 0.0019."
            raise UsageError("exchange", expected, f"{nats:g}", hint)
        return per_percent(nats, f"stated: {abs(nats):g} nats for 1 % of time")
    for path in paths:
        root, colon, study = path.rpartition(":")
        if colon and is_store(Path(root)):
            found = measured_exchange_rate(Store(Path(root)), study.partition("/")[0])
            if found is not None:
                return found
    return None


def measured_exchange_rate(store: Store, name: str) -> ExchangeRate | None:
    """The exchange rate that the horizons of a stored study measured; None without any.

    Raises StoreError.
    """
    study = store.study(name)
    if not any(horizon != 1 for horizon in study.horizons):
        return None
    evidence = gather(study, store.records())
    metric = next((one for one in LOSSES if evidence.measures(one)), LOSSES[0])
    slope, fit = horizon_slope(evidence, metric)
    if slope is None or fit is None or slope.slope is None or slope.se is None:
        return None
    return ExchangeRate(
        metric=metric,
        rate=slope.slope,
        source=f"measured by {slope.runs} runs of the horizons of {name}",
        se=slope.se,
        df=slope.df,
        reach=slope.reach,
    )
