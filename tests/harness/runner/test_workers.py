"""The GPUs of one machine, and what is run on them."""

import time

import pytest

from harness.runner.workers import GpuPool


def pool(*gpus):
    return GpuPool(None, None, list(gpus), run_minutes=1)


@pytest.mark.parametrize("gpus", [("0",), ("0", "1")])
def test_after_a_failure_no_further_item_starts(gpus):
    started = []

    def work(item, gpu):
        started.append(item)
        time.sleep(0.02)
        raise RuntimeError(f"{item} failed")

    with pytest.raises(RuntimeError, match="0 failed"):
        pool(*gpus).spread(work, range(20))
    assert len(started) <= len(gpus)


def test_results_are_in_the_order_of_the_items():
    assert pool("0", "1").spread(lambda item, gpu: item * 2, range(5)) == [0, 2, 4, 6, 8]
