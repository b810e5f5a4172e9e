"""The results of launches and replicates, against values worked out by hand."""

import msgspec
import pytest

from benchmarks.statistics.gate_rates import launched
from harness.gate.metrics import compare_launch_costs
from harness.stats.spending import Reading

GIB = 2.0**30


def on_gpu(number: int, a_bytes: float, b_bytes: float):
    return msgspec.structs.replace(
        launched(number, [0.0]), peak_memory_bytes=(a_bytes, b_bytes), on_gpu=True
    )


@pytest.mark.parametrize(("b_bytes", "outcome"), [(60.5 * GIB, "pass"), (60.7 * GIB, "regression")])
def test_on_a_gpu_memory_may_grow_by_one_percent_of_the_bases(b_bytes, outcome):
    launches = [on_gpu(number, 60 * GIB, b_bytes) for number in (1, 2)]
    (found,) = compare_launch_costs(launches, Reading(alpha=0.05), {})
    assert found.result.margin == pytest.approx(0.6 * GIB)
    assert found.result.margin_from == "1% of the base's, the default on a GPU"
    assert found.result.outcome == outcome
    (found,) = compare_launch_costs(launches, Reading(alpha=0.05), {"peak_memory_bytes": GIB})
    assert (found.result.margin, found.result.outcome) == (GIB, "pass")
