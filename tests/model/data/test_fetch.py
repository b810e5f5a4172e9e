"""Downloads from a real server that fails in every way: what arrives, what is refused, and why."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.data.download import Patience
from model.data.downloaded import DownloadedFiles, Recorded
from model.data.fetch import WORKERS, fetch
from model.data.progress import Tally, bar, in_lines
from model.data.published import PUBLISHED
from model.data.settings import DataSettings
from model.errors import DataError

from .conftest import ROOT
from .hub import Hub, running

CLIMBMIX = PUBLISHED["climbmix"]
FIRST, SECOND, VALIDATION = "shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"
QUICK = Patience(attempts=3, first_pause_s=0.001)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as hub:
        for index, name in enumerate((FIRST, SECOND, "shard_00002.parquet", VALIDATION)):
            hub.files[name] = bytes([index]) * 10_000 + name.encode()
        yield hub


@pytest.fixture
def wanted(tmp_path: Path, hub: Hub) -> DataSettings:
    return DataSettings(
        source="climbmix",
        train_files=2,
        vocab_size=300,
        context_tokens=32,
        validation_rows=4,
        mirror=hub.url + "/",
        cache_dir=str(tmp_path / "cache"),
    )


def bring(wanted: DataSettings, patience: Patience = QUICK) -> list[str]:
    """The lines that a download tells."""
    lines: list[str] = []
    fetch(CLIMBMIX, wanted, lines.append, patience=patience)
    return lines


def here(wanted: DataSettings) -> dict[str, bytes]:
    folder = wanted.cache / "downloads" / "climbmix"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def asked(hub: Hub, name: str) -> list[str | None]:
    return [span for requested, span in hub.requests if requested == name]


def test_only_the_files_asked_for_and_validation_are_downloaded(hub, wanted):
    lines = bring(wanted)
    names = [FIRST, SECOND, VALIDATION]
    assert here(wanted) == {name: hub.files[name] for name in names}
    assert sorted(hub.requests) == [(name, None) for name in names]
    assert lines[0] == f"climbmix: downloading 3 of 3 files from {hub.url}"
    assert lines[-1] == "climbmix: 3 of 3 files, 0 of about 0 MB"
    recorded = DownloadedFiles(wanted.cache, "climbmix").record(FIRST)
    assert recorded == Recorded(
        bytes=len(hub.files[FIRST]),
        sha256=hashlib.sha256(hub.files[FIRST]).hexdigest(),
        published=True,
    )


def test_nothing_is_asked_for_again_and_more_files_are_added(hub, wanted):
    bring(wanted)
    hub.requests.clear()
    assert bring(wanted) == ["comparing 3 files with their record"]
    assert hub.requests == []
    more = {**vars(wanted), "train_files": 3}
    bring(DataSettings(**more))
    assert hub.requests == [("shard_00002.parquet", None)]


@pytest.mark.parametrize("plain", [False, True], ids=["hub", "plain mirror"])
def test_body_cut_short_goes_on_where_it_was_cut(hub, wanted, plain):
    hub.plain, hub.faults = plain, {SECOND: ["cut", "cut"]}
    lines = bring(wanted)
    size = len(hub.files[SECOND])
    half, quarter = size // 2, size // 2 + (size - size // 2) // 2
    assert asked(hub, SECOND) == [None, f"bytes={half}-", f"bytes={quarter}-"]
    assert here(wanted)[SECOND] == hub.files[SECOND]
    assert any(f"{SECOND}: cut off after {half:,} of {size:,} bytes" in line for line in lines)


def test_later_command_goes_on_with_what_an_earlier_one_left(hub, wanted):
    hub.faults = {FIRST: ["cut"]}
    with pytest.raises(DataError, match="within 1 attempts; got cut off after"):
        bring(wanted, Patience(attempts=1))
    half = len(hub.files[FIRST]) // 2
    assert DownloadedFiles(wanted.cache, "climbmix").partial_bytes(FIRST) == half
    bring(wanted)
    assert asked(hub, FIRST) == [None, f"bytes={half}-"]
    assert here(wanted) == {name: hub.files[name] for name in (FIRST, SECOND, VALIDATION)}


@pytest.mark.parametrize("plain", [False, True], ids=["hub", "plain mirror"])
def test_parts_of_two_versions_are_never_joined(hub, wanted, plain):
    hub.plain, hub.faults = plain, {FIRST: ["cut"]}
    with pytest.raises(DataError):
        bring(wanted, Patience(attempts=1))
    hub.files[FIRST] = b"another version".ljust(len(hub.files[FIRST]))
    bring(wanted)
    assert here(wanted)[FIRST] == hub.files[FIRST]


def test_part_of_a_version_without_a_name_is_not_gone_on_with(hub, wanted):
    hub.plain, hub.etags, hub.faults = True, False, {FIRST: ["cut"]}
    with pytest.raises(DataError):
        bring(wanted, Patience(attempts=1))
    hub.files[FIRST] = b"another version".ljust(len(hub.files[FIRST]))
    bring(wanted)
    assert asked(hub, FIRST) == [None, None]
    assert here(wanted)[FIRST] == hub.files[FIRST]


def test_part_that_is_longer_than_the_file_is_thrown_away(hub, wanted):
    hub.faults = {FIRST: ["cut"]}
    with pytest.raises(DataError):
        bring(wanted, Patience(attempts=1))
    hub.files[FIRST], hub.faults = b"short", {FIRST: ["416"]}
    bring(wanted)
    assert here(wanted)[FIRST] == b"short"


def test_server_that_cannot_resume_is_read_from_the_beginning(hub, wanted):
    hub.ranges, hub.faults = False, {FIRST: ["cut"]}
    bring(wanted)
    assert here(wanted)[FIRST] == hub.files[FIRST]


@pytest.mark.parametrize("status", ["429", "500", "503"])
def test_busy_server_is_asked_again(hub, wanted, status):
    hub.faults = {FIRST: [status, status]}
    lines = bring(wanted)
    assert asked(hub, FIRST) == [None] * 3
    assert any(f"{FIRST}: HTTP {status}" in line for line in lines)


def test_pauses_double_up_to_the_longest_and_follow_the_server():
    patience = Patience(first_pause_s=1.0, longest_pause_s=5.0)
    assert [patience.pause_s(attempt, None) for attempt in range(4)] == [1.0, 2.0, 4.0, 5.0]
    assert patience.pause_s(0, 3.0) == 3.0
    assert patience.pause_s(0, 3_600.0) == 5.0


def test_server_that_stays_down_is_an_error_that_says_where_to_put_the_file(hub, wanted):
    hub.faults = {FIRST: ["503"] * 3}
    with pytest.raises(DataError) as caught:
        bring(wanted)
    error = caught.value
    assert error.path == f"{hub.url}/{FIRST}"
    assert error.expected == f"{FIRST} within 3 attempts"
    assert error.got.startswith("HTTP 503")
    assert f"put {FIRST} into {wanted.cache / 'downloads' / 'climbmix'} by hand" in error.hint


def test_without_network_the_error_says_so(hub, wanted):
    nowhere = DataSettings(**{**vars(wanted), "mirror": "http://127.0.0.1:9"})
    with pytest.raises(DataError, match=r"got no connection \(.*refused.*by hand"):
        bring(nowhere)


def test_files_put_there_by_hand_need_no_network(hub, wanted):
    bring(wanted)
    records = wanted.cache / "downloads" / "climbmix" / "records"
    shutil.rmtree(records)
    bring(DataSettings(**{**vars(wanted), "mirror": "http://127.0.0.1:9"}))
    assert not records.exists()


def test_missing_file_is_told_at_once(hub, wanted):
    del hub.files[SECOND]
    with pytest.raises(DataError, match=rf"{SECOND}: expected {SECOND}; got HTTP 404"):
        bring(wanted)


@pytest.mark.parametrize("fault", ["page", "unnamed page"])
def test_web_page_of_a_proxy_is_refused_and_not_kept(hub, wanted, fault):
    hub.faults = {FIRST: ["cut", fault]}
    with pytest.raises(DataError, match="got a web page, probably of a proxy"):
        bring(wanted)
    assert FIRST not in here(wanted)
    assert (
        DownloadedFiles(wanted.cache, "climbmix").partial_bytes(FIRST) == len(hub.files[FIRST]) // 2
    )


def test_damage_on_the_way_is_found_by_the_published_hash_and_downloaded_again(hub, wanted):
    hub.faults = {FIRST: ["flipped"]}
    lines = bring(wanted)
    assert here(wanted)[FIRST] == hub.files[FIRST]
    assert any(f"{FIRST}: SHA-256" in line and "in place of" in line for line in lines)


def test_file_that_is_always_damaged_is_refused_and_not_kept(hub, wanted):
    hub.faults = {FIRST: ["flipped"] * 3}
    with pytest.raises(DataError, match=r"got SHA-256 .* in place of"):
        bring(wanted)
    assert FIRST not in here(wanted)


def test_file_of_another_size_than_published_is_refused(hub, wanted):
    hub.faults = {FIRST: ["", "longer", "longer", "longer", "longer"]}
    with pytest.raises(DataError, match=r"got (cut off after|HTTP 416)"):
        bring(wanted)
    assert FIRST not in here(wanted)


def test_file_changed_after_its_download_is_refused_until_it_is_deleted(hub, wanted):
    bring(wanted)
    path = wanted.cache / "downloads" / "climbmix" / SECOND
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=rf"{SECOND}: expected SHA-256 .* Delete it"):
        bring(wanted)
    path.unlink()
    bring(wanted)
    assert here(wanted)[SECOND] == hub.files[SECOND]


@pytest.mark.parametrize("plain", [False, True], ids=["hub", "plain mirror"])
def test_file_that_the_publisher_changed_is_refused(hub, wanted, plain):
    hub.plain = plain
    bring(wanted)
    (wanted.cache / "downloads" / "climbmix" / SECOND).unlink()
    hub.requests.clear()
    hub.files[SECOND] = b"new".ljust(10_000)
    with pytest.raises(DataError, match=hashlib.sha256(hub.files[SECOND]).hexdigest()):
        bring(wanted)
    assert SECOND not in here(wanted)


def test_first_failure_ends_the_others_and_keeps_what_arrived_with_its_record(hub, wanted):
    names = CLIMBMIX.file_names(500)
    hub.files.update({name: b"text" for name in names if name != names[9]})
    with pytest.raises(DataError, match="HTTP 404"):
        bring(DataSettings(**{**vars(wanted), "train_files": 500}))
    arrived = [name for name in here(wanted) if not name.startswith(".")]
    assert len(arrived) >= 9 - WORKERS + 1
    assert len(hub.requests) < 500
    downloaded_files = DownloadedFiles(wanted.cache, "climbmix")
    assert all(downloaded_files.record(name) is not None for name in arrived)


def test_damaged_record_is_an_error_with_a_remedy(hub, wanted):
    bring(wanted)
    DownloadedFiles(wanted.cache, "climbmix").record_path(FIRST).write_text('{"bytes": 3}')
    with pytest.raises(DataError, match=rf"{FIRST}\.json: expected size and SHA-256 .* Delete it"):
        bring(wanted)


def test_folder_that_cannot_be_written_is_an_error_with_a_remedy(hub, wanted):
    wanted.cache.mkdir()
    (wanted.cache / "downloads").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"a folder that can be written; .* Set data\.cache_dir"):
        bring(wanted)


def test_full_disk_is_an_error_and_the_same_command_goes_on(hub, wanted):
    """A limit on file sizes fails a write as a full disk does."""
    script = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))\n"
        "from model.data.fetch import fetch\n"
        "from model.data.published import PUBLISHED\n"
        "from model.data.settings import DataSettings\n"
        "from model.errors import DataError\n"
        "try:\n"
        f"    fetch(PUBLISHED['climbmix'], {wanted!r}, lambda line: None)\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "room on the disk" in done.stdout
    assert here(wanted).keys().isdisjoint({FIRST, SECOND, VALIDATION})
    bring(wanted)
    assert here(wanted)[FIRST] == hub.files[FIRST]


def test_more_files_than_published_and_a_whole_disk_of_them_are_refused(wanted):
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


def test_mirror_that_is_no_address_is_refused(wanted):
    with pytest.raises(DataError, match=r"data\.mirror: .* give their folder as data\.source"):
        DataSettings(**{**vars(wanted), "mirror": "/mnt/shards"})


def test_lines_come_every_ten_seconds_and_at_the_end():
    clock, lines = iter([0.0, 5.0, 12.0, 12.0, 13.0]), []
    tally = Tally("climbmix", 4)
    tally.expect("a", 80_000_000)
    with in_lines(lines.append, lambda: next(clock))(tally) as tell:
        tally.receive("a", 20_000_000)
        tell()
        tell()
        tally.receive("a", 40_000_000)
        tell()
    assert lines == [
        "climbmix: 0 of 4 files, 20 of about 320 MB",
        "climbmix: 0 of 4 files, 40 of about 320 MB",
    ]


def test_bar_tells_files_and_bytes(capsys):
    tally = Tally("climbmix", 2)
    with bar(tally) as tell:
        tally.expect("a", 500_000)
        tally.receive("a", 500_000)
        tally.files_done = 1
        tell()
    told = capsys.readouterr()
    assert "climbmix  1/2 files" in told.err
    assert "0.5/1.0 MB" in told.err
    assert told.out == ""
