"""Runs a trainer in a container of Linux namespaces, so that it can change nothing but its own run.

Inside, the file system of the machine is read-only except for the run directory, a cache of this
side's own, and memory file systems; the harness's store and a CI runner's files are hidden; there
is no network, except while data is prepared; and no process outside can be seen or signalled. So a
candidate cannot edit records, the program that decides about it, or the files of a CI step.

It can still read what the user can read, and use the GPU. What it writes into its run directory
stays data of the candidate: its losses are its own claim, unless the base's evaluator measures its
checkpoint (harness/gate/evaluation.py). Uses bubblewrap (`bwrap`), which needs no root.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from harness import files
from harness.errors import TrainerError

PROGRAM = "bwrap"
CACHE = ".cache"  # of a checkout: prepared data and compiled kernels
ALONE = (
    "--unshare-user-try",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--die-with-parent",
)
SECRETS = (
    *(".ssh", ".aws", ".azure", ".config", ".docker", ".gnupg", ".kube", ".netrc"),
    *(".git-credentials", ".pypirc"),
    *(".cache/huggingface/token", ".cache/huggingface/stored_tokens"),
)
RUNNER_SECRETS = (".credentials", ".credentials_rsaparams", ".env", ".runner")  # of GitHub's runner
RESOLVER = Path("/run/systemd/resolve")


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """What one side of a gate may write and see.

    `cache`: its own folder, mounted as `.cache` of its checkout. `hidden`: folders that it sees
    empty. `covered`: files that it sees empty.
    """

    cache: Path
    hidden: tuple[Path, ...] = ()
    covered: tuple[Path, ...] = ()

    def command(
        self,
        command: Sequence[str],
        checkout: Path,
        *,
        writable: Sequence[Path] = (),
        readable: Sequence[Path] = (),
        network: bool = False,
    ) -> list[str]:
        """The command line that runs `command` inside.

        Arguments appended to it reach the command, and inherited descriptors stay open.

        Args:
            command: The trainer's command line.
            checkout: Its working directory, read-only.
            writable: Folders of this run.
            readable: Files and folders to see in spite of `hidden`.
            network: Whether it may use the network.
        """
        with files.disk_errors(self.cache):
            for folder in (self.cache, checkout / CACHE, *writable):
                folder.mkdir(parents=True, exist_ok=True)
        argv = [PROGRAM, *ALONE, *([] if network else ["--unshare-net"]), "--cap-drop", "ALL"]
        argv += ["--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc"]
        for hidden in ("/dev/shm", "/tmp", "/run", *map(str, self.hidden)):
            argv += ["--tmpfs", hidden]
        for file in self.covered:
            argv += ["--ro-bind", os.devnull, str(file)]
        program = Path(command[0])
        seen = [RESOLVER, _environment_of(program), checkout, *readable]
        for path in seen:
            argv += ["--ro-bind-try", str(path), str(path)]
        argv += ["--bind", str(self.cache.resolve()), str(checkout / CACHE)]
        for path in writable:
            argv += ["--bind", str(path), str(path)]
        return [*argv, "--chdir", str(checkout), "--", *command]


def _environment_of(program: Path) -> Path:
    """The virtual environment of an interpreter, or the interpreter itself."""
    folder = program.parent.parent
    return folder if (folder / "pyvenv.cfg").exists() else program


def of_side(
    store: Path, role: str, checkout: Path, environment: Mapping[str, str] = os.environ
) -> Sandbox:
    """The sandbox of one side of a gate. `role`: base or candidate, which share no cache: a later
    gate's base must not use what a candidate has prepared.

    Raises TrainerError where this machine cannot make one.
    """
    check_available()
    home = Path.home()
    hidden = [store.resolve(), *(home / name for name in SECRETS)]
    covered: list[Path] = []
    if runner := environment.get("RUNNER_TEMP"):  # <runner>/_work/_temp: the files of its steps
        hidden.append(Path(runner))
        covered += [Path(runner).parent.parent / name for name in RUNNER_SECRETS]
    return Sandbox(
        cache=store.resolve() / "caches" / role / checkout.name,
        hidden=tuple(path for path in hidden if path.is_dir()),
        covered=tuple(path for path in (*hidden, *covered) if path.is_file()),
    )


def check_available() -> str:
    """The version of bubblewrap. Raises TrainerError where it is missing or may not run."""
    hint = (
        "Install it (`apt install bubblewrap`) and allow user namespaces, which Ubuntu 24.04 "
        "restricts by AppArmor; or leave --sandbox out for code that you trust."
    )
    if shutil.which(PROGRAM) is None:
        raise TrainerError("--sandbox", f"the program {PROGRAM}", "none", hint)
    argv = [PROGRAM, *ALONE, "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc"]
    tried = subprocess.run([*argv, PROGRAM, "--version"], capture_output=True, text=True)
    if tried.returncode != 0:
        got = f"exit code {tried.returncode} and: {tried.stderr.strip()[-300:]}"
        raise TrainerError("--sandbox", f"a {PROGRAM} that may run", got, hint)
    return tried.stdout.strip()
