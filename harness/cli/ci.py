"""`harness ci`: GitHub workflows for a GPU runner."""

from pathlib import Path
from typing import Annotated

import typer

from harness import errors, files
from harness.cli.console import new_console, print_line
from harness.cli.github import check as checks
from harness.cli.github import install
from harness.cli.options import JsonOption, within
from harness.report.export import print_json
from harness.report.gate import ci_formats
from harness.report.markdown import as_markdown

app = typer.Typer(
    help="Write, update and check GitHub workflows for a GPU runner.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RootOption = Annotated[Path, typer.Option("--root", help="The top folder of the repository.")]
ROOT = Path(".")


@app.command()
def init(
    root: RootOption = ROOT,
    runner: Annotated[
        list[str] | None,
        typer.Option(help="A label of the GPU runner [self-hosted, gpu]. May be repeated."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="The baseline that gates use.")] = "speedrun",
    config: Annotated[
        str, typer.Option(help="The configuration of nightly runs and new baselines.")
    ] = "ablations/configs/speedrun.yaml",
    json: JsonOption = False,
) -> None:
    """Write the workflows and the action into a repository that has none of them."""
    labels = tuple(runner or install.Choices().runner)
    choices = install.Choices(
        runner=labels, baseline=baseline, config=config, editable=install.is_clone(root)
    )
    _print_changes(install.init(root, choices), json)


@app.command()
def update(root: RootOption = ROOT, json: JsonOption = False) -> None:
    """Merge newer templates into the files; your steps, changes and comments stay."""
    _print_changes(install.update(root), json)


@app.command()
def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILES", help="Workflows or actions; by default all of the repository."
        ),
    ] = None,
    root: RootOption = ROOT,
    no_audit: Annotated[
        bool, typer.Option("--no-audit", help="Own rules alone: no schema, no zizmor.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="All of zizmor's audits, style included.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check workflows for mistakes that give strangers the runner or break the schema."""
    found, unreadable = checks.check(root, paths or [], audited=not no_audit, strict=strict)
    number = sum(map(len, found.values())) + len(unreadable)
    console = new_console()
    if json:
        answer = {
            "files": {
                str(path): sorted(some, key=lambda one: one.line) for path, some in found.items()
            },
            "unreadable": [str(error) for error in unreadable],
        }
        print_json(answer)
        raise typer.Exit(errors.USAGE if number else errors.PASS)
    for path, some in found.items():
        for one in sorted(some, key=lambda one: one.line):
            place = f"{path}:{one.line}: error ({one.rule})"
            print_line(console, f"{place}: {one.reason}.\n    {one.hint}")
    for error in unreadable:
        print_line(console, f"error: {error}")
    checked = "own rules alone" if no_audit else "own rules, schema, zizmor"
    print_line(console, f"files: {len(found) + len(unreadable)}; findings: {number} ({checked})")
    raise typer.Exit(errors.USAGE if number else errors.PASS)


@app.command()
def results(
    source: Annotated[Path, typer.Argument(help="The JSON that `harness gate --json` printed.")],
    exit_code: Annotated[
        int | None, typer.Option(callback=within(0, 255), help="The exit code of the gate.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="What the gate printed to stderr: the reason of its end.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Markdown file to write where the gate wrote none.")
    ] = None,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", help="The XML file to write.")
    ] = None,
    outcome: Annotated[
        Path | None, typer.Option(help="A file for the outcome alone, such as `pass`.")
    ] = None,
) -> None:
    """Print a gate's result as annotations of the runner, and write it as JUnit XML."""
    found = ci_formats.read(source, exit_code, log)
    for line in ci_formats.annotations(found):
        typer.echo(line)  # a workflow command: its parts are escaped
    if markdown is not None and not markdown.exists():
        files.write_text(markdown, as_markdown(ci_formats.document(found)))
    if junit_file is not None:
        files.write_text(junit_file, ci_formats.junit(found))
    if outcome is not None:
        files.write_text(outcome, found.outcome + "\n")


def _print_changes(changes: list[install.Change], json: bool) -> None:
    if json:
        print_json([{**change._asdict(), "path": str(change.path)} for change in changes])
        return
    for change in changes:
        lines = [f"{change.action:10} {change.path}"]
        lines += [f"    follows the template: {place}" for place in change.taken]
        lines += [f"    your version stays, the template differs: {one}" for one in change.kept]
        print_line(new_console(), "\n".join(lines))
