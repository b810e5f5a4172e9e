"""Starts, watches and ends one trainer process.

The trainer gets its own process group, its checkout as working directory, a lock on its run
directory that lasts as long as any of its processes, and the reading end of a pipe whose end of
file means that the harness is gone. To end it, the whole group gets SIGTERM and, after a grace
period, SIGKILL; so does every other process that writes to its log, because torchrun starts each
rank in a session of its own.
"""

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from harness import files
from harness.files import lock_file
from harness.results.record import FROM_OUTSIDE, ProcessEnd
from harness.results.run_files import EventTail, Progress
from harness.runner.variables import trainer_environment

LOGGER = logging.getLogger(__name__)

GRACE_S = 10.0  # for a trainer to write `interrupted` after SIGTERM
LOG = "log.txt"
RUN_VARIABLE = "HARNESS_RUN_DIR"
SETTLE_S = 0.5  # for processes that are ending with their trainer
POLL_S = 0.02
PROGRESS_S = 0.1  # short, so that a search can prune a run within a step or two
QUIET_S = 10.0  # interval of progress calls while a trainer logs nothing
TOGETHER_S = 0.5  # a signal to all processes of a job reaches the trainer up to so much earlier


class Stop:
    """A request to end all runs: by Ctrl-C or SIGTERM; a second one skips the grace period.

    `command`: one that this one follows, which only ends some of its runs.
    """

    def __init__(self, command: "Stop | None" = None) -> None:
        self.command, self.requests = command, 0

    def request(self, *_: object) -> None:
        self.requests += 1

    def __bool__(self) -> bool:
        return self.requests > 0 or bool(self.command)

    @property
    def cause(self) -> str:
        """The `cause` in the ProcessEnd of a run that it ends."""
        return "stopped"

    @property
    def hurried(self) -> bool:
        """Whether to skip the grace period."""
        return self.requests > 1 or (self.command is not None and self.command.hurried)


@contextlib.contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """Within this context, Ctrl-C and SIGTERM end the runs, which are recorded as interrupted."""
    before = {
        number: signal.signal(number, stop.request) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_process(
    *,
    command: Sequence[str],
    run_dir: Path,
    checkout: Path,
    timeout_s: float,
    stop: Stop,
    environment: Mapping[str, str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    grace_s: float | None = None,
) -> ProcessEnd:
    """Runs `command --watch-fd N` until it ends; its output goes to log.txt in `run_dir`.

    Args:
        command: The trainer's command line.
        run_dir: An existing directory with config.json in it.
        checkout: The working directory.
        timeout_s: End the process after this long.
        stop: End the process once this is set.
        environment: Environment variables beside those that every trainer gets (variables.py).
        on_progress: Called with the progress whenever the trainer logs something, and every
            QUIET_S seconds while it logs nothing.
        grace_s: Seconds between SIGTERM and SIGKILL; None for GRACE_S.

    Raises DiskError, and OSError when the program cannot be started.
    """
    lock = lock_file(run_dir / "lock")
    assert lock is not None, f"{run_dir} is already in use"
    reading, writing = os.pipe()
    started = time.monotonic()
    try:
        inherited = (lock.fileno(), reading)
        process = _start(
            [*command, "--watch-fd", str(reading)], run_dir, checkout, environment, inherited
        )
        try:
            LOGGER.info("started process %d in %s: %s", process.pid, run_dir, shlex.join(command))
            _note_process(run_dir, process.pid, command)
            grace_s = GRACE_S if grace_s is None else grace_s
            limits = _Limits(deadline=started + timeout_s, grace_s=grace_s, stop=stop)
            cause = _watch(process, run_dir, limits, on_progress)
        finally:
            outlived_by = _end_group(process, run_dir)
    finally:
        os.close(reading)
        os.close(writing)
        lock.close()
    return ProcessEnd(
        returncode=process.returncode,
        cause=cause,
        ended_at=time.time(),
        trainer_s=time.monotonic() - started,
        limit_s=timeout_s,
        outlived_by=outlived_by,
    )


def _start(
    command: Sequence[str],
    run_dir: Path,
    checkout: Path,
    environment: Mapping[str, str] | None,
    descriptors: Sequence[int],
) -> "subprocess.Popen[bytes]":
    with files.disk_errors(run_dir), open(run_dir / LOG, "ab") as log:
        return subprocess.Popen(
            command,
            cwd=checkout,
            env=trainer_environment({**(environment or {}), **_mark(run_dir)}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=descriptors,
        )


class ProcessNote(msgspec.Struct, frozen=True, kw_only=True):
    """The trainer of a run directory: `process.json`. A pid of 1 or less is no trainer's."""

    pid: Annotated[int, msgspec.Meta(ge=2, le=2**31)]
    start_ticks: int | None = None
    command: list[str] = []


def _note_process(run_dir: Path, pid: int, command: Sequence[str]) -> None:
    note = ProcessNote(pid=pid, start_ticks=start_ticks(pid), command=list(command))
    files.write_json(run_dir / "process.json", msgspec.to_builtins(note))


def read_note(run_dir: Path) -> ProcessNote | None:
    """The trainer of a run directory; None if there is no valid note of it."""
    try:
        return msgspec.convert(files.read_json(run_dir / "process.json"), ProcessNote)
    except msgspec.ValidationError:
        return None


class _Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When to end a process: at a time of time.monotonic(), or once `stop` is set."""

    deadline: float
    grace_s: float
    stop: Stop


def _watch(
    process: "subprocess.Popen[bytes]",
    run_dir: Path,
    limits: _Limits,
    on_progress: Callable[[Progress], None] | None,
) -> str | None:
    """Waits until the process ends, or ends it at its limits; returns the cause in that case."""
    tail = EventTail(run_dir / "events.jsonl")
    next_read_s = 0.0
    logged_s = reported_s = time.monotonic()
    while exit_code(process) is None:
        now = time.monotonic()
        if limits.stop:
            _terminate(process, limits)
            return limits.stop.cause
        if now >= limits.deadline:
            _terminate(process, limits)
            return "time-out"
        if on_progress is not None and now >= next_read_s:
            if tail.read():
                logged_s = now
            if logged_s == now or now - reported_s >= QUIET_S:
                tail.progress.silent_s = now - logged_s
                on_progress(tail.progress)
                reported_s = now
            next_read_s = now + PROGRESS_S
        time.sleep(POLL_S)
    if on_progress is not None and tail.read():
        on_progress(tail.progress)
    return limits.stop.cause if _stopped_with_us(process, limits.stop) else None


def exit_code(process: "subprocess.Popen[bytes]") -> int | None:
    """The exit code of a child, as of subprocess; None while it runs.

    It is not reaped, so that the pid, and with it the group id, cannot be reused yet.
    """
    if process.returncode is not None:
        return process.returncode
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _stopped_with_us(process: "subprocess.Popen[bytes]", stop: Stop) -> bool:
    """Whether the signal that ended the trainer is also stopping this process."""
    if -(exit_code(process) or 0) not in FROM_OUTSIDE:
        return False
    deadline = time.monotonic() + TOGETHER_S
    while not stop and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return bool(stop)


def _terminate(process: "subprocess.Popen[bytes]", limits: _Limits) -> None:
    signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + limits.grace_s
    while exit_code(process) is None and time.monotonic() < deadline and not limits.stop.hurried:
        time.sleep(POLL_S)


def _end_group(process: "subprocess.Popen[bytes]", run_dir: Path) -> list[str]:
    """Kills what is left of the group and of the run, and reaps the trainer.

    Returns the processes that had left the group and the log, which is how a helper outlives its
    run unseen, as 'pid command'.
    """
    signal_group(process.pid, signal.SIGKILL)
    process.wait()
    kill_writers(run_dir / LOG)
    deadline = time.monotonic() + SETTLE_S
    while (left := marked(run_dir)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return [f"{pid} {command}" for pid, command in left.items()]


def _mark(run_dir: Path) -> dict[str, str]:
    """The environment variable by which the processes of a run are found; they inherit it."""
    return {RUN_VARIABLE: str(run_dir.resolve())}


def marked(run_dir: Path) -> dict[int, str]:
    """The living processes of a run, by the mark in their environment: pid -> command.

    Empty on a system without /proc, and for processes of another user.
    """
    (entry,) = (f"{name}={value}".encode() for name, value in _mark(run_dir).items())
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry in (process / "environ").read_bytes().split(b"\0"):
                argv = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                if argv:  # a zombie has none
                    found[int(process.name)] = argv.decode(errors="replace").strip()[:80]
    return found


def kill_writers(path: Path) -> None:
    """Kills every process that writes to a file, whatever group it is in."""
    for pid in writers(path):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def signal_group(group: int, number: int) -> None:
    """Signals a process group; does nothing if it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; with the pid, this identifies it.

    None where the process is gone, or on a system without /proc.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def holders(path: Path) -> list[int]:
    """The pids of processes that have a file open; empty on a system without /proc.

    None for a link: a trainer could let it lead to a file that others have open.
    """
    if path.is_symlink():
        return []
    target = str(path.resolve())
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(fd) == target for fd in (entry / "fd").iterdir()):
                pids.append(int(entry.name))
    return pids


def writers(path: Path) -> list[int]:
    """The pids of processes that have a file open for writing; empty without /proc."""
    return [pid for pid in holders(path) if _writes(Path(f"/proc/{pid}"), str(path.resolve()))]


def _writes(process: Path, target: str) -> bool:
    with contextlib.suppress(OSError):
        for fd in (process / "fd").iterdir():
            if os.readlink(fd) == target:
                info = (process / "fdinfo" / fd.name).read_text()
                flags = next(line for line in info.splitlines() if line.startswith("flags:"))
                if int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
    return False
