"""The loader: rows by step and rank, one step ahead, errors and threads that do not get lost."""

import threading

import pytest
import torch

from model.data.loader import Loader
from model.data.rows import PackedRows, RepeatedRows
from model.data.sources import TRAIN, VALIDATION
from model.errors import DataError


@pytest.fixture
def rows(python_docs):
    return python_docs.rows(TRAIN, 48)


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "loader"]


def test_step_k_takes_rows_k_times_b(rows):
    with Loader(rows, batch_rows=8) as loader:
        for step in range(6):
            batch = loader.next()
            assert batch.tokens.dtype == torch.int64
            assert batch.waited_s >= 0
            assert batch.tokens.tolist() == rows.tokens(8 * step, 8 * step + 8).tolist()


def test_repeated_rows_begin_again_after_the_last(rows):
    with Loader(RepeatedRows(rows, 24), batch_rows=8) as loader:
        for step in range(7):
            start = 8 * (step % 3)
            assert loader.next().tokens.tolist() == rows.tokens(start, start + 8).tolist()


def test_ranks_share_each_step_in_order(rows):
    with (
        Loader(rows, batch_rows=8, rank=0, ranks=2) as first,
        Loader(rows, batch_rows=8, rank=1, ranks=2) as second,
    ):
        for step in range(3):
            together = torch.cat((first.next().tokens, second.next().tokens))
            assert together.tolist() == rows.tokens(8 * step, 8 * step + 8).tolist()


def test_resumed_loader_continues_with_the_next_step(rows):
    with Loader(rows, batch_rows=6) as whole, Loader(rows, batch_rows=6, start_step=3) as resumed:
        for _ in range(3):
            whole.next()
        assert whole.next().tokens.tolist() == resumed.next().tokens.tolist()


def test_plan_without_rows_for_a_step_is_an_error_in_next(rows):
    with Loader(rows, batch_rows=20) as loader:
        loader.next()
        loader.next()
        with pytest.raises(DataError, match="60 planned rows for step 2; got 48"):
            loader.next()
    assert not loader_threads()


def test_error_in_the_thread_surfaces_in_next(python_docs, rows):
    """A plan of one split over the documents of another points outside them."""
    wrong = PackedRows(python_docs.documents(VALIDATION), rows.plan, rows.context_tokens)
    with Loader(wrong, batch_rows=48) as loader, pytest.raises(IndexError):
        loader.next()
    assert not loader_threads()


def test_closing_leaves_no_thread_whether_or_not_batches_wait(rows):
    idle = Loader(rows, batch_rows=4)
    idle.close()
    idle.close()
    used = Loader(rows, batch_rows=4, ahead=3)
    used.next()
    used.close()
    assert not loader_threads()


def test_batch_that_ranks_cannot_share_is_refused(rows):
    with pytest.raises(DataError, match="a batch that 3 ranks can share evenly; got 8 rows"):
        Loader(rows, batch_rows=8, rank=0, ranks=3)
    assert not loader_threads()
