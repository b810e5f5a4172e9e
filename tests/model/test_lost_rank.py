"""How the other ranks find the rank that ended first."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.distributed.ranks import Ranks
from model.runtime.lost_rank import lost_rank
from model.runtime.process import _outcome
from model.runtime.run_dir import RunDirectory
from model.system.failure import FEWER_ROWS, IN_ANOTHER_RANK
from model.trainer import Interrupted

OWN = Ranks(rank=0, count=3)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[list[RunDirectory]]:
    """Three ranks at work in one directory."""
    found = [RunDirectory(tmp_path / "run", rank=rank) for rank in range(3)]
    yield found
    for run in found:
        run.finish("interrupted")


def test_ranks_that_are_at_work_are_not_lost(runs: list[RunDirectory]) -> None:
    assert lost_rank(runs[0].root, OWN, wait_s=0.0) is None


def test_the_run_ends_as_the_rank_did_that_ended_first(runs: list[RunDirectory]) -> None:
    runs[1].finish("failed", "connection closed by peer", IN_ANOTHER_RANK)
    runs[2].finish("out_of_memory", "CUDA out of memory", FEWER_ROWS)
    lost = lost_rank(runs[0].root, OWN, wait_s=0.0)
    assert lost is not None
    assert (lost.status, lost.reason) == ("out_of_memory", "rank 2: CUDA out of memory")
    assert lost.hint == FEWER_ROWS


def test_a_rank_that_left_no_result_is_named(runs: list[RunDirectory]) -> None:
    runs[1].finish("failed", "connection closed by peer", IN_ANOTHER_RANK)
    runs[2].finish("failed", "a bug")
    (runs[2].path / "result.json").unlink()
    lost = lost_rank(runs[0].root, OWN, wait_s=0.0)
    assert lost is not None
    assert lost.status == "failed"
    assert lost.reason.startswith("rank 2 ended without a result")


def test_a_rank_that_stops_because_another_is_lost_reports_it(
    runs: list[RunDirectory],
) -> None:
    def interrupt() -> None:
        raise Interrupted("received SIGTERM")

    runs[1].finish("interrupted", "received SIGTERM")
    runs[2].finish("failed", "a bug")
    (runs[2].path / "result.json").unlink()
    assert _outcome(runs[0], OWN, interrupt) == 1
    end = json.loads((runs[0].path / "result.json").read_text())
    assert end["status"] == "failed"
    assert end["reason"].startswith("rank 2 ended without a result")
    assert end["reason"].endswith("(here: received SIGTERM)")


def test_ranks_that_all_receive_a_request_to_stop_are_interrupted(runs: list[RunDirectory]) -> None:
    def interrupt() -> None:
        raise Interrupted("received SIGTERM")

    runs[1].finish("interrupted", "received SIGTERM")
    assert _outcome(runs[0], OWN, interrupt) == 1
    end = json.loads((runs[0].path / "result.json").read_text())
    assert (end["status"], end["reason"]) == ("interrupted", "received SIGTERM")


def test_how_a_rank_ended_before_a_resumption_is_forgotten(tmp_path: Path) -> None:
    for rank in (1, 0):
        RunDirectory(tmp_path, rank=rank).finish("interrupted", "received SIGTERM")
    again = [RunDirectory(tmp_path, rank=rank, resume=True) for rank in range(2)]
    again[1].finish("failed", "a bug")
    lost = lost_rank(tmp_path, Ranks(rank=0, count=2), wait_s=0.0)
    again[0].finish("failed")
    assert lost is not None
    assert lost.reason == "rank 1: a bug"
