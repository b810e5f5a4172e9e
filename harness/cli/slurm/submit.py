"""Hands a harness command to a scheduler, by submitit, and notes what was handed over.

The batch script is one process: the interpreter takes the shell's place, so that the scheduler's
signal before the time limit reaches it, and a trainer on several nodes finds them free for srun.
The only file that knows submitit.
"""

import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.cli.slurm import journal, shared
from harness.cli.slurm.job import Job
from harness.cli.slurm.journal import Submission
from harness.config.cluster_file import ClusterFile
from harness.errors import ClusterError, UsageError
from harness.redact import redact_argv

if TYPE_CHECKING:
    from submitit import Executor

EXTRA = "pip install '.[clusters]'"
SEARCH = "search"
GOING_ON = ("study", SEARCH, "full", "run")
"""The commands whose `the same command goes on` is what a job needs."""


class SubmitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A command that is to run in a job, read by the command line's own parser."""

    words: list[str]  # after `harness`
    store: Path
    options: dict[str, Any]  # by name, as they were parsed

    @property
    def name(self) -> str:
        return self.words[0]


def submit(
    cluster: ClusterFile, file: Path, text: str, asked: SubmitRequest, cwd: Path
) -> Submission:
    """Submits a command as one job, or as an array of a search's workers.

    Raises ClusterError, and UsageError for a command that this cluster file does not fit.
    """
    mounts = shared.mounts_here()
    check(cluster, asked, mounts)
    now = time.time()
    folder = journal.new_folder(asked.store, now)
    executor = executor_of(cluster, folder, asked.name)
    made = Submission(
        id=folder.name,
        submitted_at=now,
        words=redact_argv(asked.words),
        cwd=str(cwd),
        python=sys.executable,
        kind=cluster.kind,
        file=str(file),
        text=text,
    )
    journal.save(folder, made)
    if made.words != asked.words:
        journal.keep_words(folder, asked.words)
    try:
        jobs = [job_of(cluster, asked, folder, number, now) for number in range(cluster.jobs)]
        numbers = _hand_over(executor, jobs)
    except ClusterError:
        shutil.rmtree(folder)  # nothing was submitted
        raise
    made = msgspec.structs.replace(made, jobs=numbers)
    journal.save(folder, made)
    return made


def check(cluster: ClusterFile, asked: SubmitRequest, mounts: str) -> None:
    """What would go wrong only on the node. Raises ClusterError, UsageError."""
    if cluster.jobs > 1 and asked.name != SEARCH:
        raise UsageError(
            "jobs",
            f"one job for `harness {asked.name}`; only a search has workers",
            f"jobs: {cluster.jobs}",
            "Write `jobs: 1`; --gpus 0-7 makes eight runs at a time inside one job.",
        )
    if cluster.kind == "local":
        return
    if not cluster.shared_store:
        shared.check_shared(asked.store, mounts)
    if asked.options.get("storage") is None:
        shared.check_writers(asked.store, cluster.jobs, mounts)


def job_of(
    cluster: ClusterFile, asked: SubmitRequest, folder: Path, number: int, now: float
) -> Job:
    """What one job does; those of an array beyond the first are workers beside it.

    `now`: of the submission. A base that failed before it is no reason for a worker not to wait.
    """
    words = [*redact_argv(asked.words), "--store", str(asked.store.resolve())]
    if number:  # they begin together, and the first one makes the base
        words += ["--worker", "--wait-for-base", str(cluster.minutes), "--since", f"{now:.3f}"]
    return Job(
        kind=cluster.kind,
        folder=str(folder),
        store=str(asked.store.resolve()),
        words=words,
        takes_minutes="max_minutes" in asked.options,
        max_minutes=asked.options.get("max_minutes"),
        limit_s=60.0 * cluster.minutes,
        reserve_s=float(cluster.signal_seconds_before_end),
        requeue=cluster.requeue,
    )


def executor_of(cluster: ClusterFile, folder: Path, name: str) -> "Executor":
    """submitit's executor with all that a cluster file says. Raises ClusterError."""
    submitit = import_submitit()
    executor: Executor
    if cluster.kind == "local":
        executor = submitit.LocalExecutor(folder=folder)
        executor.update_parameters(**local_parameters(cluster))
        return executor
    if shutil.which("sbatch") is None:
        raise ClusterError(
            "",
            "Slurm's `sbatch`",
            "no such program on this machine",
            "Submit from a login node of the cluster, or write `kind: local` to try it out.",
        )
    executor = submitit.SlurmExecutor(folder=folder, python=f"exec {shlex.quote(sys.executable)}")
    executor.update_parameters(**slurm_parameters(cluster, name))
    return executor


def local_parameters(cluster: ClusterFile) -> dict[str, Any]:
    """A cluster file in the words of submitit's local executor."""
    return {
        "timeout_min": cluster.minutes,
        "gpus_per_node": cluster.gpus_per_node or 0,
        "signal_delay_s": cluster.signal_seconds_before_end,
        "stderr_to_stdout": True,
        "setup": cluster.setup,
    }


def slurm_parameters(cluster: ClusterFile, name: str) -> dict[str, Any]:
    """A cluster file in the words of submitit's Slurm executor; what is not asked for is absent."""
    memory = cluster.memory_gb
    wanted = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "exclude": ",".join(cluster.exclude) or None,
        "gpus_per_node": cluster.gpus_per_node,
        "cpus_per_task": cluster.cpus_per_task,
        "mem": None if memory is None else f"{round(1024 * memory)}M",
    }
    again = {"requeue": True} if cluster.requeue else {"no-requeue": True}
    return {
        **{key: value for key, value in wanted.items() if value is not None},
        "job_name": f"harness-{name}",
        "time": cluster.minutes,
        "nodes": cluster.nodes,
        "ntasks_per_node": 1,
        "setup": ["set -e", *cluster.setup],
        "use_srun": False,
        "stderr_to_stdout": True,
        # B: the batch process alone, which is the harness; its trainers hear from it
        "additional_parameters": {
            "signal": f"B:USR2@{cluster.signal_seconds_before_end}",
            **again,
        },
    }


def import_submitit() -> Any:
    """submitit. Raises ClusterError where it is not installed."""
    try:
        import submitit
    except ImportError as error:
        raise ClusterError(
            "",
            "submitit, which hands jobs to the scheduler",
            f"no package {error.name}",
            f"Install the extra: {EXTRA}",
        ) from error
    return submitit


def _hand_over(executor: "Executor", jobs: Sequence[Job]) -> list[str]:
    """The scheduler's numbers of the jobs. Raises ClusterError where it takes none."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return [job.job_id for job in executor.submit_array(jobs)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise ClusterError(
            "sbatch",
            "that Slurm takes the job",
            str(error).strip() or "a refusal without words",
            "Correct what it names in the cluster file: partition, account, time, nodes.",
        ) from error
