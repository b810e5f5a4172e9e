"""A checkpoint on disk: its content, integrity and identity.

    checkpoints/step-00000120/
        rank-0.pt        the tensors of one rank; rank 0 also has the weights, which are equal on
                         all ranks
        manifest.json    step, position in the data, metrics so far, identity, size and SHA-256 of
                         every rank's file

A checkpoint is written to a folder of another name, synced to disk and renamed, so a killed process
leaves a complete checkpoint or none. Later damage is found by size and SHA-256 before a byte is
used. A checkpoint of another configuration, seed, data, protocol, number of ranks or code is
refused with the field that differs.

No torch, so that a resume is refused before torch is imported. `staging` reads and writes the
tensors, `writer` decides when, `resume` selects the checkpoint to resume from.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.config import Config, identity
from model.errors import DamagedCheckpoint, RunError

FORMAT = 1
FOLDER = "checkpoints"
MANIFEST = "manifest.json"
NAME = re.compile(r"step-[0-9]{8,}")
UNFINISHED = ".unfinished"
DAMAGED = ".damaged"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredFile:
    """Size and hash of one rank's file."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """The identity of a run. A resumed run must have an equal one, except for `code_id`."""

    config_id: str
    seed: int
    data_id: str | None
    """Null only while the data is not prepared, never in a checkpoint."""
    protocol: int
    code_id: str
    packages: dict[str, str]
    """Versions of torch and of the kernel packages, which are part of `code_id`."""
    requested: dict[str, Any]
    """The input of `config_id`: the fields that differ from their defaults."""
    ranks: int = 1
    """Number of ranks; each stores its share of the optimizer state."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A checkpoint without its tensors."""

    step: int
    """Optimizer steps taken."""
    tokens: int
    next_row: int
    """The first row of the packing plan that no step has taken."""
    metrics: dict[str, float | None]
    counters: dict[str, float]
    """Sums from which metrics are computed at the end of the run."""
    environment_id: str
    identity: Identity
    files: dict[str, StoredFile] = dataclasses.field(default_factory=dict)
    format: int = FORMAT


def identity_of(config: Config, data_id: str | None, ranks: int = 1) -> Identity:
    """The identity of the checkpoints of a run of this configuration."""
    return Identity(
        config_id=identity.config_id(config),
        seed=config.seed,
        data_id=data_id,
        protocol=identity.PROTOCOL,
        code_id=identity.code_id(),
        packages=identity.kernel_versions(),
        requested=identity.identifying(config),
        ranks=ranks,
    )


def folder_of(run_dir: Path) -> Path:
    return run_dir / FOLDER


def listed(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first, whether intact or not."""
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def rank_file(rank: int) -> str:
    return f"rank-{rank}.pt"


def clear(folder: Path) -> None:
    """Delete what a killed process left unfinished. Call it before any rank writes."""
    for left_over in folder.glob(f"step-*{UNFINISHED}"):
        shutil.rmtree(left_over)


def unfinished(folder: Path, step: int) -> Path:
    """The folder in which all ranks write a checkpoint until it is published."""
    return folder / f"step-{step:08d}{UNFINISHED}"


def publish(written: Path, manifest: Manifest) -> Path:
    """Turn a folder with all ranks' files into a checkpoint: write the manifest and rename the
    folder."""
    with (written / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(manifest), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _force_to_disk(written)
    path = written.with_name(written.name.removesuffix(UNFINISHED))
    written.rename(path)
    _force_to_disk(path.parent)
    return path


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in listed(folder)[keep:]:
        shutil.rmtree(path)


def mark_damaged(path: Path) -> None:
    """Rename a damaged checkpoint, so that it is neither resumed from nor counted."""
    aside = path.with_name(path.name + DAMAGED)
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint. Raises DamagedCheckpoint, RunError for a newer format."""
    try:
        values = json.loads((path / MANIFEST).read_bytes())
        if values["format"] > FORMAT:
            raise _newer(path, values["format"])
        files = {name: StoredFile(**stored) for name, stored in values.pop("files").items()}
        whose = Identity(**values.pop("identity"))
        return Manifest(identity=whose, files=files, **values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        got = f"an unreadable one ({type(error).__name__}: {error})"
        raise damaged(path, f"a {MANIFEST}", got) from error


def require_whole(path: Path, manifest: Manifest, rank: int) -> None:
    """Raise DamagedCheckpoint unless this rank's file is intact."""
    name = rank_file(rank)
    if (stored := manifest.files.get(name)) is None:
        raise damaged(path, f"a file {name}", f"a {MANIFEST} without it")
    try:
        size = (path / name).stat().st_size
        if size != stored.bytes:
            raise damaged(path, f"{stored.bytes:,} bytes in {name}", f"{size:,}")
        with (path / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise damaged(path, f"a file {name}", str(error.strerror).lower()) from error
    if digest != stored.sha256:
        expected = f"content of SHA-256 {stored.sha256[:12]} in {name}"
        raise damaged(path, expected, digest[:12])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """What a resumed run may differ in from the checkpoint it continues."""

    other_code: bool = False
    other_ranks: bool = False


def refuse_other_run(folder: Path, requested: Identity, options: ResumeOptions) -> None:
    """`require_same_run` for the newest readable checkpoint, if there is one."""
    for path in listed(folder):
        try:
            saved = read_manifest(path).identity
        except DamagedCheckpoint:
            continue
        require_same_run(path, saved, requested, options)
        return


def require_same_run(
    path: Path, saved: Identity, requested: Identity, options: ResumeOptions
) -> None:
    """Raise RunError naming what differs between the checkpoint and the requested run."""
    if saved.protocol != requested.protocol:
        hint = "The measured quantities changed since then: start a new run with another --out."
        raise _foreign(path, f"protocol {requested.protocol}", f"protocol {saved.protocol}", hint)
    if saved.config_id != requested.config_id or saved.seed != requested.seed:
        want, got = _differing(saved, requested)
        hint = "Resume with the original configuration, config.json of the run directory, "
        raise _foreign(path, want, got, hint + "or start a new run with another --out.")
    if saved.ranks != requested.ranks and not options.other_ranks:
        want, got = f"ranks {requested.ranks}", f"ranks {saved.ranks}"
        raise _foreign(path, want, got, _start_ranks(saved.ranks))
    if requested.data_id is not None and saved.data_id != requested.data_id:
        want, got = f"data {requested.data_id[:12]}", f"data {str(saved.data_id)[:12]}"
        hint = "Text, tokenizer or packing changed: restore the old data, or start a new run."
        raise _foreign(path, want, got, hint)
    if saved.code_id != requested.code_id and not options.other_code:
        want, got = f"code {requested.code_id[:12]}", f"code {saved.code_id[:12]}"
        versions = _versions(saved.packages, requested.packages)
        hint = (
            "Check out the code that the run started with, or pass --other-code to continue with "
            "this code; the result then mixes both."
        )
        raise _foreign(path, want, got + versions, hint)


def damaged(path: Path, expected: str, got: str) -> DamagedCheckpoint:
    """The error for a damaged checkpoint."""
    hint = "The previous one is used, if any; delete this one to silence the message."
    return DamagedCheckpoint(path=str(path), expected=expected, got=got, hint=hint)


def not_loadable(path: Path, error: Exception) -> RunError:
    """The error for a checkpoint of other code whose tensors do not fit this code."""
    reason = " ".join(str(error).split())[:300]
    hint = "Check out the code that the run started with."
    expected = "a checkpoint of a model and optimizers as this code builds them"
    return RunError(path=str(path), expected=expected, got=reason, hint=hint)


def _start_ranks(count: int) -> str:
    command = f"`torchrun --nproc-per-node {count} -m model.train ... --resume`"
    same = "Start it without torchrun" if count == 1 else f"Start as many, with {command}"
    return f"{same}; or pass --other-ranks: steps then last as long as with this number."


def _foreign(path: Path, expected: str, got: str, hint: str) -> RunError:
    return RunError(path=str(path), expected=f"a checkpoint of {expected}", got=got, hint=hint)


def _newer(path: Path, found: int) -> RunError:
    hint = "Newer code wrote it: update this code."
    expected = f"a checkpoint of format {FORMAT} or older"
    return RunError(path=str(path), expected=expected, got=f"format {found}", hint=hint)


def _differing(saved: Identity, requested: Identity) -> tuple[str, str]:
    """The fields that differ, with the requested and the saved values."""
    before, now = dict(_flat(saved.requested)), dict(_flat(requested.requested))
    names = sorted(name for name in before | now if before.get(name) != now.get(name))
    if saved.seed != requested.seed:
        before["seed"], now["seed"] = saved.seed, requested.seed
        names.append("seed")
    return _listing(names, now), _listing(names, before)


def _listing(names: list[str], values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {values.get(name, '(its default)')}" for name in names)


def _flat(section: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their dotted paths; an empty mapping is a value."""
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _versions(saved: dict[str, str], requested: dict[str, str]) -> str:
    names = sorted(name for name in saved | requested if saved.get(name) != requested.get(name))
    changes = [
        f"{name} {saved.get(name, 'none')}, now {requested.get(name, 'none')}" for name in names
    ]
    return f" ({'; '.join(changes)})" if changes else ""


def _force_to_disk(folder: Path) -> None:
    """Sync a folder: only then does a rename or a new file in it survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
