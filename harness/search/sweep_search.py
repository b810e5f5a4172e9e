"""Fills a study's retune sweep by a search, where a grid would be too coarse.

The untuned arm, with its pinned values, is the base of a search over the fields of its `retune`, on
the first of the sweep's seeds. The best points become the sweep: they run on all of its seeds, and
the best mean is chosen as from any grid. The study runner receives `fill` as a callable.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from harness.config.search_file import (
    EXAMPLE,
    BudgetFile,
    ConfirmFile,
    DimensionFile,
    SearchFile,
    check,
)
from harness.config.study_file import RetuneFile, StudyFile
from harness.errors import StudyFileError
from harness.results.store import Store
from harness.results.study_plan import Arm, ResolvedStudy
from harness.search.engine import SearchEngine, SearchListener, SearchOptions
from harness.study import sweep
from harness.study.executor import Command, StudyOptions


def fill(
    listener: SearchListener,
    file: StudyFile,
    path: Path,
    store: Store,
    planned: ResolvedStudy,
    options: StudyOptions,
    command: Command,
) -> bool:
    """Runs the search of every sweep with a `space`; returns whether any was filled now.

    Raises StopStudy at a limit, StudyFileError for an invalid space, and the errors of a search.
    """
    filled = False
    for trick, grid in file.arms.retune.items():
        name = sweep.search_name(file.study, trick)
        if not grid.space or store.found_settings(name):
            continue
        arm = next(arm for arm in planned.arms if arm.trick == trick and arm.role != "retune")
        search = search_file(file, name, grid, arm, _where(path, trick))
        check(search, _where(path, trick))
        search_options = SearchOptions(max_minutes=options.max_minutes, gpus=options.gpus)
        engine = SearchEngine(search, path, store, search_options, listener, command)
        store.save_settings(name, engine.best_points(grid.best))
        filled = True
    return filled


def _where(path: Path, trick: str) -> Callable[[str], str]:
    return lambda field: f"{path}: arms.retune.{trick}.{field}"


def search_file(
    file: StudyFile, name: str, grid: RetuneFile, arm: Arm, where: Callable[[str], str]
) -> SearchFile:
    """The search that fills the sweep of an arm. Raises StudyFileError."""
    pinned = {path: pin.base for path, pin in arm.pinned.items()}
    assert arm.base is not None, f"{arm.name} has no base file"
    try:
        space = {path: msgspec.convert(one, DimensionFile) for path, one in grid.space.items()}
    except msgspec.ValidationError as error:
        expected = f"for each field a range such as {EXAMPLE}"
        hint = "Write it as in a search file; docs/search.md has an example."
        raise StudyFileError(where("space"), expected, str(error), hint) from None
    return SearchFile(
        search=name,
        question=f"Which settings are best for {arm.name}?",
        trainer=file.trainer,
        base=arm.base,
        set={**arm.set, **pinned},
        pin=file.pin,
        space=space,
        budget=BudgetFile(trials=grid.trials),
        seed=grid.seeds[0],
        base_seeds=grid.seeds,
        confirm=ConfirmFile(best=0),
        limits=msgspec.structs.replace(file.limits, total_minutes=None),
    )
