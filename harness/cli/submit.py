"""`harness submit`: a command as a job of Slurm."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from harness import errors
from harness.cli.console import new_console, print_line
from harness.cli.options import STORE, JsonOption, StoreOption
from harness.cli.slurm.status import JobStatus, cancel, exit_code_of, statuses, wait
from harness.cli.slurm.submit import RESUMABLE, SubmitRequest, submit
from harness.config.cluster_file import load_cluster
from harness.errors import UsageError
from harness.redact import redact_argv


def command(
    context: typer.Context,
    cluster: Annotated[
        Path | None, typer.Argument(help="A cluster file, such as ablations/clusters/slurm.yaml.")
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- COMMAND",
            help="study, search, full or run, its file and options.",
        ),
    ] = None,
    wait_for_end: Annotated[
        bool, typer.Option("--wait", help="Wait for the end, and exit with the job's code.")
    ] = False,
    list_jobs: Annotated[bool, typer.Option("--jobs", help="List the jobs of a store.")] = False,
    cancelled: Annotated[
        list[str] | None,
        typer.Option(
            "--cancel", help="Cancel by a submission's id or a job's number. May be repeated."
        ),
    ] = None,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Submit a command to Slurm: stopped before the time limit, requeued until it is done.

    While its job is not over, the same command finds that job, and waits for it with --wait.
    """
    if cancelled:
        numbers = cancel(store, cancelled)
        _print(json, {"cancelled": numbers}, f"cancelled: {', '.join(numbers)}")
        raise typer.Exit(errors.PASS)
    if list_jobs:
        _print_jobs(statuses(store), json)
        raise typer.Exit(errors.PASS)
    request = _request(context, cluster, arguments or [], store)
    assert cluster is not None
    file, text = load_cluster(cluster)
    made, is_new = submit(file, cluster, text, request, Path.cwd())
    done = "submitted" if is_new else "already submitted, and not over:"
    submitted = f"{done} {made.id}: {file.kind} job {', '.join(made.jobs)}"
    if wait_for_end:
        print_line(new_console(stderr=json), submitted)
        ended = wait(request.store, made.id)
        _print_jobs(ended, json)
        raise typer.Exit(exit_code_of(ended))
    hint = f"To list the jobs: harness submit --jobs --store {request.store}"
    _print(json, {"submission": made.id, "jobs": made.jobs}, f"{submitted}\n{hint}")


def _request(
    context: typer.Context, cluster: Path | None, argv: list[str], store: Path
) -> SubmitRequest:
    """The command, parsed now: a typing error fails here and not in the queue."""
    assert context.parent is not None
    group: Any = context.parent.command
    if cluster is None or not argv or argv[0] not in RESUMABLE:
        expected = "a cluster file, `--`, and one of the commands " + ", ".join(RESUMABLE)
        got = " ".join([str(cluster or ""), *redact_argv(argv)]).strip() or "nothing"
        hint = "Such as: harness submit CLUSTER.yaml -- study ablations/studies/smoke.yaml"
        raise UsageError("harness submit", expected, got, hint)
    has_store = any(text == "--store" or text.startswith("--store=") for text in argv)
    complete = argv if has_store else [*argv, "--store", str(store)]
    parser = group.get_command(context.parent, argv[0])
    parsed = parser.make_context(argv[0], complete[1:], parent=context.parent)
    for parameter in parser.params:
        value = parsed.params.get(parameter.name)
        argument = parameter.param_type_name == "argument"
        if argument and isinstance(value, Path) and not value.exists():
            hint = "A path is relative to this folder, in which the job runs too."
            raise UsageError(f"harness {argv[0]}", "an existing file", str(value), hint)
    return SubmitRequest(argv=argv, store=parsed.params["store"], options=dict(parsed.params))


def _print(json: bool, answer: Any, text: str) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(answer, enc_hook=str), indent=1).decode()
    print_line(new_console(), encoded if json else text)


def _print_jobs(jobs: Sequence[JobStatus], json: bool) -> None:
    """One row a job, and below the table why each ended and where its log is."""
    if json or not jobs:
        _print(json, jobs, "No job was submitted with this store.")
        return
    console = new_console()
    console.print(_table(jobs))
    for job in jobs:
        print_line(console, f"{job.number}: {f'{job.reason}; ' if job.reason else ''}{job.log}")


def _table(jobs: Sequence[JobStatus]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="underline")
    for title in ("submission", "job", "state", "exit", "restarts", "command"):
        right = title in ("exit", "restarts")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for job in jobs:
        code = "" if job.exit_code is None else str(job.exit_code)
        argv = " ".join(redact_argv(job.argv))
        cells = [job.submission, job.number, job.state, code, str(job.restarts), argv]
        table.add_row(*map(escape, cells))
    return table
