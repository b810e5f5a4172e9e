"""Downloads from a real server that fails in every way: what arrives, what is refused, and why."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.data.download import RetryPolicy
from model.data.downloaded import DownloadedFiles, FileRecord
from model.data.fetch import WORKERS, fetch
from model.data.progress import Tally, line_display, progress_bar
from model.data.published import PUBLISHED
from model.data.settings import DataSettings
from model.errors import DataError

from .conftest import ROOT
from .hub import Hub, running

CLIMBMIX = PUBLISHED["climbmix"]
FIRST, SECOND, VALIDATION = "shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"
QUICK = RetryPolicy(attempts=3, first_pause_s=0.001)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as hub:
        for index, name in enumerate((FIRST, SECOND, "shard_00002.parquet", VALIDATION)):
            hub.files[name] = bytes([index]) * 10_000 + name.encode()
        yield hub


@pytest.fixture
def settings(tmp_path: Path, hub: Hub) -> DataSettings:
    return DataSettings(
        source="climbmix",
        train_files=2,
        vocab_size=300,
        context_tokens=32,
        validation_rows=4,
        mirror=hub.url + "/",
        cache_dir=str(tmp_path / "cache"),
    )


def download(settings: DataSettings, retry: RetryPolicy = QUICK) -> list[str]:
    """The lines that a download prints."""
    lines: list[str] = []
    fetch(CLIMBMIX, settings, lines.append, retry=retry)
    return lines


def here(settings: DataSettings) -> dict[str, bytes]:
    folder = settings.cache / "downloads" / "climbmix"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def requested_ranges(hub: Hub, name: str) -> list[str | None]:
    return [span for requested, span in hub.requests if requested == name]


def test_only_the_requested_files_and_validation_are_downloaded(hub, settings):
    lines = download(settings)
    names = [FIRST, SECOND, VALIDATION]
    assert here(settings) == {name: hub.files[name] for name in names}
    assert sorted(hub.requests) == [(name, None) for name in names]
    assert lines[0] == f"climbmix: downloading 3 of 3 files from {hub.url}"
    assert lines[-1] == "climbmix: 3 of 3 files, 0 of about 0 MB"
    recorded = DownloadedFiles(settings.cache, "climbmix").record(FIRST)
    assert recorded == FileRecord(
        bytes=len(hub.files[FIRST]),
        sha256=hashlib.sha256(hub.files[FIRST]).hexdigest(),
        published=True,
    )


def test_existing_files_are_not_requested_again_and_more_can_be_added(hub, settings):
    download(settings)
    hub.requests.clear()
    assert download(settings) == ["comparing 3 files with their record"]
    assert hub.requests == []
    more = {**vars(settings), "train_files": 3}
    download(DataSettings(**more))
    assert hub.requests == [("shard_00002.parquet", None)]


@pytest.mark.parametrize("plain", [False, True], ids=["hub", "plain mirror"])
def test_truncated_body_is_resumed_at_the_cut(hub, settings, plain):
    hub.plain, hub.faults = plain, {SECOND: ["cut", "cut"]}
    lines = download(settings)
    size = len(hub.files[SECOND])
    half, quarter = size // 2, size // 2 + (size - size // 2) // 2
    assert requested_ranges(hub, SECOND) == [None, f"bytes={half}-", f"bytes={quarter}-"]
    assert here(settings)[SECOND] == hub.files[SECOND]
    assert any(f"{SECOND}: cut off after {half:,} of {size:,} bytes" in line for line in lines)


def test_later_command_resumes_the_partial_files_of_an_earlier_one(hub, settings):
    hub.faults = {FIRST: ["cut"]}
    with pytest.raises(DataError, match="within 1 attempts; got cut off after"):
        download(settings, RetryPolicy(attempts=1))
    half = len(hub.files[FIRST]) // 2
    assert DownloadedFiles(settings.cache, "climbmix").partial_bytes(FIRST) == half
    download(settings)
    assert requested_ranges(hub, FIRST) == [None, f"bytes={half}-"]
    assert here(settings) == {name: hub.files[name] for name in (FIRST, SECOND, VALIDATION)}


@pytest.mark.parametrize("plain", [False, True], ids=["hub", "plain mirror"])
def test_parts_of_two_versions_are_never_joined(hub, settings, plain):
    hub.plain, hub.faults = plain, {FIRST: ["cut"]}
    with pytest.raises(DataError):
        download(settings, RetryPolicy(attempts=1))
    hub.files[FIRST] = b"another version".ljust(len(hub.files[FIRST]))
    download(settings)
    assert here(settings)[FIRST] == hub.files[FIRST]


def test_partial_file_of_an_unnamed_version_is_not_resumed(hub, settings):
    hub.plain, hub.etags, hub.faults = True, False, {FIRST: ["cut"]}
    with pytest.raises(DataError):
        download(settings, RetryPolicy(attempts=1))
    hub.files[FIRST] = b"another version".ljust(len(hub.files[FIRST]))
    download(settings)
    assert requested_ranges(hub, FIRST) == [None, None]
    assert here(settings)[FIRST] == hub.files[FIRST]


def test_partial_file_longer_than_the_file_is_discarded(hub, settings):
    hub.faults = {FIRST: ["cut"]}
    with pytest.raises(DataError):
        download(settings, RetryPolicy(attempts=1))
    hub.files[FIRST], hub.faults = b"short", {FIRST: ["416"]}
    download(settings)
    assert here(settings)[FIRST] == b"short"


def test_server_that_cannot_resume_is_read_from_the_beginning(hub, settings):
    hub.ranges, hub.faults = False, {FIRST: ["cut"]}
    download(settings)
    assert here(settings)[FIRST] == hub.files[FIRST]


@pytest.mark.parametrize("status", ["429", "500", "503"])
def test_request_to_a_busy_server_is_retried(hub, settings, status):
    hub.faults = {FIRST: [status, status]}
    lines = download(settings)
    assert requested_ranges(hub, FIRST) == [None] * 3
    assert any(f"{FIRST}: HTTP {status}" in line for line in lines)


def test_pauses_double_up_to_the_longest_and_follow_the_server():
    retry = RetryPolicy(first_pause_s=1.0, longest_pause_s=5.0)
    assert [retry.pause_s(attempt, None) for attempt in range(4)] == [1.0, 2.0, 4.0, 5.0]
    assert retry.pause_s(0, 3.0) == 3.0
    assert retry.pause_s(0, 3_600.0) == 5.0


def test_error_for_a_server_that_stays_down_names_the_folder_for_the_file(hub, settings):
    hub.faults = {FIRST: ["503"] * 3}
    with pytest.raises(DataError) as caught:
        download(settings)
    error = caught.value
    assert error.path == f"{hub.url}/{FIRST}"
    assert error.expected == f"{FIRST} within 3 attempts"
    assert error.got.startswith("HTTP 503")
    assert f"put {FIRST}" in error.hint
    assert f"into {settings.cache / 'downloads' / 'climbmix'}." in error.hint


def test_without_network_the_error_names_the_connection(hub, settings):
    nowhere = DataSettings(**{**vars(settings), "mirror": "http://127.0.0.1:9"})
    with pytest.raises(DataError, match=r"got no connection \(.*refused.*put shard_"):
        download(nowhere)


def test_files_copied_by_the_user_need_no_network(hub, settings):
    download(settings)
    records = settings.cache / "downloads" / "climbmix" / "records"
    shutil.rmtree(records)
    download(DataSettings(**{**vars(settings), "mirror": "http://127.0.0.1:9"}))
    assert not records.exists()


def test_missing_file_is_an_error_without_a_retry(hub, settings):
    del hub.files[SECOND]
    with pytest.raises(DataError, match=rf"{SECOND}: expected {SECOND}; got HTTP 404"):
        download(settings)


@pytest.mark.parametrize("fault", ["page", "unnamed page"])
def test_web_page_of_a_proxy_is_refused_and_not_kept(hub, settings, fault):
    hub.faults = {FIRST: ["cut", fault]}
    with pytest.raises(DataError, match="got a web page, probably of a proxy"):
        download(settings)
    assert FIRST not in here(settings)
    assert (
        DownloadedFiles(settings.cache, "climbmix").partial_bytes(FIRST)
        == len(hub.files[FIRST]) // 2
    )


def test_damage_in_transit_is_found_by_the_published_hash_and_downloaded_again(hub, settings):
    hub.faults = {FIRST: ["flipped"]}
    lines = download(settings)
    assert here(settings)[FIRST] == hub.files[FIRST]
    assert any(f"{FIRST}: SHA-256" in line and "in place of" in line for line in lines)


def test_file_that_is_always_damaged_is_refused_and_not_kept(hub, settings):
    hub.faults = {FIRST: ["flipped"] * 3}
    with pytest.raises(DataError, match=r"got SHA-256 .* in place of"):
        download(settings)
    assert FIRST not in here(settings)


def test_file_of_another_size_than_published_is_refused(hub, settings):
    hub.faults = {FIRST: ["", "longer", "longer", "longer", "longer"]}
    with pytest.raises(DataError, match=r"got (cut off after|HTTP 416)"):
        download(settings)
    assert FIRST not in here(settings)


def test_file_changed_after_its_download_is_refused_until_it_is_deleted(hub, settings):
    download(settings)
    path = settings.cache / "downloads" / "climbmix" / SECOND
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=rf"{SECOND}: expected SHA-256 .* Delete it"):
        download(settings)
    path.unlink()
    download(settings)
    assert here(settings)[SECOND] == hub.files[SECOND]


@pytest.mark.parametrize("plain", [False, True], ids=["hub", "plain mirror"])
def test_file_that_the_publisher_changed_is_refused(hub, settings, plain):
    hub.plain = plain
    download(settings)
    (settings.cache / "downloads" / "climbmix" / SECOND).unlink()
    hub.requests.clear()
    hub.files[SECOND] = b"new".ljust(10_000)
    with pytest.raises(DataError, match=hashlib.sha256(hub.files[SECOND]).hexdigest()):
        download(settings)
    assert SECOND not in here(settings)


def test_first_failure_ends_the_others_and_keeps_what_arrived_with_its_record(hub, settings):
    names = CLIMBMIX.file_names(500)
    hub.files.update({name: b"text" for name in names if name != names[9]})
    with pytest.raises(DataError, match="HTTP 404"):
        download(DataSettings(**{**vars(settings), "train_files": 500}))
    arrived = [name for name in here(settings) if not name.startswith(".")]
    assert len(arrived) >= 9 - WORKERS + 1
    assert len(hub.requests) < 500
    downloaded_files = DownloadedFiles(settings.cache, "climbmix")
    assert all(downloaded_files.record(name) is not None for name in arrived)


def test_damaged_record_is_an_error_with_a_hint(hub, settings):
    download(settings)
    DownloadedFiles(settings.cache, "climbmix").record_path(FIRST).write_text('{"bytes": 3}')
    with pytest.raises(DataError, match=rf"{FIRST}\.json: expected size .* Delete the record"):
        download(settings)


def test_read_only_folder_is_an_error_with_a_hint(hub, settings):
    settings.cache.mkdir()
    (settings.cache / "downloads").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"a folder that can be written; .* Set data\.cache_dir"):
        download(settings)


def test_full_disk_is_an_error_and_the_same_command_resumes(hub, settings):
    """A limit on file sizes fails a write as a full disk does."""
    script = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))\n"
        "from model.data.fetch import fetch\n"
        "from model.data.published import PUBLISHED\n"
        "from model.data.settings import DataSettings\n"
        "from model.errors import DataError\n"
        "try:\n"
        f"    fetch(PUBLISHED['climbmix'], {settings!r}, lambda line: None)\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "disk space for" in done.stdout
    assert here(settings).keys().isdisjoint({FIRST, SECOND, VALIDATION})
    download(settings)
    assert here(settings)[FIRST] == hub.files[FIRST]


def test_more_files_than_published_and_a_whole_disk_of_them_are_refused(settings):
    with pytest.raises(DataError, match=r"train_files: expected at most 6,542 .* got 6543"):
        CLIMBMIX.file_names(6_543)
    with pytest.raises(DataError, match=r"train_files: expected how many of the 6,542 .* got null"):
        CLIMBMIX.file_names(None)
    names = PUBLISHED["fineweb10B"].file_names(None)
    assert len(names) == 104
    assert (names[0], names[-2:]) == (
        "fineweb_train_000001.bin",
        ("fineweb_train_000103.bin", "fineweb_val_000000.bin"),
    )


def test_mirror_that_is_no_address_is_refused(settings):
    with pytest.raises(DataError, match=r"data\.mirror: .* give their folder as data\.source"):
        DataSettings(**{**vars(settings), "mirror": "/mnt/shards"})


def test_lines_come_every_ten_seconds_and_at_the_end():
    clock, lines = iter([0.0, 5.0, 12.0, 12.0, 13.0]), []
    tally = Tally("climbmix", 4)
    tally.expect("a", 80_000_000)
    with line_display(lines.append, lambda: next(clock))(tally) as refresh:
        tally.receive("a", 20_000_000)
        refresh()
        refresh()
        tally.receive("a", 40_000_000)
        refresh()
    assert lines == [
        "climbmix: 0 of 4 files, 20 of about 320 MB",
        "climbmix: 0 of 4 files, 40 of about 320 MB",
    ]


def test_bar_shows_files_and_bytes(capsys):
    tally = Tally("climbmix", 2)
    with progress_bar(tally) as refresh:
        tally.expect("a", 500_000)
        tally.receive("a", 500_000)
        tally.files_done = 1
        refresh()
    captured = capsys.readouterr()
    assert "climbmix  1/2 files" in captured.err
    assert "0.5/1.0 MB" in captured.err
    assert captured.out == ""
