"""Copies among replicates: equal numbers under different seeds.

A trainer that fixes or ignores its seed repeats one result, however often it is run. Such runs are
one replicate, not several, and their spread of zero is no measure of noise. Two runs of one known
seed may repeat each other rightfully and are no copies.
"""

from collections.abc import Hashable, Sequence

from harness.metrics import LOSSES
from harness.results.record import Record


def find_copies(numbers: Sequence[Hashable], seeds: Sequence[int | None]) -> dict[int, int]:
    """Index of each copy -> index of the first run with its numbers, under another seed.

    `numbers`: the result of each run; None where it does not identify a run. A seed of None is
    unknown and counts as another seed.
    """
    first: dict[Hashable, int] = {}
    copies: dict[int, int] = {}
    for index, (number, seed) in enumerate(zip(numbers, seeds, strict=True)):
        if number is None:
            continue
        known = first.setdefault(number, index)
        if known != index and (seed is None or seed != seeds[known]):
            copies[index] = known
    return copies


def copies_of_records(records: Sequence[Record]) -> dict[int, int]:
    """`find_copies` of records, by all losses that they have."""
    return find_copies([_losses(record) for record in records], [r.seed for r in records])


def without_copies(records: Sequence[Record]) -> list[Record]:
    """The records that are no copies of another one."""
    copies = copies_of_records(records)
    return [record for index, record in enumerate(records) if index not in copies]


def describe_copies(seeds: Sequence[int]) -> str:
    """'seeds 1, 2 and 3 have equal losses: copies, which count as one run'."""
    several = f"{', '.join(map(str, seeds[:-1]))} and {seeds[-1]}"
    return f"seeds {several} have equal losses: copies, which count as one run"


def copied_seeds(records: Sequence[Record]) -> list[list[int]]:
    """The seeds of each group of copies."""
    groups: dict[int, list[int]] = {}
    for index, first in copies_of_records(records).items():
        groups.setdefault(first, [records[first].seed]).append(records[index].seed)
    return list(groups.values())


def _losses(record: Record) -> Hashable:
    values = [(name, record.metrics.get(name)) for name in LOSSES]
    return tuple(values) if any(value is not None for _, value in values) else None
