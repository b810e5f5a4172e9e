"""Brings the files of a published data set here, several at once, and keeps their record.

A file that is here already is compared with its record and never asked for again, so a prepared
machine needs no network. The first file that cannot be had ends the others at their next block;
what has arrived is kept, and the same command goes on from there.
"""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from model.data.atomic import Progress, disk_errors, file_sha256
from model.data.download import Patience, Wanted, download
from model.data.downloaded import DownloadedFiles, Recorded
from model.data.progress import Meter, Tally, in_lines
from model.data.published import Published
from model.data.settings import DataSettings
from model.errors import DataError

WORKERS = 4  # as nanochat: enough for a fast line, few enough for the hub's limits
TELL_EVERY_S = 0.2


def fetch(
    published: Published,
    settings: DataSettings,
    progress: Progress,
    meter: Meter | None = None,
    patience: Patience | None = None,
) -> None:
    """Make every file that the settings ask for be here, whole and as recorded.

    Raises DataError for one that cannot be had, is not what it was, or does not fit on the disk.
    """
    names = published.file_names(settings.train_files)
    downloaded_files = DownloadedFiles(settings.cache, published.name)
    with disk_errors(downloaded_files.folder):
        downloaded_files.folder.mkdir(parents=True, exist_ok=True)
    here = [name for name in names if downloaded_files.path(name).exists()]
    missing = [name for name in names if not downloaded_files.path(name).exists()]
    _compare(downloaded_files, here, progress)
    if not missing:
        return
    url = (settings.mirror or published.url).rstrip("/")
    progress(f"{published.name}: downloading {len(missing)} of {len(names)} files from {url}")
    tally = Tally(published.name, len(missing))
    wanted = [
        Wanted(name=name, url=f"{url}/{name}", downloaded_files=downloaded_files)
        for name in missing
    ]
    with (meter or in_lines(progress))(tally) as tell:

        def look() -> None:
            while tally.notes:
                progress(tally.notes.popleft())
            tell()

        _download_all(wanted, tally, patience or Patience(), look)


def _download_all(
    wanted: list[Wanted], tally: Tally, patience: Patience, look: Callable[[], None]
) -> None:
    """Download in threads; whatever ends the waiting ends the threads too."""
    stop = threading.Event()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="download") as pool:
        waiting = {pool.submit(download, each, tally, stop, patience) for each in wanted}
        try:
            while waiting:
                done, waiting = wait(waiting, TELL_EVERY_S, FIRST_COMPLETED)
                tally.files_done += sum(future.exception() is None for future in done)
                look()
                for future in done:
                    future.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _compare(downloaded_files: DownloadedFiles, names: list[str], progress: Progress) -> None:
    """Files that are here against their record; those put here by hand have none."""
    records = {name: downloaded_files.record(name) for name in names}
    recorded = {name: record for name, record in records.items() if record is not None}
    if not recorded:
        return
    progress(f"comparing {len(recorded)} files with their record")
    with ThreadPoolExecutor(WORKERS) as pool:
        hashes = pool.map(file_sha256, map(downloaded_files.path, recorded))
        for (name, record), sha256 in zip(recorded.items(), hashes, strict=True):
            _require_recorded(downloaded_files.path(name), record, sha256)


def _require_recorded(path: Path, recorded: Recorded, sha256: str) -> None:
    if sha256 != recorded.sha256:
        raise DataError(
            path=str(path),
            expected=f"SHA-256 {recorded.sha256} ({recorded.bytes:,} bytes), as downloaded",
            got=f"{sha256} ({path.stat().st_size:,} bytes)",
            hint="The file was changed or cut. Delete it, and run the same command again.",
        )
