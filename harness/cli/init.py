"""`harness init`: example configurations, studies, searches, full jobs and cluster files."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.console import new_console, print_line

EXAMPLES = Path(__file__).parents[1] / "examples"
NEXT = (
    ("harness doctor", "what this machine can run"),
    ("harness study {}/studies/fake.yaml", "the simulated trainer: seconds, no GPU"),
    ("harness study {}/studies/smoke.yaml", "the native trainer on a CPU: minutes"),
    ("harness study {}/studies/speedrun_d8.yaml --dry-run", "time and cost on a GPU"),
)


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder in which to create ablations/.")
    ] = Path("."),
) -> None:
    """Copy the example files into ablations/, to run and to edit. Existing files are kept."""
    target = folder / "ablations"
    console, copied, kept = new_console(), 0, 0
    for source in sorted(path for path in EXAMPLES.glob("**/*") if path.is_file()):
        path = target / source.relative_to(EXAMPLES)
        if path.exists():
            kept += 1
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        copied += 1
    print_line(console, f"{target}: {copied} files copied, {kept} existing files kept")
    print_line(console, "Next:")
    commands = [(line.format(target), text) for line, text in NEXT]
    width = max(len(line) for line, _ in commands)
    for line, text in commands:
        print_line(console, f"  {line:{width}}  # {text}")
