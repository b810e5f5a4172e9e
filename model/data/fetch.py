"""Downloads the files of a published data set, several at once, and records their hashes.

Files that exist are compared with their records and not requested again, so a prepared machine
needs no network. The first failed file stops the other downloads at their next block; partial files
remain, and the same command resumes them.
"""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from model.data.atomic import Progress, disk_errors, file_sha256
from model.data.download import RemoteFile, RetryPolicy, download
from model.data.downloaded import DownloadedFiles, FileRecord
from model.data.progress import Display, Tally, line_display
from model.data.published import Published
from model.data.settings import DataSettings
from model.errors import DataError

WORKERS = 4  # as nanochat; stays below the hub's rate limits
REFRESH_EVERY_S = 0.2


def fetch(
    published: Published,
    settings: DataSettings,
    progress: Progress,
    display: Display | None = None,
    retry: RetryPolicy | None = None,
) -> None:
    """Download every missing file of the settings and verify the others against their records.

    Raises DataError for a file that cannot be downloaded, differs from its record, or does not fit
    on the disk.
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
    files = [
        RemoteFile(name=name, url=f"{url}/{name}", downloaded_files=downloaded_files)
        for name in missing
    ]
    with (display or line_display(progress))(tally) as refresh:

        def update() -> None:
            while tally.notes:
                progress(tally.notes.popleft())
            refresh()

        _download_all(files, tally, retry or RetryPolicy(), update)


def _download_all(
    files: list[RemoteFile], tally: Tally, retry: RetryPolicy, update: Callable[[], None]
) -> None:
    """Download in threads; any exception stops them all."""
    stop = threading.Event()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="download") as pool:
        waiting = {pool.submit(download, each, tally, stop, retry) for each in files}
        try:
            while waiting:
                done, waiting = wait(waiting, REFRESH_EVERY_S, FIRST_COMPLETED)
                tally.files_done += sum(future.exception() is None for future in done)
                update()
                for future in done:
                    future.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _compare(downloaded_files: DownloadedFiles, names: list[str], progress: Progress) -> None:
    """Compare existing files with their records; files that the user copied have none."""
    records = {name: downloaded_files.record(name) for name in names}
    recorded = {name: record for name, record in records.items() if record is not None}
    if not recorded:
        return
    progress(f"comparing {len(recorded)} files with their record")
    with ThreadPoolExecutor(WORKERS) as pool:
        hashes = pool.map(file_sha256, map(downloaded_files.path, recorded))
        for (name, record), sha256 in zip(recorded.items(), hashes, strict=True):
            _require_recorded(downloaded_files.path(name), record, sha256)


def _require_recorded(path: Path, recorded: FileRecord, sha256: str) -> None:
    if sha256 != recorded.sha256:
        raise DataError(
            path=str(path),
            expected=f"SHA-256 {recorded.sha256} ({recorded.bytes:,} bytes), as downloaded",
            got=f"{sha256} ({path.stat().st_size:,} bytes)",
            hint="The file was changed or truncated. Delete it and re-run the same command.",
        )
