"""The CORE bundle: the tasks of the metric, here or to be had.

CORE of another bundle is another metric, so the files are compared with the published ones by hash
(20 MB to 90 MB, a moment). A folder that was given is read line by line where it differs: it may be
somebody's own, and then has to be whole. Standard library only.
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
from model.diagnostics.finding import Finding, judged, of_error, told
from model.diagnostics.requirements import connectivity as reach
from model.errors import DataError

WHAT = "CORE bundle"
EXPECTED = f"the {len(TASKS)} published tasks in {len(SHA256)} files"


def findings(config: Config, cache: Path) -> Iterator[Finding]:
    """None where the metric is not asked for; of a cut one, whether enough is left to be shots."""
    if config.core is None:
        return
    try:
        yield _looked_at(config.core, cache)
        if config.core.max_per_task is not None:
            yield _cut(config.core, config.core.max_per_task)
    except DataError as error:
        yield of_error(WHAT, error)


def _cut(core: Core, most: int) -> Finding:
    tasks = TASKS if core.bundle is None else Bundle(Path(core.bundle).expanduser()).tasks
    greedy = max(tasks, key=lambda task: task.shots)
    return judged(
        "CORE examples",
        ok=most > greedy.shots,
        expected=f"more than {greedy.shots} a task, the shots of {greedy.name}",
        got=f"at most {most} (core.max_per_task)",
        hint="Raise it, or set it to null for all examples.",
    )


def _looked_at(core: Core, cache: Path) -> Finding:
    if core.bundle is not None:
        return _given(Path(core.bundle).expanduser(), core)
    downloaded_files = DownloadedFiles(cache, NAME)
    folder = downloaded_files.folder / FOLDER_IN_ARCHIVE
    if (folder / SETTINGS).exists():
        return _downloaded(folder)
    return _to_be_had(downloaded_files.path(ARCHIVE))


def _downloaded(folder: Path) -> Finding:
    foreign = _foreign(Bundle(folder))
    return judged(
        WHAT,
        ok=not foreign,
        expected=f"{EXPECTED}, as published",
        got=f"{folder}, {_listed(foreign) if foreign else 'as published'}",
        hint=f"Delete {folder}: it is made again from the archive. {HINT}",
    )


def _given(folder: Path, core: Core) -> Finding:
    """Raises DataError for a folder that no evaluation could read."""
    bundle = Bundle(folder)
    lacking = [task.name for task in bundle.tasks if core.baselines not in task.baselines]
    if lacking:
        return judged(
            WHAT,
            ok=False,
            expected=f"baselines {core.baselines} of every task in {folder / BASELINES}",
            got=f"none of {lacking[0]}",
            hint="Set core.baselines: v1, or leave core.bundle out for the published bundle.",
        )
    foreign = _foreign(bundle)
    for task in bundle.tasks:
        if task.file in foreign or task.file not in SHA256:
            bundle.items(task)
    tasks = {(task.name, task.file, task.kind, task.shots) for task in bundle.tasks}
    own = tasks != {(task.name, task.file, task.kind, task.shots) for task in TASKS}
    difference = "tasks of its own" if own else _listed(foreign)
    return judged(
        WHAT,
        ok=not foreign and not own,
        expected=f"{EXPECTED}, so that CORE is the metric that others report",
        got=f"{folder}, {difference if own or foreign else 'as published'}",
        hint="Set core.bundle: null for the published one, or compare CORE with your own only.",
        otherwise="warning",
    )


def _to_be_had(archive: Path) -> Finding:
    if archive.exists():
        return judged(
            WHAT,
            ok=zipfile.is_zipfile(archive),
            expected=f"{EXPECTED}, or their archive",
            got=f"{archive}, {archive.stat().st_size:,} bytes, unpacked when the job starts",
            hint=f"The archive was cut. Delete it to download it again. {HINT}",
        )
    refusal = reach.why_not(URL)
    if refusal is None:
        got = f"none yet; {URL} answers, and it is downloaded when the job starts"
        return told(WHAT, expected=EXPECTED, got=got)
    return judged(
        WHAT,
        ok=False,
        expected=f"{EXPECTED}, here or from {URL}",
        got=f"none here, and {refusal}",
        hint=HINT,
    )


def _foreign(bundle: Bundle) -> set[str]:
    """Files whose content is not the published one."""
    files = {task.file: bundle.path(task) for task in bundle.tasks if task.file in SHA256}
    return {name for name, path in files.items() if file_sha256(path) != SHA256[name]}


def _listed(foreign: set[str]) -> str:
    names = sorted(foreign)
    return f"with other content than published in {len(names)} files ({names[0]})" if names else ""
