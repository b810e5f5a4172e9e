"""The store: run directories, records, curves and studies, as plain files that merge by copying.

    plans/<plan_id>/<attempt>/        a run directory
    records/<plan_id>.json            the completed record; other attempts: <plan_id>.<attempt>.json
    curves/<plan_id>.parquet          its curve; other attempts likewise
    core/<plan_id>.parquet            its answers to every example of CORE, likewise
    studies/<name>.json               a ResolvedStudy
    searches/<name>.sqlite            the Optuna storage of a search
    searches/<name>.json              the best points of a search that fills a study's sweep
    reports/<kind>/<name>/            report.html, report.json, ...; kind: study, search or full
    full/<name>/                      preflight, forecast and results of a full job
    worktrees/                        checkouts of `ref` and `patch` arms
    jobs/<id>/                        a job submitted to a cluster
    readings/<question>/<runs>.json   which comparisons have been read (results/readings.py)
    environments/                     virtual environments of refs with other requirements
    index.json                        a cache of all records, rebuilt when it is stale

Plain files are diffable, can be merged, and are safe with two writers. A record is written once,
atomically, after its curve and its CORE answers.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec

from harness import files
from harness.config.yaml_schema import NAME
from harness.errors import DiskError, StoreError
from harness.results import core_answers, stored_file
from harness.results.record import Record, curve_schema, curve_table
from harness.results.study_plan import ResolvedStudy

if TYPE_CHECKING:
    import pyarrow as pa


CORE_FOLDER, READINGS, EVALUATIONS, GATES = "core", "readings", "evaluations", "gates"
SIDE_FOLDERS = ("curves", CORE_FOLDER)
"""Folders with one file per record, of the record's name."""
MOST_CURVE_ROWS = 10**7  # a longer one is no curve
ReportKind = Literal["study", "search", "full"]


class Store:
    """A folder of runs, their records and everything derived from them."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._latest: _Index | None = None  # as `records` read it

    def record(self, plan_id: str) -> Record | None:
        """The completed record of a plan, or None."""
        record = self._read(self._path("records", plan_id, ".json"))
        return record if record is not None and record.status == "completed" else None

    def attempts(self, plan_id: str) -> list[Record]:
        """Every record of a plan, failed ones too, oldest first."""
        first, folder = self._path("records", plan_id, ".json"), self.root / "records"
        if not folder.is_dir():
            return []
        names = (name for name in os.listdir(folder) if name.startswith(f"{plan_id}."))
        paths = [folder / name for name in names if name.endswith(".json") and name != first.name]
        records = [record for path in (first, *paths) if (record := self._read(path)) is not None]
        return sorted(records, key=lambda record: (record.started_at, record.attempt))

    def attempts_by_plan(self) -> dict[str, list[Record]]:
        """The attempts of every plan, from one listing: for all runs of a study."""
        attempts: dict[str, list[Record]] = {}
        for record in self.records():
            attempts.setdefault(record.plan_id, []).append(record)
        return attempts

    def records(self) -> list[Record]:
        """Every record of the store, one for each attempt, oldest first."""
        folder = self.root / "records"
        if not folder.is_dir():
            return []
        names = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    names[entry.name] = _stamp(entry)
        if self._latest is not None and self._latest.files == names:
            return list(self._latest.records)
        records = self._indexed(names)
        if records is None:
            read = (self._read(folder / name) for name in names)
            records = [record for record in read if record is not None]
            records.sort(key=lambda record: (record.started_at, record.attempt))
            if len(records) == len(names):
                self._write_index(names, records)
        self._latest = _Index(files=names, records=records)
        return list(records)

    def curve(self, plan_id: str) -> "pa.Table | None":
        """The curve of the completed run (columns as `record.curve_table`), or None.

        Raises StoreError for a damaged file.
        """
        path = self._path("curves", plan_id, ".parquet")
        if not path.is_file():
            return None
        import pyarrow as pa
        import pyarrow.parquet

        fault = f"more than {MOST_CURVE_ROWS:,} rows"
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                if file.metadata.num_rows <= MOST_CURVE_ROWS:
                    return file.read().cast(curve_schema())
        except (OSError, pa.ArrowException, ValueError) as error:
            fault = str(error).partition("\n")[0][:200]
        hint = "The file is damaged: move it away. The record keeps the results of its run."
        raise StoreError(str(path), "the curve of a run", fault, hint)

    def side_files(self, record: Record) -> dict[str, Path]:
        """The curve and CORE files of a record, by folder."""
        folder = self.root / "records"
        names = [record.plan_id, f"{record.plan_id}.{record.attempt}"]
        names += sorted(path.stem for path in folder.glob(f"{names[-1]}.*.json"))
        name = next((name for name in names if self._read(folder / f"{name}.json") == record), None)
        paths = {kind: self.root / kind / f"{name}.parquet" for kind in SIDE_FOLDERS}
        return {kind: path for kind, path in paths.items() if path.is_file()}

    def study(self, name: str) -> ResolvedStudy:
        """A stored study. Raises StoreError where there is none of that name."""
        path = self.study_path(name)
        try:
            data = stored_file.read(path, "a study")
        except (FileNotFoundError, NotADirectoryError):
            known = ", ".join(self.study_names()) or "none"
            raise StoreError(
                str(self.root),
                f"a study called {name!r}",
                f"these studies: {known}",
                "Name one of them, or name the store it is in with --store.",
            ) from None
        hint = "Move the file away and start the study again: its records are kept."
        study = stored_file.decode(data, ResolvedStudy, path, "a study", if_damaged=hint)
        if study.study != name:
            expected, got = "a study of the name of its file", f"one called {study.study!r}"
            raise StoreError(str(path), expected, got, "Move it away, or give it its own name.")
        return study

    def study_names(self) -> list[str]:
        """The names of the stored studies, sorted."""
        folder = self.root / "studies"
        return sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []

    def study_path(self, name: str) -> Path:
        """The file of a study. Raises StoreError for a name that cannot name a file."""
        return self._path("studies", name, ".json")

    def study_lock_path(self, name: str) -> Path:
        """The file that the process which runs a study locks."""
        return self._path("studies", name, ".lock")

    def search_path(self, name: str) -> Path:
        """The database of a search without a storage URL."""
        return self._path("searches", name, ".sqlite")

    def _path(self, folder: str, name: str, suffix: str = "") -> Path:
        """A path in a folder of the store. Raises StoreError for a name that would leave it."""
        if not NAME.fullmatch(name):
            expected = "a name of letters, digits, dot, dash and underscore"
            hint = "It names files in the store: nothing outside the store is read or written."
            raise StoreError(f"{self.root / folder}", expected, repr(name), hint)
        return self.root / folder / f"{name}{suffix}"

    def report_dir(self, kind: ReportKind, name: str) -> Path:
        """The folder of a report; a study and a search of one name have one each."""
        return self._path(f"reports/{kind}", name)

    def found_settings(self, search: str) -> list[dict[str, Any]]:
        """The best points of a search that fills a sweep; empty until it has ended."""
        path = self._settings_path(search)
        settings = files.read_json(path) or []
        return stored_file.convert(settings, list[dict[str, Any]], path, "the best points")

    def save_settings(self, search: str, settings: list[dict[str, Any]]) -> None:
        """Stores the best points of a search. Raises DiskError."""
        files.write_json(self._settings_path(search), settings)

    def _settings_path(self, search: str) -> Path:
        return self._path("searches", search, ".json")

    def save_study(self, study: ResolvedStudy) -> None:
        """Writes a study atomically. Raises DiskError."""
        files.write_bytes(
            self.study_path(study.study), msgspec.json.format(msgspec.json.encode(study), indent=1)
        )

    def locked(self) -> IO[bytes]:
        """The store's lock until it is closed: two writers never rename over each other."""
        handle = files.lock_file(self.root / "lock", wait=True)
        assert handle is not None
        return handle

    def lock_plan(self, plan_id: str) -> IO[bytes] | None:
        """The lock of a plan, which the harness that runs it holds; None if another holds it."""
        return files.lock_file(self._path("plans", plan_id) / "lock")

    def new_run_dir(self, plan_id: str, started_at: float) -> Path:
        """Creates a run directory. Its name is the attempt's, and sorts by time."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(started_at))
        path = self.run_dir(plan_id, f"{stamp}-{os.urandom(2).hex()}")
        with files.disk_errors(path):
            path.mkdir(parents=True)
        return path

    def run_dir(self, plan_id: str, attempt: str) -> Path:
        """The run directory of an attempt; a store from another machine may lack it."""
        return self._path(f"plans/{self._path('plans', plan_id).name}", attempt)

    def run_dirs(self) -> list[Path]:
        """All run directories, those of one plan oldest first; other folders are nobody's run."""
        folder = self.root / "plans"
        if not folder.is_dir():
            return []
        found = (  # scandir: a store has thousands of them
            (plan.name, attempt.name)
            for plan in os.scandir(folder)
            if NAME.fullmatch(plan.name) and plan.is_dir()
            for attempt in os.scandir(plan.path)
            if NAME.fullmatch(attempt.name) and attempt.is_dir(follow_symlinks=False)
        )
        return [folder / plan / attempt for plan, attempt in sorted(found)]

    def commit(self, record: Record, run_dir: Path | None = None) -> Record:
        """Writes a record with the curve and answers in a run directory. Raises DiskError."""
        curve = answers = None
        if run_dir is not None and (table := curve_table(run_dir)) is not None:
            curve = _parquet(table)
        if run_dir is not None and record.core is not msgspec.UNSET:
            with files.open_regular(run_dir / core_answers.NAME) as handle:
                answers = handle.read()
        self.add(record, curve, answers)
        return record

    def add(self, record: Record, curve: bytes | None, answers: bytes | None = None) -> bool:
        """Adds a record; returns False if the store has the same record already."""
        with self.locked():
            known = self.attempts(record.plan_id)
            if record in known:
                return False
            first = record.status == "completed" and not any(
                other.status == "completed" for other in known
            )
            name = record.plan_id if first else f"{record.plan_id}.{record.attempt}"
            if self._path("records", name, ".json").exists():  # another record of this attempt
                name += "." + files.digest(msgspec.to_builtins(record), 8)
            for folder, content in zip(SIDE_FOLDERS, (curve, answers), strict=True):
                if content is not None:
                    files.write_bytes(self.root / folder / f"{name}.parquet", content)
            data = msgspec.json.format(msgspec.json.encode(record), indent=1)
            files.write_bytes(self.root / "records" / f"{name}.json", data)
            return True

    def _indexed(self, names: dict[str, tuple[int, int]]) -> list[Record] | None:
        """The records in the index; None unless it was built from exactly these files."""
        try:
            with files.open_regular(self.root / "index.json", follow=True) as handle:
                index = msgspec.json.decode(handle.read(), type=_Index)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return index.records if index.files == names else None

    def _write_index(self, names: dict[str, tuple[int, int]], records: list[Record]) -> None:
        data = msgspec.json.encode(_Index(files=names, records=records))
        with contextlib.suppress(DiskError):  # the index is only a cache
            files.write_bytes(self.root / "index.json", data)

    @staticmethod
    def _read(path: Path) -> Record | None:
        try:
            data = stored_file.read(path, "a record")
        except (FileNotFoundError, NotADirectoryError):
            return None
        hint = "The file is damaged: move it away; the run is then repeated."
        record = stored_file.decode(data, Record, path, "a record", if_damaged=hint)
        if not path.name.startswith(f"{record.plan_id}."):
            expected, got = "a record named after its plan", f"one of the plan {record.plan_id}"
            raise StoreError(str(path), expected, got, "Move it away, or give it its own name.")
        return record


def _stamp(entry: "os.DirEntry[str]") -> tuple[int, int]:
    """When a record was written, and its size: an index of other ones is stale."""
    try:
        stat = entry.stat()
    except OSError as error:  # a link to nothing
        raise stored_file.unreadable(Path(entry.path), "a record", error) from error
    return stat.st_mtime_ns, stat.st_size


def _parquet(table: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


class _Index(msgspec.Struct, kw_only=True):
    """All records, with the (mtime in ns, size in bytes) of the files that they are from."""

    files: dict[str, tuple[int, int]]
    records: list[Record]
