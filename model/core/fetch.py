"""Downloads the published CORE bundle once and checks every file.

Downloads nanochat's archive (model/data/download.py) and extracts the 21 files of the 22 tasks,
comparing each with its published SHA-256. Settings and baselines are written from the table in
`published`, which has both tables of baselines. The bundle is therefore always the same. No torch.
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
from model.data.download import RemoteFile, RetryPolicy, download
from model.data.downloaded import DownloadedFiles
from model.data.progress import Tally, line_display
from model.errors import DataError

NAME = "core"
HINT = "Set core.bundle to a folder that has it (core.yaml, eval_meta_data.csv, eval_data/)."


def published_bundle(
    cache: Path, progress: Progress, url: str = URL, retry: RetryPolicy | None = None
) -> Path:
    """The folder of the published bundle. Raises DataError where it cannot be downloaded."""
    downloaded_files = DownloadedFiles(cache, NAME)
    folder = downloaded_files.folder / FOLDER_IN_ARCHIVE
    with exclusive(downloaded_files.folder, progress):
        if not (folder / SETTINGS).exists():  # written last
            if not downloaded_files.path(ARCHIVE).exists():
                _download(downloaded_files, progress, url, retry or RetryPolicy())
            _unpack(downloaded_files.path(ARCHIVE), folder)
            _describe(folder)
            progress(f"CORE: {len(SHA256)} files of the published bundle, as published")
    return folder


def _download(
    downloaded_files: DownloadedFiles, progress: Progress, url: str, retry: RetryPolicy
) -> None:
    progress(f"CORE: downloading the published bundle from {url}")
    tally = Tally(NAME, 1)
    with line_display(progress)(tally):
        try:
            remote = RemoteFile(name=ARCHIVE, url=url, downloaded_files=downloaded_files)
            download(remote, tally, threading.Event(), retry)
        except DataError as error:
            raise DataError(
                path="core.bundle", expected=error.expected, got=error.got, hint=HINT
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
        raise _wrong_archive(archive, f"an archive with {len(SHA256)} files", str(error)) from error


def _require_published(archive: Path, name: str, expected: str, got: str) -> None:
    if got != expected:
        raise _wrong_archive(archive, f"{name} of SHA-256 {expected}", got)


def _wrong_archive(archive: Path, expected: str, got: str) -> DataError:
    hint = f"Delete it to download it again. {HINT}"
    return DataError(path=str(archive), expected=expected, got=got, hint=hint)


def _describe(folder: Path) -> None:
    """Write the table of tasks in nanochat's layout: baselines, then settings (JSON is YAML
    too)."""
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
