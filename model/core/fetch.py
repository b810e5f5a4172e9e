"""The published CORE bundle, brought here once and checked file by file.

nanochat's archive is downloaded (model/data/download.py) and the 21 files of the 22 tasks are taken
out of it, each compared with its published SHA-256; settings and baselines are written from the
table in `published`, which has both tables of baselines. So the bundle is the same wherever and
whenever it was brought. No torch.
"""

import csv
import hashlib
import io
import json
import threading
import zipfile
from pathlib import Path

from model.core.bundle import BASELINE_COLUMNS, BASELINES, DATA, SETTINGS
from model.core.published import ARCHIVE, FOLDER_IN_ARCHIVE, SHA256, TASKS, URL
from model.data.atomic import Progress, exclusive, replacing
from model.data.download import Patience, Wanted, download
from model.data.downloaded import DownloadedFiles
from model.data.progress import Tally, in_lines
from model.errors import DataError

NAME = "core"
OTHERWISE = "Set core.bundle to a folder that has it (core.yaml, eval_meta_data.csv, eval_data/)."


def published_bundle(
    cache: Path, told: Progress, url: str = URL, patience: Patience | None = None
) -> Path:
    """The folder of the published bundle. Raises DataError where it cannot be had."""
    downloaded_files = DownloadedFiles(cache, NAME)
    folder = downloaded_files.folder / FOLDER_IN_ARCHIVE
    with exclusive(downloaded_files.folder, told):
        if not (folder / SETTINGS).exists():  # written last
            if not downloaded_files.path(ARCHIVE).exists():
                _download(downloaded_files, told, url, patience or Patience())
            _unpack(downloaded_files.path(ARCHIVE), folder)
            _describe(folder)
            told(f"CORE: {len(SHA256)} files of the published bundle, as published")
    return folder


def _download(
    downloaded_files: DownloadedFiles, told: Progress, url: str, patience: Patience
) -> None:
    told(f"CORE: downloading the published bundle from {url}")
    tally = Tally(NAME, 1)
    with in_lines(told)(tally):
        try:
            wanted = Wanted(name=ARCHIVE, url=url, downloaded_files=downloaded_files)
            download(wanted, tally, threading.Event(), patience)
        except DataError as error:
            raise DataError(
                path="core.bundle", expected=error.expected, got=error.got, hint=OTHERWISE
            ) from error


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            for name, sha256 in SHA256.items():
                content = opened.read(f"{FOLDER_IN_ARCHIVE}/{DATA}/{name}")
                _require_published(archive, name, sha256, hashlib.sha256(content).hexdigest())
                with replacing(folder / DATA / name) as file:
                    file.write(content)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise _not_the_bundle(
            archive, f"an archive with {len(SHA256)} files", str(error)
        ) from error


def _require_published(archive: Path, name: str, expected: str, got: str) -> None:
    if got != expected:
        raise _not_the_bundle(archive, f"{name} of SHA-256 {expected}", got)


def _not_the_bundle(archive: Path, expected: str, got: str) -> DataError:
    hint = f"Delete it to download it again. {OTHERWISE}"
    return DataError(path=str(archive), expected=expected, got=got, hint=hint)


def _describe(folder: Path) -> None:
    """The table of tasks in nanochat's layout: baselines, then settings (JSON is YAML too)."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(["Eval Task", *BASELINE_COLUMNS.values()])
    for task in TASKS:
        lines.writerow([task.name, *(100 * task.baselines[table] for table in BASELINE_COLUMNS)])
    with replacing(folder / BASELINES) as file:
        file.write(text.getvalue().encode())
    listed = [
        {
            "label": task.name,
            "dataset_uri": task.file,
            "num_fewshot": [task.shots],
            "icl_task_type": task.kind,
            "continuation_delimiter": task.delimiter,
        }
        for task in TASKS
    ]
    with replacing(folder / SETTINGS) as file:
        file.write(json.dumps({"icl_tasks": listed}, indent=1).encode())
