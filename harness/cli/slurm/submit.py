"""Submits a harness command to a scheduler through submitit, and records the submission.

The batch script is one process: Python replaces the shell, so that the scheduler's signal before
the time limit reaches it, and a trainer on several nodes finds them free for srun. The only file
that imports submitit.

A job is submitted on one machine, runs on a second and resumes on a third. A store on a file system
that is certainly one node's own is refused: memory, a container's layer, folders for temporary
files. `mounts` is the text of /proc/self/mountinfo.
"""

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.cli.slurm.job import Job
from harness.cli.slurm.status import running_like
from harness.cli.slurm.submission import Submission, new_folder, save, save_secret_argv
from harness.config.cluster_file import ClusterFile
from harness.errors import ClusterError, UsageError
from harness.files import file_system, mounts_here
from harness.redact import redact_argv, redact_shell
from harness.results.store import Store

if TYPE_CHECKING:
    from submitit import Executor

EXTRA = "pip install 'speedrun-harness[clusters]'"
SEARCH, WORKER = "search", "--worker"
RESUMABLE = ("study", SEARCH, "full", "run")
"""The commands that resume when they are run again, as a job at its time limit needs."""

NODE_TYPES = {"tmpfs", "ramfs", "devtmpfs", "overlay", "squashfs"}
NODE_FOLDERS = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
UNSAFE_LOCKS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs"}
"""Where several nodes must not write one SQLite file (sqlite.org/lockingv3.html)."""


class SubmitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A command to run in a job, parsed by the command line's own parser."""

    argv: list[str]  # after `harness`
    store: Path
    options: dict[str, Any]  # by name, as parsed

    @property
    def name(self) -> str:
        return self.argv[0]


def submit(
    cluster: ClusterFile, file: Path, text: str, request: SubmitRequest, cwd: Path
) -> tuple[Submission, bool]:
    """Submits a command as one job, or as an array of a search's workers.

    Returns (the submission, whether it is new): the same command with the same cluster file is not
    submitted again before its jobs are over, unless it is one more `--worker` of a search. Raises
    ClusterError, and UsageError for a command that does not fit the cluster file.
    """
    check(cluster, request, mounts_here())
    with Store(request.store).locked():  # two commands at the same moment submit once
        key = (redact_argv(request.argv), str(cwd), redact_shell(text))
        if WORKER not in request.argv and (running := running_like(request.store, *key)):
            return running, False
        return _submit(cluster, file, text, request, cwd), True


def _submit(
    cluster: ClusterFile, file: Path, text: str, request: SubmitRequest, cwd: Path
) -> Submission:
    now = time.time()
    folder = new_folder(request.store, now)
    executor = executor_of(cluster, folder, request.name)
    made = Submission(
        id=folder.name,
        submitted_at=now,
        argv=redact_argv(request.argv),
        cwd=str(cwd),
        python=sys.executable,
        kind=cluster.kind,
        file=str(file),
        text=redact_shell(text),
    )
    save(folder, made)
    if made.text != text:
        folder.chmod(0o700)  # submitit's script in it has the setup lines as they are
    if made.argv != request.argv:
        save_secret_argv(folder, request.argv)
    jobs = [job_of(cluster, request, folder, number, now) for number in range(cluster.jobs)]
    try:
        made = msgspec.structs.replace(made, jobs=_submit_array(executor, jobs))
    except ClusterError:
        shutil.rmtree(folder)  # nothing was submitted
        raise
    save(folder, made)
    return made


def check(cluster: ClusterFile, request: SubmitRequest, mounts: str) -> None:
    """Finds mistakes that would show only on the node. Raises ClusterError, UsageError."""
    if cluster.jobs > 1 and request.name != SEARCH:
        expected = f"one job for `harness {request.name}`; only a search has workers"
        hint = "Write `jobs: 1`; --gpus 0-7 makes eight runs at a time inside one job."
        raise UsageError("jobs", expected, f"jobs: {cluster.jobs}", hint)
    if cluster.kind == "local":
        return
    if not cluster.shared_store:
        check_shared(request.store, mounts)
    if request.options.get("storage") is None:
        check_writers(request.store, cluster.jobs, mounts)


def job_of(
    cluster: ClusterFile, request: SubmitRequest, folder: Path, number: int, now: float
) -> Job:
    """One job; those of an array beyond the first are workers of the search.

    `now`: time of the submission. A worker waits for the base even if it failed before then.
    """
    argv = [*redact_argv(request.argv), "--store", str(request.store.resolve())]
    if number:  # all start together, and the first one runs the base
        argv += [WORKER, "--wait-for-base", str(cluster.minutes), "--since", f"{now:.3f}"]
    return Job(
        kind=cluster.kind,
        folder=str(folder),
        store=str(request.store.resolve()),
        argv=argv,
        takes_minutes="max_minutes" in request.options,
        max_minutes=request.options.get("max_minutes"),
        limit_s=60.0 * cluster.minutes,
        reserve_s=float(cluster.signal_seconds_before_end),
        requeue=cluster.requeues,
    )


def executor_of(cluster: ClusterFile, folder: Path, name: str) -> "Executor":
    """submitit's executor with the settings of a cluster file. Raises ClusterError."""
    submitit = import_submitit()
    executor: Executor
    if cluster.kind == "local":
        executor = submitit.LocalExecutor(folder=folder)
        executor.update_parameters(
            timeout_min=cluster.minutes,
            gpus_per_node=cluster.gpus_per_node or 0,
            signal_delay_s=cluster.signal_seconds_before_end,
            stderr_to_stdout=True,
            setup=cluster.setup,
        )
        return executor
    if shutil.which("sbatch") is None:
        hint = "Submit from a login node of the cluster, or write `kind: local` to try it here."
        raise ClusterError("", "Slurm's `sbatch`", "no such program on this machine", hint)
    executor = submitit.SlurmExecutor(folder=folder, python=f"exec {shlex.quote(sys.executable)}")
    executor.update_parameters(**slurm_parameters(cluster, name))
    return executor


def slurm_parameters(cluster: ClusterFile, name: str) -> dict[str, Any]:
    """A cluster file as parameters of submitit's Slurm executor; unset ones are absent."""
    memory = cluster.memory_gb
    optional = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "exclude": ",".join(cluster.exclude) or None,
        "gpus_per_node": cluster.gpus_per_node,
        "cpus_per_task": cluster.cpus_per_task,
        "mem": None if memory is None else f"{round(1024 * memory)}M",
    }
    return {
        **{key: value for key, value in optional.items() if value is not None},
        "job_name": f"harness-{name}",
        "time": cluster.minutes,
        "nodes": cluster.nodes,
        "ntasks_per_node": 1,
        "setup": ["set -e", *cluster.setup],
        "use_srun": False,
        "stderr_to_stdout": True,
        "additional_parameters": {
            # B: to the batch process alone, which is the harness and stops its trainers
            "signal": f"B:USR2@{cluster.signal_seconds_before_end}",
            "requeue" if cluster.requeues else "no-requeue": True,
        },
    }


def import_submitit() -> Any:
    """submitit. Raises ClusterError where it is not installed."""
    try:
        import submitit
    except ImportError as error:
        expected = "the package that submits jobs"
        got = f"no package {error.name}"
        raise ClusterError("submitit", expected, got, f"Install it: {EXTRA}") from error
    return submitit


def _submit_array(executor: "Executor", jobs: list[Job]) -> list[str]:
    """The scheduler's numbers of the jobs. Raises ClusterError where it refuses them."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return [job.job_id for job in executor.submit_array(jobs)]
    except (FailedJobError, FailedSubmissionError) as error:
        got = str(error).strip() or "a refusal without a message"
        hint = "Correct the cluster file where the message points: partition, account, time, nodes."
        raise ClusterError("sbatch", "Slurm to accept the job", got, hint) from error


# --- the store ------------------------------------------------------------------------------------


def check_shared(store: Path, mounts: str) -> None:
    """Raises ClusterError for a store that is certainly one node's own."""
    path = store.resolve()
    kind = file_system(path, mounts)
    folder = next((folder for folder in NODE_FOLDERS if path.is_relative_to(folder)), None)
    if folder is None and kind not in NODE_TYPES:
        return
    raise ClusterError(
        f"--store {store}",
        "a store that every node of the cluster can see",
        f"{path}, below {folder}" if folder else f"{path}, on {kind}",
        "Use a store on the cluster's shared file system. If every node can see this one, write "
        "`shared_store: true` into the cluster file.",
    )


def check_writers(store: Path, jobs: int, mounts: str) -> None:
    """Raises ClusterError where several jobs would share a SQLite file without safe locks."""
    kind = file_system(store.resolve(), mounts)
    if jobs > 1 and kind in UNSAFE_LOCKS:
        expected = "a storage that several nodes can write safely"
        hint = "Add --storage postgresql://user@host/database to the search."
        raise ClusterError("jobs", expected, f"a SQLite file on {kind}", hint)
