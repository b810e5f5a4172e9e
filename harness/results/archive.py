"""A store as one tar, and back: how results move between machines.

Unpacking merges: equal records are kept once, two different records of one plan are both kept, as
attempts. Nothing outside the store can be written, whatever a tar's names say. Reports, checkouts
of other code, locks and the index stay behind: they are made again where they are needed.

A compact tar is the form to publish: all that reports are made of, some 15 kB a run (and a MB or
so where all of CORE was evaluated), without the run directories, and of the paths of the machine
that ran it only the last part.
"""

import io
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from harness import files as atomic
from harness.errors import StoreError, UsageError
from harness.results.store import SIDE_FOLDERS, Store
from harness.results.study_plan import PlannedRun, ResolvedStudy, differences

FULL_JOBS = "full"  # one folder a full job
COMPACT = ("records", *SIDE_FOLDERS, "studies", FULL_JOBS)
FOLDERS = (*COMPACT, "searches", "plans")
ABSOLUTE = re.compile(r"(?<![^\s=:'\"])/(?:[^\s/'\"]+/)*(?=[^\s/'\"])")  # all but its last part


class UnpackSummary(msgspec.Struct, kw_only=True):
    """What unpacking added."""

    records: int = 0
    known: int = 0
    studies: int = 0
    run_dirs: int = 0
    jobs: int = 0


def pack(store: Store, out: Path, *, compact: bool = False) -> int:
    """Writes a store to a tar, whole or not at all; returns its number of files.

    Raises UsageError where there is nothing to pack, and DiskError.
    """
    folders = COMPACT if compact else FOLDERS
    files = [path for folder in folders for path in _files(store.root / folder)]
    if not files:
        raise UsageError(
            str(store.root),
            "a store with records",
            "none",
            "Name the folder that --store named when the runs were made.",
        )
    partial = out.with_name(out.name + atomic.PARTIAL)
    with atomic.disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(partial, "w") as tar:
                for path in files:
                    name = path.relative_to(store.root).as_posix()
                    if compact and path.suffix == ".json":
                        _add_placeless(tar, path, name)
                    else:
                        tar.add(path, arcname=name, recursive=False)
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)
    return len(files)


def _add_placeless(tar: tarfile.TarFile, path: Path, name: str) -> None:
    content = msgspec.json.decode(path.read_bytes())
    data = msgspec.json.format(msgspec.json.encode(strip_paths(content)), indent=1)
    member = tar.gettarinfo(path, arcname=name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def strip_paths(value: Any) -> Any:
    """The same JSON with every absolute path in a text cut to its last part.

    Where a machine kept its data is no part of any identity and nobody else's business.
    """
    if isinstance(value, dict):
        return {key: strip_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [strip_paths(inner) for inner in value]
    return ABSOLUTE.sub("", value) if isinstance(value, str) else value


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and path.name != "lock"
        and not path.name.endswith((".lock", atomic.PARTIAL))
    )


def unpack(tar_path: Path, store: Store) -> UnpackSummary:
    """Merges a packed store into this one. Raises StoreError where the tar is not a store's."""
    store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.root, prefix=".unpack-") as folder:
        with atomic.disk_errors(store.root):
            _extract(tar_path, Path(folder))
        other = Store(Path(folder))
        studies = [_merged_study(store, other.study(name)) for name in other.study_names()]
        searches = _new_searches(other, store)
        merged = UnpackSummary()
        for record in other.records():
            files = {name: path.read_bytes() for name, path in other.beside(record).items()}
            added = store.add(record, *(files.get(name) for name in SIDE_FOLDERS))
            merged.records += added
            merged.known += not added
        for study in studies:
            store.save_study(study)
            merged.studies += 1
        for path in searches:
            target = store.root / path.relative_to(other.root)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
        merged.run_dirs = _move_new(other.run_dirs(), other, store)
        merged.jobs = _move_new(sorted((other.root / FULL_JOBS).glob("*")), other, store)
    return merged


def _extract(tar_path: Path, folder: Path) -> None:
    try:
        with tarfile.open(tar_path, "r:") as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                inside = bool(parts) and parts[0] in FOLDERS and ".." not in parts
                if not inside or not member.isfile():
                    raise _not_a_store(tar_path, f"an entry {member.name!r}")
                source = tar.extractfile(member)
                assert source is not None
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with source, open(target, "wb") as handle:
                    shutil.copyfileobj(source, handle)
                os.utime(target, (member.mtime, member.mtime))
    except (tarfile.TarError, FileNotFoundError, IsADirectoryError) as error:
        raise _not_a_store(tar_path, str(error)) from error


def _not_a_store(tar_path: Path, got: str) -> StoreError:
    return StoreError(
        str(tar_path),
        "a tar that `harness pack` wrote, with nothing but a store's files in it",
        got,
        "Nothing was unpacked. Pack it again where it comes from.",
    )


def _merged_study(store: Store, other: ResolvedStudy) -> ResolvedStudy:
    """The union of the runs of two stores' studies of one name. Raises StoreError."""
    if not store.study_path(other.study).exists():
        return other
    own = store.study(other.study)
    if found := differences(own, other):
        raise StoreError(
            other.study,
            "studies of the same name to be the same study",
            "; ".join(found[:6]),
            "Nothing was unpacked. Unpack it into another --store.",
        )
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
    """The databases of searches that this store has not. Raises StoreError where one differs.

    Two databases of one search cannot be made one: their trials have the same numbers.
    """
    found = []
    for path in sorted((other.root / "searches").glob("*")):
        own = store.root / "searches" / path.name
        if not own.exists():
            found.append(path)
        elif own.read_bytes() != path.read_bytes():
            raise StoreError(
                path.name,
                "searches of the same name to be the same search",
                "other trials in each",
                "Nothing was unpacked. Unpack it into another --store.",
            )
    return found


def _move_new(folders: list[Path], other: Store, store: Store) -> int:
    """Moves folders that this store has not: run directories, and what jobs keep of themselves."""
    moved = 0
    for folder in folders:
        target = store.root / folder.relative_to(other.root)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder, target)
            moved += 1
    return moved
