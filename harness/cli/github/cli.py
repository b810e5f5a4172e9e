"""The words of `harness ci ...` and `harness drift`; the work is imported when one runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from rich.console import Console

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
    from harness.cli.github import workflows

    labels = tuple(runner or workflows.Choices().runner)
    choices = workflows.Choices(runner=labels, baseline=baseline, config=config)
    raise typer.Exit(workflows.init(_console(), root, choices))


@app.command()
def update(root: RootOption = ROOT) -> None:
    """Brings newer templates into the files; own steps, changes and comments stay."""
    from harness.cli.github import workflows

    raise typer.Exit(workflows.update(_console(), root))


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
    from harness.cli.github import workflows

    raise typer.Exit(
        workflows.check(_console(), root, files or [], audited=not no_audit, strict=strict)
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
    from harness.cli.github import workflows

    raise typer.Exit(
        workflows.results(_console(), source, exit_code=exit_code, xml=junit, word=verdict)
    )


def drift(
    store: Annotated[Path, typer.Option(help="Folder of the nightly records.")] = Path("runs"),
    margin: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Harm that matters, such as val_loss=0.002 or tokens_per_s=0.005."),
    ] = None,
    recent: Annotated[int, typer.Option(help="A step is an alarm for so many nights.")] = 14,
    markdown: Annotated[Optional[Path], typer.Option(help="The Markdown file.")] = None,  # noqa: UP045
) -> None:
    """Since which night are runs of one configuration slower or worse?"""
    from harness.cli import compare
    from harness.report import drift as drift_report
    from harness.results.store import Store

    margins = compare.numbers(margin or [], "--margin")
    raise typer.Exit(
        drift_report.drift(_console(), Store(store), margins, recent=recent, markdown=markdown)
    )


def _console() -> "Console":
    from rich.console import Console

    return Console()
