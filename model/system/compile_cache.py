"""Where compiled kernels are kept between runs: one folder for each Python, torch, Triton and
processor.

Compiling takes half a minute where loading what was compiled takes two seconds, so the caches of
Inductor, Triton, FlashAttention-4 and quack are kept below `system.compile_cache_dir`. Nothing here
decides what is found in them, because each is keyed by the code that it compiles: Inductor's by the
graph, the shapes, its settings and torch's own source; AOTAutograd's, in the same folder, by the
traced graph; Triton's by kernel source, signature and target; those of FlashAttention-4 and quack
by a fingerprint of their source files and of CuTe. A changed model file therefore misses by
itself. What those keys do not all cover, the versions and the processor, stands in the folder's
name, so that kernels of another version are never even read.

A cache is a convenience and may break: a full disk, a folder of another user, files cut short by a
killed run. The run then compiles in a folder of its own that is deleted with the process, says why,
and the record keeps the reason (`faults`). Variables that the user has set are left alone: they
move files and change no result. No torch.
"""

import atexit
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from model.errors import MachineError

FOLDERS = {  # the variable that moves a cache, and the cache's folder below ours
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": "flash_attention_4",
    "QUACK_CACHE_DIR": "quack",
}
SWITCHES = {"FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1"}  # off unless asked for; quack's is on
FIELD = "system.compile_cache_dir"


class CompileCache:
    """The folders that this process compiles into; `faults` says what was wrong with the cache."""

    def __init__(self, root: Path, key: str, environ: MutableMapping[str, str]) -> None:
        self.key, self.faults = key, list[str]()
        self.set_by_user = {name: environ[name] for name in FOLDERS if environ.get(name)}
        self._environ, self._own = environ, (root / key).absolute()
        self._temporary: Path | None = None
        self._point_to(self._own, self.set_by_user)
        found = [problem for path in self.folders.values() if (problem := _unwritable(path))]
        if found:
            self.leave(found[0])
        self.was_empty = not any(map(_has_entries, self.folders.values()))

    @property
    def is_temporary(self) -> bool:
        """Whether the kept folder was left for one that ends with this process."""
        return self._temporary is not None

    def leave(self, fault: str) -> None:
        """From now on compiles into an empty folder of this process; raises MachineError where
        there is no room for one."""
        self.faults.append(fault)
        print(f"compile cache: {fault}; compiling in a temporary folder", flush=True)
        try:
            self._temporary = Path(tempfile.mkdtemp(prefix="compile-"))
        except OSError as error:
            raise no_room(str(error)) from None
        atexit.register(shutil.rmtree, self._temporary, ignore_errors=True)
        self._point_to(self._temporary, {})
        self.was_empty = True

    def discard_kept(self) -> None:
        """Deletes the folder that was left, so that the next run fills it anew. A run that reads
        it at this moment finds files missing and compiles for itself."""
        assert self.is_temporary, "the folder in use is not deleted"
        if not self.set_by_user:
            shutil.rmtree(self._own, ignore_errors=True)

    def _point_to(self, root: Path, kept: Mapping[str, str]) -> None:
        self.folders = {
            name: Path(kept.get(name) or root / folder) for name, folder in FOLDERS.items()
        }
        self._environ.update({name: str(path) for name, path in self.folders.items()})
        for name, value in SWITCHES.items():
            self._environ.setdefault(name, value)


def folder_key(versions: Mapping[str, str], processor: str) -> str:
    """The folder's name: Python's minor version, torch's and Triton's versions, the processor."""
    python = "py" + ".".join(platform.python_version_tuple()[:2])
    packages = [f"{name}{versions[name]}" for name in ("torch", "triton") if name in versions]
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", "-".join([python, *packages, processor]))


def no_room(problem: str) -> MachineError:
    """Compiled kernels can be written neither where they are kept nor in the temporary folder."""
    return MachineError(
        path=FIELD,
        expected=f"room for compiled kernels there or in {tempfile.gettempdir()}",
        got=problem,
        hint=f"Free some disk space, or name another folder as {FIELD}; "
        "system.compile: false does without.",
    )


def _unwritable(folder: Path) -> str | None:
    """What keeps files from being written there; makes the folder. Asks by writing: permission
    bits say nothing of read-only file systems, quotas and full disks."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0" * 4096)
        probe.unlink()
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror or error})"
    return None


def _has_entries(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
