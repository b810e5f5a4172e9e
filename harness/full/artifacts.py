"""The artifact bundle of a full job: one tar with everything behind its leaderboard entry.

    full/NAME/          what the store keeps of the job: job file, preflight, probe, forecast,
                        alerts, leaderboard entry; and SHA256SUMS of everything else in the tar
    records/ curves/    of the job's runs and of its proxies
    core/               of the job's runs: the answer to every CORE example
    plans/              of the job's runs: configuration, environment, events, result

The same store gives the same bytes: names are sorted, and times are the end of the job. Paths of
the machine are cut to their last part. `sha256sum -c full/NAME/SHA256SUMS` checks extracted files;
`harness unpack` makes a store of it, in which the entry can be made again and every run compared.
"""

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from harness import files as atomic
from harness.errors import UsageError
from harness.format import plural
from harness.results.archive import FULL_JOBS, strip_paths
from harness.results.record import Record
from harness.results.store import CORE_FOLDER, Store

SUMS = "SHA256SUMS"
TEXTS = (".json", ".jsonl", ".yaml", ".md", ".txt")
RUN_FILES = ("config.json", "launch.json", "environment.json", "events.jsonl", "result.json")
"""Packed from the run directory of a job's run."""
CODE_PATCH, CODE_COMMIT = "code.patch", "code.json"


def job_dir(store: Store, name: str) -> Path:
    """The folder of a job in a store."""
    return store.root / FULL_JOBS / name


def save_code(folder: Path, checkout: Path) -> None:
    """Stores the code that a job starts from: the commit, and a patch if files differ from it.

    Call it before the launch. Untracked files are named and not stored; the code_id of the record
    covers them too. Raises DiskError.
    """
    commit = _git(checkout, "rev-parse", "HEAD").decode().strip()
    changes = _git(checkout, "diff", "--binary", "HEAD") if commit else b""
    untracked = _git(checkout, "ls-files", "--others", "--exclude-standard").decode().splitlines()
    code = {"commit": commit or None, "changed": bool(changes), "untracked_files": untracked}
    atomic.write_json(folder / CODE_COMMIT, code)
    (folder / CODE_PATCH).unlink(missing_ok=True)
    if changes:
        atomic.write_bytes(folder / CODE_PATCH, changes)


def _git(checkout: Path, *arguments: str) -> bytes:
    """Output of git; empty outside a repository or without git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return done.stdout if done.returncode == 0 else b""


def pack(
    store: Store, name: str, out: Path, *, job: Sequence[Record], proxies: Sequence[Record]
) -> int:
    """Writes the artifact bundle of a job atomically; returns its number of files.

    Raises UsageError if the store has no run of the job, and DiskError.
    """
    if not job_dir(store, name).is_dir() or not job:
        known = sorted(path.name for path in (store.root / FULL_JOBS).glob("*"))
        got = f"{plural(len(job), 'run')}; jobs here: {', '.join(known) or 'none'}"
        hint = "Run `harness full JOB` first, or name its store with --store."
        raise UsageError(name, "a job with a run in this store", got, hint)
    files = dict(sorted(_contents(store, name, job, proxies)))
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    sums = "".join(f"{digest}  {path}\n" for path, digest in hashes.items())
    files[f"{FULL_JOBS}/{name}/{SUMS}"] = sums.encode()
    atomic.write_bytes(out, _tar(files, int(max(record.ended_at for record in job))))
    return len(files)


def _contents(
    store: Store, name: str, job: Sequence[Record], proxies: Sequence[Record]
) -> Iterator[tuple[str, bytes]]:
    """(name in the tar, content) of everything but the sums, with the records of earlier attempts,
    which are part of the cost."""
    own = {(record.plan_id, record.attempt) for record in job}
    for plan_id in sorted({record.plan_id for record in job}):
        for before in store.attempts(plan_id):
            yield _record_name(store, before), _stripped_json(msgspec.to_builtins(before))
    for record in {(one.plan_id, one.attempt): one for one in (*job, *proxies)}.values():
        yield _record_name(store, record), _stripped_json(msgspec.to_builtins(record))
        for kind, path in store.side_files(record).items():
            if kind != CORE_FOLDER or (record.plan_id, record.attempt) in own:
                yield path.relative_to(store.root).as_posix(), path.read_bytes()
    texts = [path for path in job_dir(store, name).rglob("*") if path.suffix in (*TEXTS, ".patch")]
    texts += [store.run_dir(one.plan_id, one.attempt) / file for one in job for file in RUN_FILES]
    for path in texts:
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(store.root).as_posix(), _stripped_file(path)


def _record_name(store: Store, record: Record) -> str:
    """A plan's first completed record has the plan's name, any other its attempt's too."""
    first = store.record(record.plan_id) == record
    return f"records/{record.plan_id}{'' if first else '.' + record.attempt}.json"


def _stripped_file(path: Path) -> bytes:
    """A file without the paths of the machine; a patch is unchanged, because it has to apply."""
    data = path.read_bytes()
    if path.suffix == ".json":
        return _stripped_json(msgspec.json.decode(data))
    if path.suffix == ".jsonl":
        return b"".join(_line(line) for line in data.splitlines() if line.strip())
    return (
        str(strip_paths(data.decode(errors="replace"))).encode() if path.suffix in TEXTS else data
    )


def _line(line: bytes) -> bytes:
    """One event; an incomplete one, as a killed trainer leaves it, is unchanged."""
    try:
        return msgspec.json.encode(strip_paths(msgspec.json.decode(line))) + b"\n"
    except msgspec.DecodeError:
        return line + b"\n"


def _stripped_json(content: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(strip_paths(content)), indent=1) + b"\n"


def _tar(files: Mapping[str, bytes], moment: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, data in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size, member.mtime, member.mode = len(data), moment, 0o644
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()
