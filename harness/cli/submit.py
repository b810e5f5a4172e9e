"""`harness submit`: a command as a job of Slurm."""

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from harness import errors
from harness.cli.console import new_console, print_line
from harness.cli.slurm import status, table
from harness.cli.slurm.status import State
from harness.cli.slurm.submit import GOING_ON, SubmitRequest
from harness.cli.slurm.submit import submit as hand_over
from harness.config.cluster_file import load_cluster
from harness.errors import UsageError
from harness.redact import redact_argv


def command(
    context: typer.Context,
    cluster: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads it at run time)
        typer.Argument(help="A cluster file, such as ablations/clusters/slurm.yaml."),
    ] = None,
    arguments: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="-- COMMAND...", help="`study FILE`, `search FILE`, ... with its options."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has ended; its exit code is this one's.")
    ] = False,
    jobs: Annotated[bool, typer.Option("--jobs", help="The jobs of a store.")] = False,
    cancel: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Cancel a submission, or the one of a job's number. May be repeated."),
    ] = None,
    store: Annotated[
        Path, typer.Option("--store", help="Folder of all runs, where the command names none.")
    ] = Path("runs"),
) -> None:
    """A command as a job of Slurm: stopped in time, started again until it is done."""
    console = new_console()
    if cancel:
        print_line(console, "cancelled: " + ", ".join(status.cancel(store, cancel)))
        raise typer.Exit(errors.PASS)
    if jobs:
        table.show(console, status.states(store))
        raise typer.Exit(errors.PASS)
    request = _request(context, cluster, arguments or [], store)
    assert cluster is not None
    wanted, text = load_cluster(cluster)
    made = hand_over(wanted, cluster, text, request, Path.cwd())
    print_line(console, f"submitted as {made.id}: {wanted.kind} job {', '.join(made.jobs)}")
    if wait:
        ended: list[State] = status.wait(request.store, made.id)
        table.show(console, ended)
        raise typer.Exit(status.worst(ended))
    print_line(console, f"To see it: harness submit --jobs --store {request.store}")


def _request(
    context: typer.Context, cluster: Path | None, words: list[str], store: Path
) -> SubmitRequest:
    """The command, read now by its own parser: a typing error is told here and not in the queue."""
    assert context.parent is not None
    group: Any = context.parent.command
    known = list(GOING_ON)
    if cluster is None or not words or words[0] not in known:
        raise UsageError(
            "harness submit",
            "a cluster file, `--`, and one of the commands " + ", ".join(known),
            " ".join([str(cluster or ""), *redact_argv(words)]).strip() or "nothing",
            "Such as: harness submit CLUSTER.yaml -- study ablations/studies/smoke.yaml",
        )
    own = any(word == "--store" or word.startswith("--store=") for word in words)
    whole = words if own else [*words, "--store", str(store)]
    parser = group.get_command(context.parent, words[0])
    parsed = parser.make_context(words[0], whole[1:], parent=context.parent)
    for parameter in parser.params:
        value = parsed.params[parameter.name]
        argument = parameter.param_type_name == "argument"
        if argument and isinstance(value, Path) and not value.exists():
            raise UsageError(
                f"harness {words[0]}",
                "a file that is there",
                str(value),
                "A path is relative to this folder, in which the job runs too.",
            )
    return SubmitRequest(words=words, store=parsed.params["store"], options=dict(parsed.params))
