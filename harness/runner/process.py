"""One run: one trainer process under the contract, started, watched and ended.

The trainer gets its own process group, the checkout it belongs to as working directory, a lock on
its run directory that lives as long as any of its processes, and the reading end of a pipe whose
end of file says that the harness is gone. It is ended by SIGTERM, a grace, then SIGKILL, always
the whole group, and whoever else writes to its log: torchrun gives each rank a session of its own.
Knows neither what is run nor why; record.py reads what the run left.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from harness import files
from harness.files import lock_file
from harness.results.record import FROM_OUTSIDE, ProcessEnd
from harness.results.run_files import EventTail, Progress

GRACE_S = 10.0  # for a trainer to write `interrupted` after SIGTERM
LOG = "log.txt"
POLL_S = 0.02
PROGRESS_S = 0.1  # a search ends a run that is pruned within a step or two
QUIET_S = 10.0  # a trainer that says nothing is told of as often as this
TOGETHER_S = 0.5  # a signal to all processes of a job reaches some of them first


class Stop:
    """Asks every run to end: set once by Ctrl-C or SIGTERM, a second time without grace."""

    def __init__(self) -> None:
        self.requests = 0

    def request(self, *_: object) -> None:
        self.requests += 1

    def __bool__(self) -> bool:
        return self.requests > 0

    @property
    def cause(self) -> str:
        """Of the ends that it brings about, as `Ended` has it."""
        return "stopped"

    @property
    def hurried(self) -> bool:
        """Asked twice: without grace."""
        return self.requests > 1


@contextlib.contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask runs to end, which is then recorded; a second time without grace."""
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
    """Runs `command` plus `--watch-fd N` to its end in `run_dir`; its output goes to log.txt there.

    The run directory exists and holds config.json; `grace_s` (None: GRACE_S) lies between asking
    the trainer to end and killing it. Raises DiskError, and OSError when the program cannot be
    started.
    """
    lock = lock_file(run_dir / "lock")
    assert lock is not None, f"{run_dir} is already in use"
    reading, writing = os.pipe()
    started = time.monotonic()
    try:
        with files.disk_errors(run_dir), open(run_dir / LOG, "ab") as log:
            process = subprocess.Popen(
                [*command, "--watch-fd", str(reading)],
                cwd=checkout,
                env=dict(environment) if environment is not None else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock.fileno(), reading),
            )
        try:
            _note_process(run_dir, process.pid, command)
            grace_s = GRACE_S if grace_s is None else grace_s
            patience = _Patience(deadline=started + timeout_s, grace_s=grace_s, stop=stop)
            cause = _watch(process, run_dir, patience, on_progress)
        finally:
            _end_group(process, run_dir / LOG)
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
    )


def _note_process(run_dir: Path, pid: int, command: Sequence[str]) -> None:
    note = {"pid": pid, "start_ticks": start_ticks(pid), "command": list(command)}
    files.write_json(run_dir / "process.json", note)


class _Patience(msgspec.Struct, frozen=True, kw_only=True):
    """When a process is ended: at a moment of time.monotonic(), or when it is asked for."""

    deadline: float
    grace_s: float
    stop: Stop


def _watch(
    process: "subprocess.Popen[bytes]",
    run_dir: Path,
    patience: _Patience,
    on_progress: Callable[[Progress], None] | None,
) -> str | None:
    """Waits for the end of the process, and brings it about when patience has an end."""
    tail = EventTail(run_dir / "events.jsonl")
    next_look, heard, told = 0.0, time.monotonic(), time.monotonic()
    while not _has_ended(process):
        now = time.monotonic()
        if patience.stop:
            _terminate(process, patience)
            return patience.stop.cause
        if now >= patience.deadline:
            _terminate(process, patience)
            return "time-out"
        if on_progress is not None and now >= next_look:
            if tail.read():
                heard = now
            if heard == now or now - told >= QUIET_S:
                tail.progress.silent_s = now - heard
                on_progress(tail.progress)
                told = now
            next_look = now + PROGRESS_S
        time.sleep(POLL_S)
    if on_progress is not None and tail.read():
        on_progress(tail.progress)
    return patience.stop.cause if _ended_with_us(process, patience.stop) else None


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Looks without reaping, so that the pid, and with it the group's id, cannot be reused yet."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, flags) is not None


def _ended_with_us(process: "subprocess.Popen[bytes]", stop: Stop) -> bool:
    """Whether what ended a trainer from outside asks this process to stop, too."""
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if ended is None or ended.si_code == os.CLD_EXITED or ended.si_status not in FROM_OUTSIDE:
        return False
    late = time.monotonic() + TOGETHER_S
    while not stop and time.monotonic() < late:
        time.sleep(POLL_S)
    return bool(stop)


def _terminate(process: "subprocess.Popen[bytes]", patience: _Patience) -> None:
    signal_group(process.pid, signal.SIGTERM)
    late = time.monotonic() + patience.grace_s
    while not _has_ended(process) and time.monotonic() < late and not patience.stop.hurried:
        time.sleep(POLL_S)


def _end_group(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Kills what is left of the group (a trainer's helpers outlive it at times), then reaps."""
    signal_group(process.pid, signal.SIGKILL)
    process.wait()
    kill_writers(log)


def kill_writers(path: Path) -> None:
    """Kills the processes that write to a file, whatever group they are in."""
    for pid in writers(path):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def signal_group(group: int, number: int) -> None:
    """Signals a process group; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: pid and ticks name it for good.

    None where it is gone, or on a system without /proc.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def holders(path: Path) -> list[int]:
    """The processes that have a file open, by /proc; empty on a system without it."""
    target = str(path.resolve())
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(fd) == target for fd in (entry / "fd").iterdir()):
                found.append(int(entry.name))
    return found


def writers(path: Path) -> list[int]:
    """The processes that have a file open to write, as a trainer has its log and no reader of it;
    by /proc, empty on a system without it."""
    return [pid for pid in holders(path) if _writes(Path(f"/proc/{pid}"), str(path.resolve()))]


def _writes(process: Path, target: str) -> bool:
    with contextlib.suppress(OSError):
        for fd in (process / "fd").iterdir():
            if os.readlink(fd) == target:
                told = (process / "fdinfo" / fd.name).read_text()
                flags = next(line for line in told.splitlines() if line.startswith("flags:"))
                if int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
    return False
