"""The CORE bundle: whether its tasks exist or can be downloaded.

Another bundle is another metric, so files are compared with the published hashes (20 MB to 90 MB,
about a second). Files of the user's folder that differ are parsed line by line. Standard library
only.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from model.config import Config, Core
from model.core.bundle import BASELINES, SETTINGS, Bundle
from model.core.fetch import HINT, NAME
from model.core.published import ARCHIVE, FOLDER_IN_ARCHIVE, SHA256, TASKS, URL
from model.data.atomic import file_sha256
from model.data.downloaded import DownloadedFiles
from model.diagnostics.finding import Finding, check, from_error, info
from model.diagnostics.requirements import connectivity
from model.errors import DataError

WHAT = "CORE bundle"
EXPECTED = f"the {len(TASKS)} published tasks in {len(SHA256)} files"


def findings(config: Config, cache: Path) -> Iterator[Finding]:
    """Nothing where CORE is off; with `max_per_task`, also whether enough items are left as
    shots."""
    if config.core is None:
        return
    try:
        yield _finding(config.core, cache)
        if config.core.max_per_task is not None:
            yield _cut(config.core, config.core.max_per_task)
    except DataError as error:
        yield from_error(WHAT, error)


def _cut(core: Core, most: int) -> Finding:
    tasks = TASKS if core.bundle is None else Bundle(Path(core.bundle).expanduser()).tasks
    largest = max(tasks, key=lambda task: task.shots)
    return check(
        "CORE examples",
        ok=most > largest.shots,
        expected=f"more than {largest.shots} a task, the shots of {largest.name}",
        got=f"at most {most} (core.max_per_task)",
        hint="Increase it, or set it to null for all examples.",
    )


def _finding(core: Core, cache: Path) -> Finding:
    if core.bundle is not None:
        return _given(Path(core.bundle).expanduser(), core)
    downloaded_files = DownloadedFiles(cache, NAME)
    folder = downloaded_files.folder / FOLDER_IN_ARCHIVE
    if (folder / SETTINGS).exists():
        return _downloaded(folder)
    return _archive(downloaded_files.path(ARCHIVE))


def _downloaded(folder: Path) -> Finding:
    modified = _modified(Bundle(folder))
    return check(
        WHAT,
        ok=not modified,
        expected=f"{EXPECTED}, as published",
        got=f"{folder}, {_listed(modified) if modified else 'as published'}",
        hint=f"Delete {folder} to extract the archive again. {HINT}",
    )


def _given(folder: Path, core: Core) -> Finding:
    """Raises DataError for a folder that an evaluation cannot read."""
    bundle = Bundle(folder)
    missing = [task.name for task in bundle.tasks if core.baselines not in task.baselines]
    if missing:
        return check(
            WHAT,
            ok=False,
            expected=f"baselines {core.baselines} of every task in {folder / BASELINES}",
            got=f"none of {missing[0]}",
            hint="Set core.baselines: v1, or leave core.bundle out for the published bundle.",
        )
    modified = _modified(bundle)
    for task in bundle.tasks:
        if task.file in modified or task.file not in SHA256:
            bundle.items(task)
    tasks = {(task.name, task.file, task.kind, task.shots) for task in bundle.tasks}
    own = tasks != {(task.name, task.file, task.kind, task.shots) for task in TASKS}
    difference = "different tasks" if own else _listed(modified)
    return check(
        WHAT,
        ok=not modified and not own,
        expected=f"{EXPECTED}, so that CORE is comparable with published results",
        got=f"{folder}, {difference if own or modified else 'as published'}",
        hint="Set core.bundle: null for the published one, or compare CORE only with this bundle.",
        otherwise="warning",
    )


def _archive(archive: Path) -> Finding:
    if archive.exists():
        return check(
            WHAT,
            ok=zipfile.is_zipfile(archive),
            expected=f"{EXPECTED}, or their archive",
            got=f"{archive}, {archive.stat().st_size:,} bytes, unpacked when the job starts",
            hint=f"The archive was truncated. Delete it to download it again. {HINT}",
        )
    refusal = connectivity.why_not(URL)
    if refusal is None:
        got = f"none yet; {URL} responds, and it is downloaded when the job starts"
        return info(WHAT, expected=EXPECTED, got=got)
    return check(
        WHAT,
        ok=False,
        expected=f"{EXPECTED}, on this machine or from {URL}",
        got=f"no local copy, and {refusal}",
        hint=HINT,
    )


def _modified(bundle: Bundle) -> set[str]:
    """Files that differ from the published ones."""
    files = {task.file: bundle.path(task) for task in bundle.tasks if task.file in SHA256}
    return {name for name, path in files.items() if file_sha256(path) != SHA256[name]}


def _listed(modified: set[str]) -> str:
    names = sorted(modified)
    return f"with other content than published in {len(names)} files ({names[0]})" if names else ""
