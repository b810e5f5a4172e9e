"""Packing and unpacking stores: records are merged, and nothing outside the store is written."""

import io
import os
import sqlite3
import subprocess
import sys
import tarfile

import msgspec
import pytest

from harness import files
from harness.errors import DiskError, StoreError, UsageError
from harness.files import lock_file
from harness.results.archive import pack, strip_paths, unpack
from harness.results.store import Store
from harness.runner.attempt import recover
from harness.study.attribution import attribute


@pytest.fixture
def filled(harness, study_file, store):
    done = harness("study", study_file())
    assert done.returncode == 0, done.stdout + done.stderr
    return store


def test_a_store_is_packed_and_unpacked_completely(filled, tmp_path):
    pack(filled, tmp_path / "a.tar")
    other = Store(tmp_path / "other")
    merged = unpack(tmp_path / "a.tar", other)
    assert (merged.records, merged.studies, merged.run_dirs) == (6, 1, 6)
    assert other.records() == filled.records()
    assert other.study("quick") == filled.study("quick")
    plan = filled.records()[0].plan_id
    assert other.curve(plan).equals(filled.curve(plan))


def test_unpacking_twice_adds_nothing(filled, tmp_path):
    pack(filled, tmp_path / "a.tar")
    merged = unpack(tmp_path / "a.tar", filled)
    assert (merged.records, merged.known, merged.run_dirs) == (0, 6, 0)
    assert not list(filled.root.glob(".unpack-*"))


def test_a_compact_tar_contains_what_a_report_needs_and_no_absolute_path(filled, tmp_path):
    pack(filled, tmp_path / "a.tar", compact=True)
    assert str(tmp_path).encode() not in (tmp_path / "a.tar").read_bytes()
    other = Store(tmp_path / "other")
    merged = unpack(tmp_path / "a.tar", other)
    assert (merged.records, merged.studies, merged.run_dirs) == (6, 1, 0)
    assert other.records() == filled.records()
    assert attribute(other.study("quick"), other.records()) == attribute(
        filled.study("quick"), filled.records()
    )


def test_a_compact_tar_can_be_merged_into_its_own_store(filled, tmp_path):
    pack(filled, tmp_path / "a.tar", compact=True)
    assert unpack(tmp_path / "a.tar", filled).known == 6


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (
            "study a.yaml --store /var/runs --set data.source=/mnt/d/text",
            "study a.yaml --store runs --set data.source=text",
        ),
        ("File '/usr/lib/x.py', line 3", "File 'x.py', line 3"),
        ("https://a.org/b 3 / 4 tokens/s a/b.yaml", "https://a.org/b 3 / 4 tokens/s a/b.yaml"),
    ],
)
def test_only_absolute_paths_are_cut(text, kept):
    assert strip_paths({"a": [text, 1]}) == {"a": [kept, 1]}


def test_two_records_of_one_plan_are_both_kept(filled, tmp_path):
    pack(filled, tmp_path / "a.tar")
    first = filled.records()[0]
    other = Store(tmp_path / "other")
    own = msgspec.structs.replace(first, attempt="mine", started_at=1.0)
    other.add(own, None)
    unpack(tmp_path / "a.tar", other)
    assert other.record(first.plan_id) == own
    assert other.attempts(first.plan_id) == [own, first]
    assert (other.root / "curves" / f"{first.plan_id}.{first.attempt}.parquet").exists()


def test_studies_with_different_seeds_are_merged(filled, tmp_path, study_file, harness):
    pack(filled, tmp_path / "a.tar")
    other = Store(tmp_path / "other")
    study = filled.study("quick")
    half = msgspec.structs.replace(
        study, seeds=[1], runs=[run for run in study.runs if run.seed == 1]
    )
    other.save_study(half)
    unpack(tmp_path / "a.tar", other)
    assert other.study("quick").seeds == [1, 2]
    assert {run.plan_id for run in other.study("quick").runs} == {r.plan_id for r in study.runs}


def test_a_different_study_of_the_same_name_is_rejected_before_anything_is_merged(filled, tmp_path):
    pack(filled, tmp_path / "a.tar")
    other = Store(tmp_path / "other")
    study = filled.study("quick")
    other.save_study(msgspec.structs.replace(study, pin="own"))
    with pytest.raises(StoreError, match="Nothing was unpacked"):
        unpack(tmp_path / "a.tar", other)
    assert other.records() == []


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "records/../../evil.json",
        "/etc/evil.json",
        "other/a.json",
        "plans/../evil.json/a/b",
        "plans/p/../../evil.json",
    ],
)
def test_a_tar_with_paths_outside_the_store_is_rejected(tmp_path, store, name):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 2
        tar.addfile(info, io.BytesIO(b"{}"))
    with pytest.raises(StoreError, match="Nothing was unpacked"):
        unpack(path, store)
    assert not list(tmp_path.rglob("evil.json"))


def test_a_link_in_a_tar_is_rejected(tmp_path, store):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("records/a.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(StoreError):
        unpack(path, store)


def test_a_file_that_is_not_a_tar_is_rejected(tmp_path, store):
    (tmp_path / "a.tar").write_text("nonsense")
    with pytest.raises(StoreError):
        unpack(tmp_path / "a.tar", store)


def test_an_empty_store_is_not_packed(tmp_path, store):
    with pytest.raises(UsageError):
        pack(store, tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def test_a_file_of_an_older_version_is_named_by_its_tar(tmp_path):
    folder = tmp_path / "old" / "records"
    folder.mkdir(parents=True)
    (folder / "p.json").write_text("{}")
    pack(Store(tmp_path / "old"), tmp_path / "old.tar")
    with pytest.raises(StoreError) as caught:
        unpack(tmp_path / "old.tar", Store(tmp_path / "new"))
    assert caught.value.path == f"{tmp_path / 'old.tar'}, records/p.json"
    assert "older version" in caught.value.got
    assert "Nothing was unpacked" in caught.value.hint


def tar_of(path, name, data=b"{}", **headers):
    """A tar with one entry."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size, info.pax_headers = len(data), headers
        tar.addfile(info, io.BytesIO(data))
    return path


def edited(tmp_path, source, **changes):
    """A tar of a record with other values."""
    content = {**msgspec.json.decode(source.read_bytes()), **changes}
    return tar_of(tmp_path / "a.tar", "records/x.json", msgspec.json.encode(content))


ODD_IDS = ["../../EVIL", "/tmp/EVIL", "..", ".EVIL", "a/../EVIL", "EVIL\n", "EVIL\0", "", "E" * 999]


@pytest.mark.parametrize("field", ["plan_id", "attempt"])
@pytest.mark.parametrize("text", ODD_IDS)
def test_an_identifier_that_is_no_name_is_rejected(tmp_path, leave_run, field, text):
    other = Store(tmp_path / "outer" / "inner" / "other")
    tar = edited(tmp_path, leave_run(1), **{field: text})
    with pytest.raises(StoreError, match="Nothing was unpacked"):
        unpack(tar, other)
    assert [path.name for path in other.root.rglob("*")] == []
    assert not list(tmp_path.rglob("*EVIL*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"started_at": -1e300},
        {"wall_s": None},
        {"steps": "many"},
        {"gpus": 2**70},
        {"environment": []},
        {"format": 99},
    ],
)
def test_a_record_with_odd_values_is_rejected(tmp_path, leave_run, changes):
    tar = edited(tmp_path, leave_run(1), **changes)
    with pytest.raises(StoreError):
        unpack(tar, Store(tmp_path / "other"))


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'{"environment":' + b'{"a":' * 100_000, b"", b"\xff", b"null"],
    ids=["deep list", "deep object", "empty", "no text", "null"],
)
@pytest.mark.parametrize("name", ["records/x.json", "studies/x.json"])
def test_a_file_that_is_no_record_or_study_is_rejected(tmp_path, name, data):
    with pytest.raises(StoreError):
        unpack(tar_of(tmp_path / "a.tar", name, data), Store(tmp_path / "other"))


def test_a_study_whose_name_leaves_the_store_is_rejected(filled, tmp_path):
    content = msgspec.json.decode(filled.study_path("quick").read_bytes())
    tar = tar_of(
        tmp_path / "a.tar",
        "studies/x.json",
        msgspec.json.encode({**content, "study": "../../EVIL"}),
    )
    with pytest.raises(StoreError, match="Nothing was unpacked"):
        unpack(tar, Store(tmp_path / "outer" / "other"))
    assert not list(tmp_path.rglob("*EVIL*"))


def test_a_sparse_file_of_a_terabyte_is_rejected_before_it_is_written(tmp_path):
    headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(10**12)}
    tar = tar_of(tmp_path / "a.tar", "plans/p/a/log.txt", b"", **headers)
    assert tar.stat().st_size < 20_000
    with pytest.raises(StoreError, match="sparse"):
        unpack(tar, Store(tmp_path / "other"))


def test_a_hostile_plan_in_a_run_directory_writes_nothing_when_it_is_recovered(tmp_path):
    plan = {"plan_id": "../../EVIL", "attempt": "a", "trainer": "fake", "seed": 1, "tricks": {}}
    plan |= {"identity": {"config_id": "c", "code_id": "d", "protocol": 1}, "derived": {}}
    plan |= {"launch": {}, "started_at": 1.0, "boot_id": ""}
    tar = tar_of(tmp_path / "a.tar", "plans/p/a/launch.json", msgspec.json.encode(plan))
    other = Store(tmp_path / "outer" / "other")
    assert unpack(tar, other).run_dirs == 1
    assert recover(other) == []
    assert not list(tmp_path.rglob("*EVIL*"))


@pytest.mark.parametrize(
    "name",
    [
        "records/.x.json",
        "records/a b.json",
        "records/a/b.json",
        "plans/p/lock/x",
        "plans/p/.a/x",
        "plans/p",
        "plans/p/a",
        "records",
        "studies/-x.json",
        "full/" + "x" * 300 + "/a",
        "plans/p/a/" + "x" * 300,
        "records/\u202ex.json",
    ],
)
def test_a_tar_with_names_that_no_store_has_is_rejected(tmp_path, store, name):
    with pytest.raises(StoreError):
        unpack(tar_of(tmp_path / "a.tar", name), store)


def test_what_is_packed_can_be_unpacked_and_readings_and_evaluations_are(store, tmp_path):
    kept = {"readings/q1/r.json", "evaluations/p1/a-b.json"}
    for name in (*kept, "records/.hidden", "plans/p1/note.txt", "other/x.json"):
        path = store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    out = tmp_path / "store.tar"
    assert pack(store, out) == 2
    with tarfile.open(out) as tar:
        assert set(tar.getnames()) == kept
    other = Store(tmp_path / "other")
    unpack(out, other)
    assert all((other.root / name).exists() for name in kept)


def entry(name: str, data: bytes = b"{}") -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf() + data.ljust(-(-len(data) // 512) * 512, b"\0")


END = bytes(1024)
READING = entry("readings/q/a.json")


@pytest.mark.parametrize(
    "content",
    [
        READING,  # no end: the rest may be missing
        READING + b"x" * 512 + entry("readings/q/b.json") + END,  # tarfile takes it for the end
        READING + READING + END,
        READING + entry("readings/q/a.json/b") + END,
        READING.replace(b"00000000000", b"77777777777", 1) + END,
        entry("searches/s.sqlite-journal") + END,  # SQLite would apply it to a database there
    ],
)
def test_a_tar_that_is_cut_or_contradicts_itself_is_rejected(tmp_path, store, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(StoreError, match="Nothing was unpacked"):
        unpack(tmp_path / "a.tar", store)
    assert not (store.root / "readings").exists()


@pytest.mark.parametrize("mtime", ["1e300", "nan", "-1e300"])
def test_a_time_that_no_file_has_is_rejected(tmp_path, store, mtime):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        header = tarfile.TarInfo("readings/q/a.json")
        header.pax_headers = {"mtime": mtime}
        tar.addfile(header)
    with pytest.raises(StoreError, match="Nothing was unpacked"):
        unpack(tmp_path / "a.tar", store)


def test_a_pipe_is_no_tar(tmp_path, store):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(StoreError, match="no regular file"):
        unpack(tmp_path / "a.tar", store)


@pytest.mark.parametrize("folder", ["plans", "readings", "full", "searches"])
def test_a_file_in_place_of_a_folder_of_the_store_is_named(tmp_path, store, folder):
    names = {"plans": "plans/p/a/log.txt", "full": "full/j/a", "searches": "searches/s.sqlite"}
    (tmp_path / "a.tar").write_bytes(entry(names.get(folder, "readings/q/a.json")) + END)
    (store.root / folder).parent.mkdir(parents=True, exist_ok=True)
    (store.root / folder).write_text("mine")
    with pytest.raises(DiskError, match=f"{folder}.*move it away"):
        unpack(tmp_path / "a.tar", store)
    assert (store.root / folder).read_text() == "mine"


def test_what_a_killed_unpack_left_is_removed_by_the_next(tmp_path, store):
    left, used = store.root / ".unpack-left", store.root / ".unpack-used"
    for folder in (left, used):
        folder.mkdir(parents=True)
        (folder / "lock").touch()
    (tmp_path / "a.tar").write_bytes(READING + END)
    with lock_file(used / "lock"):
        unpack(tmp_path / "a.tar", store)
    assert not left.exists()
    assert used.exists()


@pytest.mark.parametrize("data", ["{", "[" * 5000, b"\xff\xfe{"])
def test_a_compact_tar_names_the_file_that_is_not_json(store, tmp_path, data):
    path = store.root / "full/j/entry.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(StoreError, match=r"entry\.json: expected JSON"):
        pack(store, tmp_path / "a.tar", compact=True)
    assert pack(store, tmp_path / "b.tar") == 1


def test_a_database_is_packed_as_its_writer_would_leave_it(store, tmp_path):
    path = store.root / "searches/s.sqlite"
    path.parent.mkdir(parents=True)
    code = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size = 1'); db.execute('CREATE TABLE t (x)')\n"
        "db.execute('BEGIN'); db.executemany('INSERT INTO t VALUES (?)', [('x' * 999,)] * 999)\n"
        "os._exit(0)"  # killed within a transaction that has reached the file
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert (store.root / "searches/s.sqlite-journal").exists()
    pack(store, tmp_path / "a.tar")
    unpack(tmp_path / "a.tar", Store(tmp_path / "other"))
    database = sqlite3.connect(tmp_path / "other/searches/s.sqlite")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("SELECT count(*) FROM t").fetchone() == (0,)
    database.close()


def test_gates_move_with_a_store_and_a_taken_number_is_the_next_one(store, tmp_path):
    """A moved store knows unconfirmed slowdowns and the runs that gates have used."""

    def gate(where: Store, number: int, reason: str) -> None:
        value = {"key": "k1", "number": number, "reason": reason}
        files.write_json(where.root / "gates" / "k1" / f"{number}.json", value)

    other = Store(tmp_path / "other")
    for number, reason in ((1, "both"), (2, "theirs")):
        gate(other, number, reason)
    gate(store, 1, "both")
    gate(store, 2, "ours")
    (store.root / "gates" / "k1" / "3").mkdir()  # one that is being measured
    files.write_json(other.root / "gates" / "k1" / "2" / "launch.json", {})
    out = tmp_path / "store.tar"
    pack(other, out)
    for _ in range(2):  # the second time nothing is new
        unpack(out, store)
    found = {path.stem: files.read_json(path) for path in store.root.glob("gates/k1/*.json")}
    assert {stem: one["reason"] for stem, one in found.items()} == {
        "1": "both",
        "2": "ours",
        "4": "theirs",
    }
    assert found["4"]["number"] == 4
    gate(other, 2, "theirs")
    files.write_json(other.root / "gates" / "k1" / "5.json", {"key": "k1", "number": 9})
    pack(other, out)
    with pytest.raises(StoreError, match="gate k1 number 5"):
        unpack(out, store)
