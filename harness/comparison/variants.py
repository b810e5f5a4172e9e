"""Whether a side is one variant: one configuration, one length and one code.

Runs of different code are no replicates, whatever folder they share. A side of several variants is
refused with the first lines in which their sources differ, and with what to pass instead.
"""

import fnmatch
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.comparison.comparability import Runs
from harness.format import plural
from harness.results.logs.run_log import LogError, LoggedRun
from harness.results.logs.source_code import CanonicalSource, canonical, first_difference

MAX_VARIANTS, MAX_FILES, MAX_CHARACTERS = 6, 20, 90


def check_one_variant(name: str, side: Runs) -> None:
    """Raises LogError, with the variants, unless the runs of a side are of one variant."""
    codes = _codes(side)
    keys = [
        (run.config_id, run.planned_steps, codes[index].lines if codes else None)
        for index, run in enumerate(side)
    ]
    variants: dict[object, list[LoggedRun]] = {}
    for key, run in zip(keys, side, strict=True):
        variants.setdefault(key, []).append(run)
    if len(variants) < 2:
        return
    groups = list(variants.values())
    raise LogError(
        f"side {name}",
        f"replicates of one {'code' if len(set(codes)) > 1 else 'configuration'}",
        _listing(groups) + _differing(codes),
        "Pass the runs of one variant on each side.",
    )


def _codes(side: Runs) -> list[CanonicalSource]:
    """The canonical source of each run; empty where all are equal, or some run has none."""
    sources = [run.source_code for run in side]
    if len(set(sources)) < 2:
        return []
    texts = [source for source in sources if source is not None]
    return [canonical(text) for text in texts] if len(texts) == len(sources) else []


def _listing(variants: Sequence[Sequence[LoggedRun]]) -> str:
    lines = [f"{len(variants)} variants:"]
    for runs in variants[:MAX_VARIANTS]:
        steps = runs[0].planned_steps
        length = f" of {steps:,} steps" if steps else ""
        lines.append(f"  {plural(len(runs), 'run')}{length}: {_to_pass(runs, variants)}")
    if len(variants) > MAX_VARIANTS:
        lines.append(f"  and {len(variants) - MAX_VARIANTS} more")
    return "\n".join(lines)


def _to_pass(runs: Sequence[LoggedRun], variants: Sequence[Sequence[LoggedRun]]) -> str:
    """The folder or the pattern that has these runs and no others, or else their files."""
    own = [Path(run.source) for run in runs]
    others = [Path(run.source) for group in variants if group is not runs for run in group]
    folders = {path.parent for path in own}
    if len(folders) == 1 and all(folders.isdisjoint(path.parents) for path in others):
        return shlex.quote(str(folders.pop()))
    if len(folders) == 1 and (pattern := _pattern(own, others)):
        return f"{shlex.quote(str(folders.pop()))}/{pattern}"
    names = [shlex.quote(str(path)) for path in own]
    more = f" and {len(names) - MAX_FILES} more" if len(names) > MAX_FILES else ""
    return " ".join(names[:MAX_FILES]) + more


def _pattern(own: Sequence[Path], others: Sequence[Path]) -> str | None:
    """`start*end` of the names, if no other file matches it."""
    names = [path.name for path in own]
    start = _common_start(names)
    end = _common_start([name[len(start) :][::-1] for name in names])[::-1]
    if len(names) == 1 or shlex.quote(start + end) != start + end:
        return None
    pattern = f"{start}*{end}"
    foreign = any(fnmatch.fnmatchcase(path.name, pattern) for path in others)
    return None if foreign else pattern


def _common_start(names: Sequence[str]) -> str:
    """The characters with which all names start."""
    columns = zip(*names, strict=False)
    same = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    return "".join(column[0] for column in same)


def _differing(codes: Sequence[CanonicalSource]) -> str:
    """The first lines in which two sources differ, and how they were compared."""
    distinct = list(dict.fromkeys(codes))
    if len(distinct) < 2:
        return "\nThey differ in configuration or length"
    one, other = (
        repr(line if len(line) <= MAX_CHARACTERS else f"{line[:MAX_CHARACTERS]}…")
        for line in first_difference(distinct[0].lines, distinct[1].lines)
    )
    by_line = "" if all(code.parsed for code in distinct) else " (compared line by line)"
    return f"\nTheir sources differ first in {one} against {other}{by_line}"
