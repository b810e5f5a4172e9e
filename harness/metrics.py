"""The metrics: one entry each, with name, unit, direction and scale."""

from typing import Literal

import msgspec

Scale = Literal["difference", "log"]


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A measured quantity. `harm` is +1 where more is worse, -1 where less is worse.

    `scale` log: the effect is a difference of logarithms, shown in percent. An effect smaller than
    `resolution` is none, however little the metric varies: an allocator's count often repeats to
    the byte, and then a few bytes lie outside its noise.
    """

    name: str
    title: str
    unit: str
    harm: int
    scale: Scale = "difference"
    resolution: float = 0.0

    def resolves(self, estimate: float) -> bool:
        """Whether an effect of this size is worth a mark."""
        return abs(estimate) >= self.resolution


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="val_bpb", title="validation bits per byte", unit="bpb", harm=1),
        Metric(name="val_loss", title="validation loss", unit="nats/token", harm=1),
        Metric(name="core", title="CORE", unit="", harm=-1),
        Metric(name="core_soft", title="soft CORE", unit="", harm=-1),
        Metric(name="tokens_per_s", title="tokens/s", unit="tokens/s", harm=-1, scale="log"),
        Metric(
            name="tokens_per_s_job",
            title="tokens/s over all stages",
            unit="tokens/s",
            harm=-1,
            scale="log",
        ),
        Metric(
            name="peak_memory_bytes", title="peak memory", unit="bytes", harm=1, resolution=2**20
        ),
        Metric(name="compile_s", title="compile time", unit="s", harm=1),
    )
}


SPEEDS = ("tokens_per_s", "tokens_per_s_job")


COMPARED: dict[str, Metric] = {
    **{name: METRICS[name] for name in ("val_loss", "val_bpb", "core_soft", "core")},
    **{name: METRICS[name] for name in ("tokens_per_s", "tokens_per_s_job")},
    "train_time_s": Metric(
        name="train_time_s", title="training time", unit="s", harm=1, scale="log"
    ),
    "step_ms": Metric(name="step_ms", title="step time", unit="ms", harm=1, scale="log"),
    **{name: METRICS[name] for name in ("peak_memory_bytes", "compile_s")},
}
"""Metrics by name, in the order in which they are shown."""
