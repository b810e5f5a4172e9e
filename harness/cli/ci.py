"""`harness ci`: GitHub workflows for a GPU runner."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.console import new_console
from harness.cli.github import workflows

app = typer.Typer(
    help="Workflows for a GPU runner: written, updated, checked.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RootOption = Annotated[Path, typer.Option("--root", help="The top folder of the repository.")]
ROOT = Path(".")


@app.command()
def init(
    root: RootOption = ROOT,
    runner: Annotated[
        Optional[list[str]],  # noqa: UP045  (typer reads it at run time)
        typer.Option(help="A label of the GPU runner. May be repeated [self-hosted, gpu]."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="The stored baseline of gates.")] = "speedrun",
    config: Annotated[
        str, typer.Option(help="The configuration of nightly runs and new baselines.")
    ] = "ablations/configs/speedrun.yaml",
) -> None:
    """Writes the workflows and the action into a repository that has none of them."""
    labels = tuple(runner or workflows.Choices().runner)
    choices = workflows.Choices(runner=labels, baseline=baseline, config=config)
    raise typer.Exit(workflows.init(new_console(), root, choices))


@app.command()
def update(root: RootOption = ROOT) -> None:
    """Brings newer templates into the files; own steps, changes and comments stay."""
    raise typer.Exit(workflows.update(new_console(), root))


@app.command()
def check(
    files: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(help="Workflows or actions; all of the repository where none is named."),
    ] = None,
    root: RootOption = ROOT,
    no_audit: Annotated[
        bool, typer.Option("--no-audit", help="The own rules alone: no schema, no zizmor.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="zizmor as an auditor: matters of style too.")
    ] = False,
) -> None:
    """What would give strangers the runner, break the schema, or fail zizmor's audit."""
    raise typer.Exit(
        workflows.check(new_console(), root, files or [], audited=not no_audit, strict=strict)
    )


@app.command()
def results(
    source: Annotated[Path, typer.Argument(help="What `harness gate --json` printed.")],
    exit_code: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="What the gate ended with."),
    ] = None,
    junit: Annotated[Optional[Path], typer.Option(help="The XML file to write.")] = None,  # noqa: UP045
    verdict: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A file for the one word of the verdict."),
    ] = None,
) -> None:
    """A gate as annotations of the runner, and as JUnit XML."""
    raise typer.Exit(
        workflows.results(new_console(), source, exit_code=exit_code, xml=junit, word=verdict)
    )
