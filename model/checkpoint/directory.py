"""A checkpoint on the disk: what it holds, whether it is whole, and whose it is.

    checkpoints/step-00000120/
        rank-0.pt        the tensors of one rank; each rank writes its own file, and rank 0 the
                         weights too, which are equal on all ranks
        manifest.json    step, place in the data, metrics so far, identity, size and SHA-256 of
                         every rank's file

A checkpoint is written in a folder of another name, forced to the disk and renamed: a process
killed at any moment leaves a whole one or none. What a disk does to it later is found by size and
SHA-256 before a byte is used. A checkpoint whose configuration, seed, data, protocol, number of
ranks or code differs is refused with the field that differs: it would go on as another run under
this one's name.

No torch, so that a resumption is refused before torch is imported. `staging` reads and writes the
tensors, `writer` decides when, `resume` which one a run continues from.
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
class Stored:
    """One rank's file as it was written."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """Whose checkpoint it is. All but `code_id` have to be equal for a run to go on."""

    config_id: str
    seed: int
    data_id: str | None
    """Null only where the data is not prepared yet, never in a checkpoint."""
    protocol: int
    code_id: str
    packages: dict[str, str]
    """Versions of torch and of the kernel packages, which are part of `code_id`."""
    requested: dict[str, Any]
    """What `config_id` is the hash of: the fields that differ from their defaults."""
    ranks: int = 1
    """Each has its share of the optimizer's states in a file of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of a checkpoint but its tensors."""

    step: int
    """Optimizer steps taken; the run goes on with the next one."""
    tokens: int
    next_row: int
    """The first row of the packing plan that no step has taken."""
    metrics: dict[str, float | None]
    counters: dict[str, float]
    """Sums that metrics are made of at the end of the run."""
    environment_id: str
    identity: Identity
    files: dict[str, Stored] = dataclasses.field(default_factory=dict)
    format: int = FORMAT


def identity_of(config: Config, data_id: str | None, ranks: int = 1) -> Identity:
    """Whose checkpoints a run of this configuration writes."""
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
    """Where a run directory keeps its checkpoints."""
    return run_dir / FOLDER


def listed(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first; whole or not."""
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def rank_file(rank: int) -> str:
    """The name of one rank's tensors."""
    return f"rank-{rank}.pt"


def clear(folder: Path) -> None:
    """Removes what a killed process left unfinished. Before any rank writes."""
    for left_over in folder.glob(f"step-*{UNFINISHED}"):
        shutil.rmtree(left_over)


def unfinished(folder: Path, step: int) -> Path:
    """Where all ranks write a checkpoint's files until it is published."""
    return folder / f"step-{step:08d}{UNFINISHED}"


def publish(written: Path, manifest: Manifest) -> Path:
    """Makes a checkpoint of a folder with all its ranks' files, by writing the manifest and
    renaming."""
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
    """Removes all but the newest `keep` checkpoints."""
    for path in listed(folder)[keep:]:
        shutil.rmtree(path)


def set_aside(path: Path) -> None:
    """Renames a damaged checkpoint, so that it's neither taken for a newer one nor counted."""
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
        files = {name: Stored(**stored) for name, stored in values.pop("files").items()}
        whose = Identity(**values.pop("identity"))
        return Manifest(identity=whose, files=files, **values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        got = f"none that can be read ({type(error).__name__}: {error})"
        raise damaged(path, f"a {MANIFEST}", got) from error


def require_whole(path: Path, manifest: Manifest, rank: int) -> None:
    """Raises DamagedCheckpoint unless this rank's file is the one that was written."""
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


def refuse_other_run(folder: Path, asked: Identity, *, other_code: bool) -> None:
    """`require_same_run` for the newest checkpoint that can be read; none is no fault."""
    for path in listed(folder):
        try:
            kept = read_manifest(path).identity
        except DamagedCheckpoint:
            continue
        require_same_run(path, kept, asked, other_code=other_code)
        return


def require_same_run(path: Path, kept: Identity, asked: Identity, *, other_code: bool) -> None:
    """Raises RunError naming what differs between the checkpoint and the run that was asked for."""
    if kept.protocol != asked.protocol:
        hint = "What is measured has changed since: start a new run, with another --out."
        raise _foreign(path, f"protocol {asked.protocol}", f"protocol {kept.protocol}", hint)
    if kept.config_id != asked.config_id or kept.seed != asked.seed:
        want, got = _differing(kept, asked)
        hint = "Resume with the configuration it began with, config.json of the run directory, "
        raise _foreign(path, want, got, hint + "or start a new run with another --out.")
    if kept.ranks != asked.ranks:
        want, got = f"ranks {asked.ranks}", f"ranks {kept.ranks}"
        raise _foreign(path, want, got, _start_ranks(kept.ranks))
    if asked.data_id is not None and kept.data_id != asked.data_id:
        want, got = f"data {asked.data_id[:12]}", f"data {str(kept.data_id)[:12]}"
        hint = "Text, tokenizer or packing has changed: bring the old data back, or start anew."
        raise _foreign(path, want, got, hint)
    if kept.code_id != asked.code_id and not other_code:
        want, got = f"code {asked.code_id[:12]}", f"code {kept.code_id[:12]}"
        versions = _versions(kept.packages, asked.packages)
        hint = (
            "Check out the code that the run began with; or say --other-code to go on with this "
            "one: the result is then of neither alone."
        )
        raise _foreign(path, want, got + versions, hint)


def damaged(path: Path, expected: str, got: str) -> DamagedCheckpoint:
    """What is wrong with a checkpoint that was once whole."""
    hint = "The one before it is used, where there is one; delete it to get rid of this line."
    return DamagedCheckpoint(path=str(path), expected=expected, got=got, hint=hint)


def not_loadable(path: Path, error: Exception) -> RunError:
    """A checkpoint of other code whose tensors are not those of this code."""
    reason = " ".join(str(error).split())[:300]
    hint = "Check out the code that the run began with."
    expected = "a checkpoint of a model and optimizers as this code builds them"
    return RunError(path=str(path), expected=expected, got=reason, hint=hint)


def _start_ranks(count: int) -> str:
    if count == 1:
        return "Each rank's file holds its share of the states: start it without torchrun."
    words = f"`torchrun --nproc-per-node {count} -m model.train ... --resume`"
    return f"Each rank's file holds its share of the states: start as many, with {words}."


def _foreign(path: Path, expected: str, got: str, hint: str) -> RunError:
    return RunError(path=str(path), expected=f"a checkpoint of {expected}", got=got, hint=hint)


def _newer(path: Path, found: int) -> RunError:
    hint = "It was written by newer code: update this one."
    expected = f"a checkpoint of format {FORMAT} or older"
    return RunError(path=str(path), expected=expected, got=f"format {found}", hint=hint)


def _differing(kept: Identity, asked: Identity) -> tuple[str, str]:
    """The fields that differ, with the values asked for and those of the checkpoint."""
    before, now = dict(_flat(kept.requested)), dict(_flat(asked.requested))
    names = sorted(name for name in before | now if before.get(name) != now.get(name))
    if kept.seed != asked.seed:
        before["seed"], now["seed"] = kept.seed, asked.seed
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


def _versions(kept: dict[str, str], asked: dict[str, str]) -> str:
    names = sorted(name for name in kept | asked if kept.get(name) != asked.get(name))
    told = [f"{name} {kept.get(name, 'none')}, now {asked.get(name, 'none')}" for name in names]
    return f" ({'; '.join(told)})" if told else ""


def _force_to_disk(folder: Path) -> None:
    """A rename or a new file outlives a loss of power once its folder is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
