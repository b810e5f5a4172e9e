"""Writes the generated blocks of README.md, gpu.md and tricks.md, from records and the catalogue.

    python docs/tools/generate.py             # tables of the catalogue, studies and benchmarks
    python docs/tools/generate.py --store S     # before that, docs/speedrun-d8.csv and its picture
    python docs/tools/generate.py --logs A B  # before that, docs/compare.txt from two log folders

A test checks that all pages are what the first form writes.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
DOCS, ROOT = TOOLS.parent, TOOLS.parents[1]
sys.path[:0] = [str(ROOT), str(TOOLS)]  # started as a script or by a test, it sees neither

import gpu_tables  # noqa: E402

OUTCOMES = (0, 3, 10)  # exit codes of a comparison: pass, inconclusive, regression
README, GPU, TRICKS = ROOT / "README.md", DOCS / "gpu.md", DOCS / "tricks.md"
SHOWN = {
    "val_bpb": "val_bpb",
    "tokens_per_s": "tokens/s",
    "time_total": "training time to the same loss",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--store", help="take a study from this store")
    parser.add_argument("--study", default=gpu_tables.PICTURED)
    parser.add_argument("--logs", nargs=2, type=Path, metavar=("A", "B"))
    arguments = parser.parse_args()
    if arguments.store:
        take(arguments.store, arguments.study)
    if arguments.logs:
        compare(*arguments.logs)
    for page, made in PAGES.items():
        page.write_text(made(page.read_text(encoding="utf-8")), encoding="utf-8")


def take(store: str, study: str) -> None:
    """Copies the numbers of a study, and the picture of README.md, out of a store."""
    command = [sys.executable, "-m", "harness", "report", study, "--store", store, "--no-html"]
    command += ["--csv", str(DOCS / f"{study}.csv")]
    if study == gpu_tables.PICTURED:
        command += ["--picture", str(DOCS / f"{study}.png")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def compare(a: Path, b: Path) -> None:
    """Writes the output of `harness compare` for two folders of one parent folder."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", "compare", a.name, "--", b.name, "--store", "none"],
        cwd=a.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "104", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in OUTCOMES, done.stderr
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    (DOCS / "compare.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def compared() -> str:
    """docs/compare.txt up to the end of its table, as a code block."""
    lines = (DOCS / "compare.txt").read_text(encoding="utf-8").splitlines()
    last = max(index for index, line in enumerate(lines) if "informational" in line) + 1
    return "```\n" + "\n".join(lines[: last + 1]).strip("\n") + "\n```"


def regenerated(text: str) -> str:
    """`text` with each generated block replaced."""
    pictured = gpu_tables.PICTURED
    text = _replaced(text, "study table", cost(pictured) + study_table(pictured))
    text = _replaced(text, "comparison", compared())
    text = _replaced(text, "speed", gpu_tables.speed_table())
    return _replaced(text, "tricks", tricks_list())


def cost(study: str) -> str:
    """Size, number and duration of its runs, from the records under baselines/."""
    runs = gpu_tables.study_runs(study)
    base = next(record for record in runs if record["launch"]["arm"] == "base")
    (gpu,) = {record["environment"]["gpus"][0]["name"] for record in runs}
    minutes = sum(record["wall_s"] for record in runs) / 60
    return (
        f"{base['derived']['sizes']['layers']} layers, {base['tokens'] / 1e6:.0f}M tokens a run, "
        f"one {gpu}: {len(runs)} runs in {minutes:.0f} minutes.\n\n"
    )


def study_table(study: str) -> str:
    """One row a trick, from docs/<study>.csv."""
    with (DOCS / f"{study}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    shown = {(row["trick"], row["metric"]): row["shown"] or "–" for row in rows}
    outside = {(row["trick"], row["metric"]) for row in rows if row["outside"] == "True"}
    first = rows[0]
    lines = [
        f"| {first['change']} trick | {' | '.join(SHOWN.values())} |",
        "|---|" + "---|" * len(SHOWN),
    ]
    for trick in dict.fromkeys(row["trick"] for row in rows):
        cells = []
        for metric in SHOWN:
            cell = shown.get((trick, metric), "–")
            cells.append(f"**{cell}**" if (trick, metric) in outside else cell)
        lines.append(f"| {trick} | {' | '.join(cells)} |")
    note = (
        f"\n{first['n_arm']} runs an arm, {first['n_base']} of the base; intervals of 95 %, "
        "corrected for the number of arms. Bold: outside its noise interval."
    )
    return "\n".join(lines) + "\n" + note


def regenerated_gpu(text: str) -> str:
    """docs/gpu.md with each generated block replaced."""
    tables = {
        "attention": gpu_tables.attention_table,
        "step": gpu_tables.speed_table,
        "toggles": lambda: gpu_tables.toggles_table(_in_recipe()),
        "fp8": gpu_tables.fp8_table,
        "ranks": gpu_tables.ranks_table,
        "preflight": gpu_tables.preflight_table,
        "forecast": gpu_tables.forecast_table,
        "loader": gpu_tables.loader_table,
        "start": gpu_tables.start_table,
        "core": gpu_tables.core_table,
        "loss": gpu_tables.loss_table,
        "search": gpu_tables.search_table,
    }
    for block, made in tables.items():
        text = _replaced(text, block, made())
    return text


def regenerated_tricks(text: str) -> str:
    """docs/tricks.md with its tables replaced."""
    text = _replaced(text, "tricks", tricks_table())
    return _replaced(text, "not built", not_built_table())


def tricks_list() -> str:
    """The catalogue's names, those of the reference recipe first."""
    names = {True: [], False: []}
    for name, in_recipe in _in_recipe().items():
        names[in_recipe].append(f"`{name}`")
    return (
        f"On in `speedrun` ({len(names[True])}): {', '.join(names[True])}.\n\n"
        f"Off there ({len(names[False])}): {', '.join(names[False])}."
    )


def tricks_table() -> str:
    """One row an entry of the trainer's catalogue."""
    in_recipe = _in_recipe()
    lines = ["| trick | what it does | on in `speedrun` | off means | needs | source | people |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, trick in _described("--catalogue")["tricks"].items():
        off = ", ".join(f"`{path}: {json.dumps(value)}`" for path, value in trick["off"].items())
        needs = [f"`{other}`" for other in trick["requires"]]
        needs += [f"not `{other}`" for other in trick["conflicts"]]
        cells = [f"`{name}`", trick["summary"], "yes" if in_recipe[name] else "", off]
        lines.append(
            f"| {' | '.join([*cells, ', '.join(needs), trick['source'], trick['people']])} |"
        )
    return "\n".join(lines)


def not_built_table() -> str:
    """One row a known trick that is no toggle."""
    lines = ["| trick | what it does | source | people | why not |", "|---|---|---|---|---|"]
    for name, trick in _described("--catalogue")["not_built"].items():
        cells = [trick[cell] for cell in ("summary", "source", "people", "reason")]
        lines.append(f"| {' | '.join([f'`{name}`', *cells])} |")
    return "\n".join(lines)


def _in_recipe() -> dict[str, bool]:
    return _described("ablations/configs/speedrun.yaml", "--json")["tricks"]


def _described(*arguments: str) -> Any:
    command = [sys.executable, "-m", "model.describe", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _replaced(text: str, block: str, content: str) -> str:
    begin, end = f"<!-- generated: {block} -->", f"<!-- end of generated: {block} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    assert rest, f"the page has no block {block!r}"
    return f"{before}{begin}\n{content}\n{end}{after}"


PAGES = {README: regenerated, GPU: regenerated_gpu, TRICKS: regenerated_tricks}

if __name__ == "__main__":
    main()
