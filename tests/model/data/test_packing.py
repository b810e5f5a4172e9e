"""The packing plan against a slow reference, its growth, and its file."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data import packing
from model.errors import DataError

GROUPS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=300), min_size=1, max_size=4)


def reference_rows(
    groups: list[list[int]], capacity: int, rows: int
) -> list[list[tuple[int, int]]]:
    """Rows as (document, taken tokens), by scanning a list as the rule is worded."""
    batches, number = [], 0
    for lengths in groups:
        numbered = list(enumerate(lengths, start=number))
        number += len(lengths)
        batches += [numbered[at : at + 128] for at in range(0, len(numbered), 128)]
    packed, buffer, arrived = [], [], 0
    for _ in range(rows):
        row, room = [], capacity
        while room > 0:
            while len(buffer) < 1_000:
                buffer += batches[arrived % len(batches)]
                arrived += 1
            fitting = [length for _, length in buffer if length <= room]
            wanted = max(fitting) if fitting else min(length for _, length in buffer)
            place = next(at for at, (_, length) in enumerate(buffer) if length == wanted)
            document, length = buffer.pop(place)
            row.append((document, min(length, room)))
            room -= min(length, room)
        packed.append(row)
    return packed


def stream_of(groups: list[list[int]]) -> packing.Stream:
    lengths = np.array([length for group in groups for length in group], np.int64)
    return packing.file_order(lengths, [len(group) for group in groups])


def rows_of(plan: packing.Plan) -> list[list[tuple[int, int]]]:
    assert not plan.pieces[:, 1].any()
    return [
        [(int(document), int(length)) for document, _, length in plan.pieces[start:stop]]
        for start, stop in pairwise(plan.row_starts.tolist())
    ]


@given(groups=GROUPS, context=st.integers(1, 60), rows=st.integers(1, 40))
def test_plan_equals_the_slow_reference(groups, context, rows):
    plan = packing.extend(packing.empty_plan(), stream_of(groups), context, rows)
    assert rows_of(plan) == reference_rows(groups, context + 1, rows)


@given(groups=GROUPS, context=st.integers(1, 60), cut=st.integers(0, 30), more=st.integers(0, 30))
def test_extended_plan_equals_one_made_at_once(groups, context, cut, more):
    stream = stream_of(groups)
    short = packing.extend(packing.empty_plan(), stream, context, cut)
    grown = packing.extend(short, stream, context, cut + more)
    whole = packing.extend(packing.empty_plan(), stream, context, cut + more)
    assert rows_of(grown) == rows_of(whole)
    assert (grown.next_place, grown.lost_tokens) == (whole.next_place, whole.lost_tokens)
    assert grown.buffer.tolist() == whole.buffer.tolist()


@given(groups=GROUPS, context=st.integers(1, 60), rows=st.integers(1, 40))
def test_every_token_of_the_stream_is_kept_lost_or_waiting(groups, context, rows):
    stream = stream_of(groups)
    plan = packing.extend(packing.empty_plan(), stream, context, rows)
    taken = sum(int(stream.lengths[p % len(stream.order)]) for p in range(plan.next_place))
    waiting = sum(int(stream.lengths[p % len(stream.order)]) for p in plan.buffer)
    assert rows * (context + 1) + plan.lost_tokens + waiting == taken


def test_batches_end_at_128_documents_and_at_row_groups():
    stream = packing.file_order(np.ones(1_304, np.int64), [1_000, 304])
    assert stream.edges.tolist() == [*range(128, 1_000, 128), 1_000, 1_128, 1_256, 1_304]


def test_seed_order_is_a_permutation_that_the_seed_decides():
    lengths = np.arange(1, 501)
    one, again, two = (packing.seed_order(lengths, seed).order for seed in (1, 1, 2))
    assert sorted(one.tolist()) == list(range(500))
    assert one.tolist() == again.tolist()
    assert one.tolist() != two.tolist()
    assert packing.seed_order(lengths, 1).edges.tolist() == [128, 256, 384, 500]


def test_kept_plan_is_read_back_and_grows(tmp_path: Path):
    stream = stream_of([[5, 9, 3, 30, 12], [7, 7, 7]])
    first = packing.planned(tmp_path, stream, 15, 10)
    read = packing.planned(tmp_path, stream, 15, 4)
    grown = packing.planned(tmp_path, stream, 15, 25)
    assert rows_of(read) == rows_of(first)
    assert rows_of(grown)[:10] == rows_of(first)
    assert len(list(tmp_path.iterdir())) == 1


def test_plans_of_other_streams_or_contexts_have_files_of_their_own(tmp_path: Path):
    stream = stream_of([[5, 9, 3, 30, 12]])
    packing.planned(tmp_path, stream, 15, 3)
    packing.planned(tmp_path, stream, 16, 3)
    packing.planned(tmp_path, stream_of([[5, 9, 3], [30, 12]]), 15, 3)
    packing.planned(tmp_path, packing.seed_order(stream.lengths, 3), 15, 3)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("keep", [0, 5, 40, -3])
def test_cut_plan_file_is_refused_by_name(tmp_path: Path, keep: int):
    stream = stream_of([[5, 9, 3, 30, 12]])
    packing.planned(tmp_path, stream, 15, 10)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=path.name):
        packing.planned(tmp_path, stream, 15, 10)


def test_changed_plan_file_is_refused_with_both_hashes(tmp_path: Path):
    stream = stream_of([[5, 9, 3, 30, 12]])
    packing.planned(tmp_path, stream, 15, 10)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"SHA-256 [0-9a-f]{64}; got [0-9a-f]{64}"):
        packing.planned(tmp_path, stream, 15, 10)
