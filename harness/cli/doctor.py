"""`harness doctor`: what this machine can run, and what to do about the rest.

Imports neither torch nor the trainer: the trainer is asked about torch, GPUs and back-ends.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from harness import errors, files
from harness.cli.console import new_console, print_line
from harness.cli.options import STORE, StoreOption, open_store
from harness.errors import DiskError, TrainerError
from harness.results.store import Store
from harness.runner.trainer import NativeTrainer, by_name


def command(
    store: StoreOption = STORE,
    trainer: Annotated[str, typer.Option(help="The trainer: native or fake.")] = "native",
) -> None:
    """What this machine can run, and hints for the rest."""
    raise typer.Exit(doctor(new_console(), open_store(store), by_name(trainer)))


def doctor(console: Console, store: Store, trainer: NativeTrainer) -> int:
    """What this machine can run; exit code 4 when the smoke study could not."""
    findings = examine(store.root, trainer)
    for finding in findings:
        print_line(console, finding.line())
    lacking = [finding.name for finding in findings if finding.needed and not finding.good]
    if lacking:
        print_line(console, f"The smoke study cannot run here for want of: {', '.join(lacking)}.")
        return errors.COULD_NOT_RUN
    print_line(console, "The smoke study can run here: harness study ablations/studies/smoke.yaml")
    return errors.PASS


CORE = ("numpy", "scipy", "pyarrow", "msgspec", "ruamel.yaml", "typer", "rich")
EXTRAS = {
    "report": (("plotly", "matplotlib"), "the HTML report and pictures"),
    "search": (("optuna", "optuna_dashboard", "psycopg"), "harness search"),
    "train": (("torch", "tiktoken", "rustbpe"), "the native trainer"),
}
LEAST_DISK_BYTES = 2 * 2**30
LEAST_YEAR = 2026  # a clock before the year of this code is wrong, and sessions are told by clocks


class DoctorCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `needed`: the smoke study cannot run without it."""

    name: str
    good: bool
    detail: str
    hint: str = ""
    needed: bool = True

    def line(self) -> str:
        """The finding as it is printed, with its hint below where one is called for."""
        sign = "ok" if self.good else "MISSING" if self.needed else "missing"
        text = f"{sign:8} {self.name}: {self.detail}"
        return text if self.good or not self.hint else f"{text}\n         -> {self.hint}"


def examine(store_root: Path, trainer: NativeTrainer) -> list[DoctorCheck]:
    """All findings, in the order in which to repair them."""
    return [
        _python(),
        _core(),
        *(_extra(name) for name in EXTRAS),
        *_trainer(trainer),
        _store(store_root),
        _disk(store_root),
        _git(trainer.checkout),
        _clock(),
    ]


def _python() -> DoctorCheck:
    version = ".".join(map(str, sys.version_info[:3]))
    return DoctorCheck(
        name="Python",
        good=sys.version_info >= (3, 11),
        detail=f"{version} at {sys.executable}",
        hint="Install Python 3.11 or newer.",
    )


def _missing(packages: tuple[str, ...]) -> list[str]:
    def absent(package: str) -> bool:
        try:
            return importlib.util.find_spec(package) is None
        except ModuleNotFoundError:
            return True

    return [package for package in packages if absent(package)]


def _core() -> DoctorCheck:
    missing = _missing(CORE)
    return DoctorCheck(
        name="core packages",
        good=not missing,
        detail=f"missing: {', '.join(missing)}" if missing else ", ".join(map(_version, CORE)),
        hint="pip install .",
    )


def _version(package: str) -> str:
    return f"{package} {metadata.version(package)}"


def _extra(name: str) -> DoctorCheck:
    packages, gives = EXTRAS[name]
    missing = _missing(packages)
    return DoctorCheck(
        name=f"extra {name}",
        good=not missing,
        detail=f"{gives}; missing: {', '.join(missing)}"
        if missing
        else f"{gives}: " + ", ".join(map(_version, packages)),
        hint=f"pip install '.[{name}]'",
        needed=name == "train",
    )


def _trainer(trainer: NativeTrainer) -> list[DoctorCheck]:
    try:
        tricks = trainer.catalogue().tricks
        seen = trainer.machine()
    except TrainerError as error:
        return [DoctorCheck(name="trainer", good=False, detail=error.got, hint=error.hint)]
    found = [
        DoctorCheck(
            name="trainer",
            good=True,
            detail=f"{trainer.name} at {trainer.checkout}, {len(tricks)} tricks",
        ),
        DoctorCheck(
            name="torch",
            good=trainer.name != "native" or bool(seen.get("torch")),
            detail=f"{seen.get('torch') or 'none'}, CUDA {seen.get('cuda') or 'none'}",
            hint="pip install '.[train]'",
        ),
        _gpus(seen.get("gpus") or []),
    ]
    backends, fused = seen.get("backends") or {}, seen.get("fused_kernels") or {}
    found += [_kernel(f"back-end {name}", entry) for name, entry in backends.items()]
    return found + [_kernel(f"fused {place}", entry) for place, entry in fused.items()]


def _gpus(gpus: list[dict[str, Any]]) -> DoctorCheck:
    shown = [f"{g.get('name')} ({(g.get('memory_bytes') or 0) / 2**30:.0f} GiB)" for g in gpus]
    faults = {fault["got"]: fault["hint"] for gpu in gpus for fault in gpu.get("faults") or ()}
    return DoctorCheck(
        name="GPUs",
        good=bool(gpus) and not faults,
        detail="; ".join([", ".join(shown) or "none: runs go on the CPU", *faults]),
        hint=" ".join(dict.fromkeys(faults.values()))
        or "For GPU studies: a CUDA driver, and torch built for it.",
        needed=False,
    )


def _kernel(name: str, entry: dict[str, Any]) -> DoctorCheck:
    return DoctorCheck(
        name=name,
        good=bool(entry.get("runs")),
        detail="runs" if entry.get("runs") else str(entry.get("reason") or "does not run"),
        hint=str(entry.get("hint") or ""),
        needed=False,
    )


def _store(root: Path) -> DoctorCheck:
    probe, there = root / ".doctor", root.exists()
    try:
        files.write_text(probe, "x")
        probe.unlink()
        if not there:
            root.rmdir()
    except (DiskError, OSError) as error:
        return DoctorCheck(
            name="store",
            good=False,
            detail=f"{root} cannot be written: {error}",
            hint="Name another folder with --store.",
        )
    return DoctorCheck(name="store", good=True, detail=f"{root.resolve()} can be written")


def _disk(root: Path) -> DoctorCheck:
    place = root if root.exists() else Path()
    free = shutil.disk_usage(place).free
    return DoctorCheck(
        name="disk",
        good=free >= LEAST_DISK_BYTES,
        detail=f"{free / 2**30:.1f} GiB free",
        hint="Free some space; the tokens of large data and checkpoints take gigabytes.",
    )


def _git(checkout: Path) -> DoctorCheck:
    inside = bool(shutil.which("git")) and (
        subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, env=dict(os.environ)
        ).returncode
        == 0
    )
    return DoctorCheck(
        name="git",
        good=inside,
        detail="the checkout is a repository" if inside else "no repository with a commit",
        hint="For arms on other code (`ref`, `patch`): work in a clone.",
        needed=False,
    )


def _clock() -> DoctorCheck:
    now = time.gmtime()
    return DoctorCheck(
        name="clock",
        good=now.tm_year >= LEAST_YEAR,
        detail=time.strftime("%Y-%m-%d %H:%M:%S UTC", now),
        hint="Set the clock: sessions and prices are told by it.",
    )
