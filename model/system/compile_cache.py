"""The folders of compiled kernels: one for each Python, torch, Triton and processor.

Compiling takes half a minute, loading compiled kernels two seconds, so the caches of Inductor,
Triton, FlashAttention-4 and quack are below `system.compile_cache_dir`. Each is keyed by the code
that it compiles: Inductor's by the graph, the shapes, its settings and torch's source;
AOTAutograd's, in the same folder, by the traced graph; Triton's by kernel source, signature and
target; those of FlashAttention-4 and quack by a fingerprint of their source files and of CuTe. A
changed model file therefore misses. The folder's name has what the keys do not all cover, the
versions and the processor.

A cache may break: a full disk, a folder of another user, files truncated by a killed run. The run
then compiles in a temporary folder, prints why, and records the reason (`faults`). Variables that
the user has set are not changed: they move files and change no result. No torch.
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

FOLDERS = {  # the variable of a cache, and the folder below ours
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": "flash_attention_4",
    "QUACK_CACHE_DIR": "quack",
}
SWITCHES = {"FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1"}  # off by default; quack's is on
FIELD = "system.compile_cache_dir"


class CompileCache:
    """The folders that this process compiles into; `faults` lists the faults of the cache."""

    def __init__(self, root: Path, key: str, environ: MutableMapping[str, str]) -> None:
        self.key, self.faults = key, list[str]()
        self.set_by_user = {name: environ[name] for name in FOLDERS if environ.get(name)}
        self._environ, self._persistent = environ, (root / key).absolute()
        self._temporary: Path | None = None
        self._point_to(self._persistent, self.set_by_user)
        found = [problem for path in self.folders.values() if (problem := _unwritable(path))]
        if found:
            self.use_temporary(found[0])
        self.was_empty = not any(map(_has_entries, self.folders.values()))

    @property
    def is_temporary(self) -> bool:
        """Whether the process compiles into a temporary folder."""
        return self._temporary is not None

    def use_temporary(self, fault: str) -> None:
        """Compile into an empty temporary folder from now on; raises MachineError where there is no
        disk space."""
        self.faults.append(fault)
        print(f"compile cache: {fault}; compiling in a temporary folder", flush=True)
        try:
            self._temporary = Path(tempfile.mkdtemp(prefix="compile-"))
        except OSError as error:
            raise no_disk_space(str(error)) from None
        atexit.register(shutil.rmtree, self._temporary, ignore_errors=True)
        self._point_to(self._temporary, {})
        self.was_empty = True

    def discard_persistent(self) -> None:
        """Delete the faulty folder, so that the next run fills it again. A run that reads it now
        finds files missing and compiles them."""
        assert self.is_temporary, "the folder in use is not deleted"
        if not self.set_by_user:
            shutil.rmtree(self._persistent, ignore_errors=True)

    def _point_to(self, root: Path, chosen: Mapping[str, str]) -> None:
        self.folders = {
            name: Path(chosen.get(name) or root / folder) for name, folder in FOLDERS.items()
        }
        self._environ.update({name: str(path) for name, path in self.folders.items()})
        for name, value in SWITCHES.items():
            self._environ.setdefault(name, value)


def folder_key(versions: Mapping[str, str], processor: str) -> str:
    """The folder's name: Python's minor version, torch's and Triton's versions, the processor."""
    python = "py" + ".".join(platform.python_version_tuple()[:2])
    packages = [f"{name}{versions[name]}" for name in ("torch", "triton") if name in versions]
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", "-".join([python, *packages, processor]))


def no_disk_space(problem: str) -> MachineError:
    """The error where neither the cache nor the temporary folder can be written."""
    return MachineError(
        path=FIELD,
        expected=f"disk space for compiled kernels there or in {tempfile.gettempdir()}",
        got=problem,
        hint=f"Free some disk space, set {FIELD} to another folder, or set system.compile: false.",
    )


def _unwritable(folder: Path) -> str | None:
    """Why files cannot be written there, or null; creates the folder. Writes a file, because
    permission bits do not cover read-only file systems, quotas and full disks."""
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
