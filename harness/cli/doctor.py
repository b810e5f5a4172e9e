"""`harness doctor`: what this machine can run, and hints for what it cannot.

The trainer reports torch, GPUs and back-ends (verb `doctor`); this command adds the
requirements of the harness itself.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import typer

from harness import errors, files
from harness.cli.console import new_console, print_line
from harness.cli.options import STORE, JsonOption, StoreOption, TrainerOption
from harness.errors import DiskError, TrainerError
from harness.format import plural
from harness.report.export import print_json
from harness.runner.environment import version_here
from harness.runner.trainer import NativeTrainer, by_name

CORE = ("numpy", "scipy", "pandas", "pyarrow", "msgspec", "ruamel.yaml", "typer", "rich", "jinja2")
EXTRAS = {
    "report": (("matplotlib",), "charts"),
    "search": (("optuna", "optuna_dashboard", "psycopg"), "harness search"),
    "train": (("torch", "tiktoken", "rustbpe"), "the native trainer"),
}
MIN_DISK_BYTES = 2 * 2**30
MIN_YEAR = 2026  # of this code: an earlier clock is wrong


class DoctorCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One check. `needed`: the smoke study cannot run without it."""

    name: str
    good: bool
    detail: str
    hint: str = ""
    needed: bool = True

    def line(self) -> str:
        """The check as it is printed, with the hint on a line of its own if it failed."""
        sign = "ok" if self.good else "MISSING" if self.needed else "missing"
        text = f"{sign:8} {self.name}: {self.detail}"
        return text if self.good or not self.hint else f"{text}\n         -> {self.hint}"


def command(
    store: StoreOption = STORE,
    trainer: TrainerOption = "native",
    json: JsonOption = False,
) -> None:
    """Check what this machine can run; exit code 4 if the smoke study cannot."""
    checks = examine(store, by_name(trainer))
    missing = [check.name for check in checks if check.needed and not check.good]
    if json:
        print_json({"can_run_smoke_study": not missing, "missing": missing, "checks": checks})
    else:
        first = "" if Path("ablations").is_dir() else "harness init && "
        name = "smoke" if trainer == "native" else trainer
        study = f"{first}harness study ablations/studies/{name}.yaml"
        answer = f"The {name} study can run here: {study}"
        if missing:
            answer = f"The {name} study cannot run here; missing: {', '.join(missing)}."
        for line in [answer, *(check.line() for check in checks)]:
            print_line(new_console(), line)
    raise typer.Exit(errors.COULD_NOT_RUN if missing else errors.PASS)


def examine(store_root: Path, trainer: NativeTrainer) -> list[DoctorCheck]:
    """All checks, in the order in which to fix what is missing."""
    return [
        DoctorCheck(
            name="Python",
            good=sys.version_info >= (3, 11),
            detail=f"{sys.version.split()[0]} at {sys.executable}",
            hint="Install Python 3.11 or newer.",
        ),
        _packages("core packages", CORE, "", "pip install speedrun-harness"),
        *(
            _packages(
                f"extra {name}",
                *extra,
                f"pip install 'speedrun-harness[{name}]'",
                needed=name == "train",
            )
            for name, extra in EXTRAS.items()
        ),
        *_trainer(trainer),
        _store(store_root),
        _disk(store_root),
        _git(trainer.checkout),
        DoctorCheck(
            name="clock",
            good=time.gmtime().tm_year >= MIN_YEAR,
            detail=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            hint="Set the clock: sessions and costs are computed from it.",
        ),
    ]


def _packages(
    name: str, packages: tuple[str, ...], purpose: str, hint: str, *, needed: bool = True
) -> DoctorCheck:
    versions = {package: version_here(package) for package in packages}
    missing = [package for package, version in versions.items() if version is None]
    shown = ", ".join(f"{package} {version}" for package, version in versions.items())
    if missing:
        shown = f"missing {', '.join(missing)}"
    detail = shown + (f" (for {purpose})" if purpose else "")
    return DoctorCheck(name=name, good=not missing, detail=detail, hint=hint, needed=needed)


def _trainer(trainer: NativeTrainer) -> list[DoctorCheck]:
    try:
        tricks = trainer.catalogue().tricks
        machine = trainer.machine()
    except TrainerError as error:
        return [DoctorCheck(name="trainer", good=False, detail=error.got, hint=error.hint)]
    backends, fused = machine.get("backends") or {}, machine.get("fused_kernels") or {}
    return [
        DoctorCheck(
            name="trainer",
            good=True,
            detail=f"{trainer.name} at {trainer.checkout}, {plural(len(tricks), 'trick')}",
        ),
        DoctorCheck(
            name="torch",
            good=trainer.name != "native" or bool(machine.get("torch")),
            detail=f"{machine.get('torch') or 'none'}, CUDA {machine.get('cuda') or 'none'}",
            hint="pip install 'speedrun-harness[train]'",
        ),
        _gpus(machine.get("gpus") or []),
        *(_kernel(f"back-end {name}", entry) for name, entry in backends.items()),
        *(_kernel(f"fused {name}", entry) for name, entry in fused.items()),
    ]


def _gpus(gpus: list[dict[str, Any]]) -> DoctorCheck:
    names = [f"{g.get('name')} ({(g.get('memory_bytes') or 0) / 2**30:.0f} GiB)" for g in gpus]
    faults = {fault["got"]: fault["hint"] for gpu in gpus for fault in gpu.get("faults") or ()}
    return DoctorCheck(
        name="GPUs",
        good=bool(gpus) and not faults,
        detail="; ".join([", ".join(names) or "none: runs use the CPU", *faults]),
        hint=" ".join(dict.fromkeys(faults.values()))
        or "GPU studies need a CUDA driver and a torch that is built for it.",
        needed=False,
    )


def _kernel(name: str, entry: dict[str, Any]) -> DoctorCheck:
    runs = bool(entry.get("runs"))
    detail = "runs" if runs else str(entry.get("reason") or "does not run")
    hint = str(entry.get("hint") or "")
    return DoctorCheck(name=name, good=runs, detail=detail, hint=hint, needed=False)


def _store(root: Path) -> DoctorCheck:
    probe, existed = root / ".doctor", root.exists()
    try:
        files.write_text(probe, "x")
        probe.unlink()
        if not existed:
            root.rmdir()
    except (DiskError, OSError) as error:
        detail, hint = f"{root} is not writable: {error}", "Name another folder with --store."
        return DoctorCheck(name="store", good=False, detail=detail, hint=hint)
    return DoctorCheck(name="store", good=True, detail=f"{root.resolve()} is writable")


def _disk(root: Path) -> DoctorCheck:
    free = shutil.disk_usage(root if root.exists() else Path()).free
    return DoctorCheck(
        name="disk",
        good=free >= MIN_DISK_BYTES,
        detail=f"{free / 2**30:.1f} GiB free",
        hint="Free some space: tokenized data and checkpoints take gigabytes.",
    )


def _git(checkout: Path) -> DoctorCheck:
    command = ["git", "rev-parse", "HEAD"]
    inside = bool(shutil.which("git")) and (
        subprocess.run(command, cwd=checkout, capture_output=True).returncode == 0
    )
    return DoctorCheck(
        name="git",
        good=inside,
        detail="the checkout is a repository" if inside else "no repository with a commit",
        hint="Arms on other code (`ref`, `patch`) need a clone of the repository.",
        needed=False,
    )
