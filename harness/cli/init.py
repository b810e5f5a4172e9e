"""`harness init`: example configurations, studies, searches, full jobs and cluster files."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from harness import files
from harness.cli.console import new_console, print_line
from harness.cli.options import JsonOption
from harness.format import plural
from harness.report.export import print_json

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
    json: JsonOption = False,
) -> None:
    """Copy the example files into ablations/, to run and to edit. Existing files are kept."""
    target = folder / "ablations"
    copied, kept = copy_examples(target)
    console = new_console()
    if json:
        print_json({"folder": str(target), "copied": copied, "kept": kept})
        return
    copied_text, kept_text = plural(len(copied), "file"), plural(len(kept), "existing file")
    print_line(console, f"{target}: {copied_text} copied, {kept_text} kept")
    print_line(console, "Next:")
    lines = [(line.format(target), purpose) for line, purpose in NEXT]
    width = max(len(line) for line, _ in lines)
    for line, purpose in lines:
        print_line(console, f"  {line:{width}}  # {purpose}")


def copy_examples(target: Path) -> tuple[list[str], list[str]]:
    """The files that were copied, and those that existed and were kept; relative to `target`."""
    copied, kept = [], []
    for source in sorted(path for path in EXAMPLES.glob("**/*") if path.is_file()):
        name = source.relative_to(EXAMPLES)
        if (target / name).exists():
            kept.append(str(name))
            continue
        with files.disk_errors(target):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)
        copied.append(str(name))
    return copied, kept
