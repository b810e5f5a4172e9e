"""Tests marked `slow` are skipped unless asked for with `-m slow`; each xdist worker has its cores.

Two processes whose torch uses the same two cores are ten times slower than one after the other
(LOG.md), so that workers share the machine's cores out among them, and so do the processes that
their tests start. Tests that share a fixture of many seconds go to one worker (`--dist loadgroup`).
"""

import os

import pytest

pytest_plugins = ["tests.fixtures.synthetic_study", "tests.fixtures.search_files"]
COSTLY = ("filled", "runs", "uninterrupted", "trained", "run", "talk", "recorded")
"""Fixtures of a module or a folder that take seconds to make."""


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ or not hasattr(os, "sched_setaffinity"):
        return
    worker = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[worker % len(cores) :: workers])


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            for fixture in (name for name in COSTLY if name in getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.xdist_group(fixture))
    if "slow" in config.getoption("-m"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))
