"A million stamps in one run, a network that learns from them, and two Spark cores against one"

import os

import pytest

from dark_halo_scope.bench.endurance import bench_endurance


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_pace_memory_and_a_second_core() -> None:
    "25 GB for half an hour"
    figures = bench_endurance(n=1_000_000)
    long, spark = figures["endurance"], figures["spark"]
    assert long["stamps"] == 1_000_000 == figures["training"]["stamps"]
    assert abs(long["end_over_start_cpu"] - 1) < 0.15, "the pace by processor time changes"
    assert long["end_held_mb"] < 1.1 * long["start_held_mb"], "memory grows"
    assert figures["training"]["last_loss"] < figures["training"]["first_loss"]
    if spark["load"][0] < 1.0:  # with others at work there is no second core to be had
        assert spark["ratio"] >= 1.7
