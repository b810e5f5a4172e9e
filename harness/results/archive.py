"""Packs a store into one tar and merges a tar into a store, to move results between machines.

When a tar is unpacked, equal records are kept once, and different records of one plan are both kept
as attempts. Nothing outside the store is written, whatever names a tar contains. Reports, checkouts
of other code, locks and the index are not packed, because they can be created again.

A compact tar is for publication: everything that reports need (about 15 kB per run, or 1 MB with
all of CORE) without the run directories, and with absolute paths cut to their last part.
"""

import contextlib
import io
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from harness import files
from harness.config.yaml_schema import NAME
from harness.errors import DiskError, StoreError, UsageError
from harness.redact import redact_text
from harness.results import stored_file
from harness.results.store import EVALUATIONS, GATES, READINGS, SIDE_FOLDERS, Store
from harness.results.study_plan import PlannedRun, ResolvedStudy, differences

REPACK = (
    "Nothing was unpacked. Unpack it with the version of the harness that packed it, or convert "
    "the store there as CHANGELOG.md describes and pack it again."
)
REPACK_GATE = "Repeat the gate on its machine, or leave the file out, and pack the store again."
GATE_FILE = re.compile(r"[1-9][0-9]{0,8}\.json")
FULL_JOBS = "full"  # one folder per full job
COMPACT = ("records", *SIDE_FOLDERS, "studies", FULL_JOBS)
SEARCHES, DATABASE = "searches", ".sqlite"
FOLDERS = (*COMPACT, SEARCHES, "plans", READINGS, EVALUATIONS, GATES)
# plans/<plan_id>/<attempt>/..., full/<name>/..., readings/<question>/..., evaluations/<plan_id>/...
# gates/<key>/<number>.json
NAMED_FOLDERS = {"plans": 2, FULL_JOBS: 1, READINGS: 1, EVALUATIONS: 1, GATES: 1}
TEMPORARY = ".unpack-"
LOCK_TIMEOUT_S = 60.0
OF_TAR = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
"""What a tar of names that contradict each other raises."""
ABSOLUTE = re.compile(r"(?<![^\s=:'\"])/(?:[^\s/'\"]+/)*(?=[^\s/'\"])")  # without the last part


class UnpackSummary(msgspec.Struct, kw_only=True):
    """What was added to a store."""

    records: int = 0
    known: int = 0
    studies: int = 0
    run_dirs: int = 0
    jobs: int = 0


def pack(store: Store, out: Path, *, compact: bool = False) -> int:
    """Writes a store to a tar, atomically; returns the number of files.

    Raises UsageError if there is nothing to pack, and DiskError.
    """
    folders = COMPACT if compact else FOLDERS
    paths = [path for folder in folders for path in _files(store.root, folder)]
    if not paths:
        hint = "Name the store of the runs with --store."
        raise UsageError(str(store.root), "a store with records", "none", hint)
    partial = out.with_name(out.name + files.PARTIAL)
    with files.disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(partial, "w") as tar:
                for path in paths:
                    name = path.relative_to(store.root).as_posix()
                    if compact and path.suffix == ".json":
                        _add_without_paths(tar, path, name)
                    else:
                        with _unchanging(path), contextlib.suppress(FileNotFoundError):
                            tar.add(path, arcname=name, recursive=False)  # or a run removed it
            files.check_replaceable(out)
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)
    return len(paths)


@contextmanager
def _unchanging(path: Path) -> Iterator[None]:
    """Keeps the writers of a search's database waiting, and undoes what a killed one left half."""
    if path.suffix != DATABASE:
        yield
        return
    with contextlib.closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_S)) as database:
        try:
            database.execute("BEGIN")
            database.execute("SELECT 1 FROM sqlite_master").fetchone()  # the lock of a reader
        except sqlite3.OperationalError as error:
            hint = "Another command writes to it: stop that one, or pack again later."
            raise StoreError(str(path), "a search that can be read", str(error), hint) from error
        except sqlite3.DatabaseError:
            pass  # no database: it is packed as it is
        yield


def _add_without_paths(tar: tarfile.TarFile, path: Path, name: str) -> None:
    try:
        content = files.parse_json(path.read_bytes().decode())
    except ValueError as error:
        hint = "The file is damaged: move it away, or pack without --compact."
        raise StoreError(str(path), "JSON", f"a file that is not JSON ({error})", hint) from error
    data = msgspec.json.format(msgspec.json.encode(strip_paths(content)), indent=1)
    member = tar.gettarinfo(path, arcname=name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def strip_paths(value: Any) -> Any:
    """A JSON value with every absolute path in its texts cut to its last part, without passwords.

    Where a machine keeps its data is private and part of no identity.
    """
    if isinstance(value, dict):
        return {key: strip_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [strip_paths(inner) for inner in value]
    return ABSOLUTE.sub("", redact_text(value)) if isinstance(value, str) else value


def _files(root: Path, folder: str) -> list[Path]:
    return sorted(
        path
        for path in (root / folder).rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and path.name != "lock"
        and _is_of_store(path.relative_to(root).parts)  # else it could not be unpacked
        and not path.name.endswith((".lock", files.PARTIAL))
    )


def unpack(tar_path: Path, store: Store) -> UnpackSummary:
    """Merges a packed store into this one. Raises StoreError if the tar is not a packed store."""
    with files.disk_errors(store.root), _temporary_folder(store.root) as folder:
        _extract(tar_path, folder)
        other = Store(folder)
        with _named_by_tar(tar_path, other):
            records = other.records()
            packed_studies = [other.study(name) for name in other.study_names()]
            gates = _gates(other)
        studies = [_merged_study(store, study) for study in packed_studies]
        searches = _new_searches(other, store)
        summary = UnpackSummary(studies=len(studies))
        for record in records:
            contents = {kind: path.read_bytes() for kind, path in other.side_files(record).items()}
            is_new = store.add(record, *(contents.get(kind) for kind in SIDE_FOLDERS))
            summary.records += is_new
            summary.known += not is_new
        for study in studies:
            store.save_study(study)
        for path in searches:
            _move(path, other, store)
        summary.run_dirs = _move_new(other.run_dirs(), other, store)
        summary.jobs = _move_new(sorted((other.root / FULL_JOBS).glob("*")), other, store)
        for kind in (READINGS, EVALUATIONS):
            _move_new(sorted((other.root / kind).glob("*/*")), other, store)
        _merge_gates(gates, store)
    return summary


@contextmanager
def _temporary_folder(root: Path) -> Iterator[Path]:
    """A folder in the store, locked while it is in use; those of killed processes are removed."""
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError, DiskError):
            if (lock := files.lock_file(old / "lock")) is not None:
                with lock:
                    shutil.rmtree(old)
    with tempfile.TemporaryDirectory(dir=root, prefix=TEMPORARY) as name:
        lock = files.lock_file(Path(name) / "lock")
        assert lock is not None
        with lock:
            yield Path(name)


@contextmanager
def _named_by_tar(tar_path: Path, other: Store) -> Iterator[None]:
    """Names an unreadable file by its tar, not by the temporary folder that it is unpacked to."""
    try:
        yield
    except StoreError as error:
        name = error.path.removeprefix(f"{other.root}/")
        older = error.hint == stored_file.USE_ANOTHER_STORE
        hint = REPACK if older else "Nothing was unpacked. Pack the store again on its machine."
        raise StoreError(f"{tar_path}, {name}", error.expected, error.got, hint) from error


def _extract(tar_path: Path, folder: Path) -> None:
    try:
        with (
            files.open_regular(tar_path, follow=True) as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
        ):
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if not _is_of_store(parts) or not member.isfile():
                    raise _not_a_store(tar_path, f"an entry {member.name[:200]!r}")
                if member.issparse():  # a few bytes could fill the disk
                    raise _not_a_store(tar_path, f"the sparse file {member.name!r}")
                source = tar.extractfile(member)
                assert source is not None
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with source, open(target, "xb") as handle:
                    shutil.copyfileobj(source, handle)
                os.utime(target, (member.mtime, member.mtime))
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile ends there too
                raise _not_a_store(tar_path, f"a damaged entry, or its end, at byte {tar.offset:,}")
    except (tarfile.TarError, *OF_TAR, ValueError, OverflowError) as error:
        got = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _not_a_store(tar_path, got) from error


def _is_of_store(parts: Sequence[str]) -> bool:
    """Whether a path is one that `pack` writes: what names a run, a study or a job is a name."""
    if len(parts) < 2 or parts[0] not in FOLDERS or ".." in parts:
        return False
    folders = NAMED_FOLDERS.get(parts[0], 0)
    if parts[0] == SEARCHES and not parts[1].endswith((DATABASE, ".json")):
        return False  # SQLite would apply a journal to the database beside it
    if parts[0] == GATES and not (len(parts) == 3 and GATE_FILE.fullmatch(parts[2])):
        return False  # a gate's launches are its own: their logs and configurations stay
    if "lock" in parts[2:3]:
        return False  # the harness that runs a plan or a job makes it
    deep_enough = len(parts) > folders + 1 if folders else len(parts) == 2
    return deep_enough and all(map(NAME.fullmatch, parts[1 : max(1, folders) + 1]))


def _not_a_store(tar_path: Path, got: str) -> StoreError:
    expected = "a tar that `harness pack` wrote, with only the files of a store"
    hint = "Nothing was unpacked. Pack the store again on its machine."
    return StoreError(str(tar_path), expected, got, hint)


def _merged_study(store: Store, other: ResolvedStudy) -> ResolvedStudy:
    """A study with the runs of both stores. Raises StoreError if the studies differ."""
    if not store.study_path(other.study).exists():
        return other
    own = store.study(other.study)
    if differing := differences(own, other):
        expected = "studies of the same name to be the same study"
        hint = "Nothing was unpacked. Unpack it into another --store."
        raise StoreError(other.study, expected, "; ".join(differing[:6]), hint)
    known = {(planned.arm, planned.seed, planned.plan_id) for planned in own.runs}
    new: list[PlannedRun] = [r for r in other.runs if (r.arm, r.seed, r.plan_id) not in known]
    arms = {arm.name for arm in own.arms}
    return msgspec.structs.replace(
        own,
        seeds=list(dict.fromkeys([*own.seeds, *other.seeds])),
        horizons=sorted({*own.horizons, *other.horizons}),
        arms=[*own.arms, *(arm for arm in other.arms if arm.name not in arms)],
        runs=[*own.runs, *new],
    )


def _new_searches(other: Store, store: Store) -> list[Path]:
    """The files of searches that are not in this store. Raises StoreError if one differs.

    Two databases of one search cannot be merged: their trials have the same numbers.
    """
    new = []
    for path in sorted((other.root / "searches").glob("*")):
        own = store.root / "searches" / path.name
        if not own.exists():
            new.append(path)
        elif own.read_bytes() != path.read_bytes():
            expected = "searches of the same name to be the same search"
            hint = "Nothing was unpacked. Unpack it into another --store."
            raise StoreError(path.name, expected, "different trials", hint)
    return new


def _move_new(paths: list[Path], other: Store, store: Store) -> int:
    """Moves folders or files that are not in this store; returns how many."""
    moved = 0
    for path in paths:
        if not (store.root / path.relative_to(other.root)).exists():
            _move(path, other, store)
            moved += 1
    return moved


class _GateName(msgspec.Struct, kw_only=True):
    """What names a gate in a store; its other fields are those of a gate's result."""

    key: str
    number: int


def _gates(store: Store) -> list[dict[str, Any]]:
    """The results of all gates, oldest number first. Raises StoreError."""
    gates = []
    for path in (store.root / GATES).glob("*/*.json"):
        data = stored_file.read(path, "a gate")
        named = stored_file.decode(data, _GateName, path, "a gate", if_damaged=REPACK_GATE)
        wanted = _GateName(key=path.parent.name, number=int(path.stem))
        if named != wanted:
            expected, got = (f"gate {one.key} number {one.number}" for one in (wanted, named))
            raise StoreError(str(path), expected, got, REPACK_GATE)
        gates.append(msgspec.json.decode(data))
    return sorted(gates, key=lambda gate: (gate["key"], gate["number"]))


def _merge_gates(gates: Sequence[dict[str, Any]], store: Store) -> None:
    """Adds gates that this store does not have; a number that another gate has is the next one.

    A later gate needs them: what they left unconfirmed, and which runs they have used as evidence.
    """
    with store.locked():
        known = _gates(store) if gates else []
        for gate in gates:
            if any({**each, "number": gate["number"]} == gate for each in known):
                continue
            number, folder = gate["number"], store.root / GATES / gate["key"]
            while (folder / str(number)).exists() or (folder / f"{number}.json").exists():
                number += 1
            files.write_json(folder / f"{number}.json", {**gate, "number": number})


def _move(path: Path, other: Store, store: Store) -> None:
    target = store.root / path.relative_to(other.root)
    with files.disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
