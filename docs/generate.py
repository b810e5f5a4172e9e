"""Writes what README.md, gpu.md and tricks.md show of records and of the catalogue; nothing there
is typed in by hand.

    python docs/generate.py               # tables of the catalogue, of studies and of benchmarks
    python docs/generate.py --store runs --study smoke  # before that, docs/smoke.csv
    python docs/generate.py --logs A B    # before that, docs/compare.txt from two folders of logs

A test holds all pages equal to what the first form would write.
"""

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
README, GPU, TRICKS = ROOT / "README.md", DOCS / "gpu.md", DOCS / "tricks.md"
RECORDS = ROOT / "benchmarks" / "records" / "h100"
STUDIES = ROOT / "baselines" / "studies"
PICTURED = "speedrun-d8"  # README's picture
SHOWN = {
    "val_bpb": "val_bpb",
    "tokens_per_s": "tokens/s",
    "time_total": "training time to the same loss",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--store", help="take a study from this store")
    parser.add_argument("--study", default="smoke")
    parser.add_argument("--logs", nargs=2, type=Path, metavar=("A", "B"))
    arguments = parser.parse_args()
    if arguments.store:
        take(arguments.store, arguments.study)
    if arguments.logs:
        compare(*arguments.logs)
    for page, made in PAGES.items():
        page.write_text(made(page.read_text(encoding="utf-8")), encoding="utf-8")


def take(store: str, study: str) -> None:
    """Copies a study's numbers, and README's picture, out of a store."""
    command = [sys.executable, "-m", "harness", "report", study, "--store", store, "--no-html"]
    command += ["--csv", str(DOCS / f"{study}.csv")]
    if study == PICTURED:
        command += ["--picture", str(DOCS / f"{study}.png")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def compare(a: Path, b: Path) -> None:
    """Writes what `harness compare` prints of two folders that stand side by side."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", "compare", a.name, "--", b.name, "--store", "none"],
        cwd=a.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "104", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    (DOCS / "compare.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def compared() -> str:
    """The page of docs/compare.txt, without the lines on how to read it."""
    lines = (DOCS / "compare.txt").read_text(encoding="utf-8").splitlines()
    last = max(index for index, line in enumerate(lines) if "shown only" in line) + 1
    return "```\n" + "\n".join(lines[: last + 1]).strip("\n") + "\n```"


def regenerated(text: str) -> str:
    """`text` with each generated block made anew."""
    text = _replaced(text, "study table", cost(PICTURED) + study_table(PICTURED))
    text = _replaced(text, "smoke table", study_table("smoke"))
    text = _replaced(text, "comparison", compared())
    text = _replaced(text, "speed", speed_table())
    return _replaced(text, "tricks", tricks_list())


def cost(study: str) -> str:
    """What its runs were and took, from the records under baselines/."""
    runs = _runs(study)
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


def speed_table() -> str:
    """One row a size and one for the start, from benchmarks/records, with nanochat beside."""
    nanochat = _record("nanochat")
    lines = [
        "| one H100 | here | nanochat |",
        "|---|---|---|",
    ]
    for depth in (12, 24):
        record, theirs = _record(f"step-d{depth}"), nanochat["step"][str(depth)]
        (launch,) = record["launches"]
        (ready,) = launch["ready"]
        step_s = statistics.median(
            seconds for turn in launch["turns"] for seconds in turn["step_s"]
        )
        tokens_per_s = ready["batch_tokens"] / step_s
        mfu = tokens_per_s * ready["flops_per_token"] / ready["peak_flops"]
        peak = max(turn["peak_memory_bytes"] for turn in launch["turns"])
        rows = _rows(record["configurations"][0]["overrides"])
        lines.append(
            f"| d{depth}, {rows} rows a pass, {ready['batch_tokens']:,} tokens a step: tokens/s "
            f"| **{tokens_per_s:,.0f}** ({mfu:.0%} MFU) "
            f"| {_span(theirs['tokens_per_s'])} ({theirs['mfu']:.0%} MFU) |"
        )
        lines.append(
            f"| peak memory | {peak / 1e9:.1f} GB | {theirs['peak_memory_bytes'] / 1e9:.1f} GB |"
        )
    starts = {start["state"]: start["total"] for start in _record("startup-d12")["starts"]}
    theirs = _span(nanochat["first_step_s"]["12"]["cold"])
    lines.append(
        f"| d12, seconds to the end of the first step, compile caches cold / warm "
        f"| **{starts['cold']:.0f} / {starts['warm']:.0f}** | {theirs} / – |"
    )
    return "\n".join(lines)


def regenerated_gpu(text: str) -> str:
    """docs/gpu.md with each generated block made anew."""
    text = _replaced(text, "attention", attention_table())
    text = _replaced(text, "loader", loader_table())
    text = _replaced(text, "start", start_table())
    text = _replaced(text, "step", speed_table())
    text = _replaced(text, "toggles", toggles_table())
    text = _replaced(text, "fp8", fp8_table())
    text = _replaced(text, "ranks", ranks_table())
    text = _replaced(text, "core", core_table())
    return _replaced(text, "loss", loss_table())


def regenerated_tricks(text: str) -> str:
    """docs/tricks.md with its table made anew."""
    return _replaced(text, "tricks", tricks_table())


def attention_table() -> str:
    """Median and fastest turn of every back-end and shape, and what was measured for nanochat."""
    theirs = _record("nanochat")["attention_ms"]
    records = _record("attention")["records"]
    found = {(record["backend"], record["shape"]): record for record in records}
    shapes = list(dict.fromkeys(shape for _, shape in found))
    lines = [f"| ms | {' | '.join(shapes)} |", "|---|" + "---|" * len(shapes)]
    for backend in dict.fromkeys(backend for backend, _ in found):
        own = (found[backend, shape] for shape in shapes)
        times = [f"{one['median_ms']:.2f} ({one['fastest_ms']:.2f})" for one in own]
        lines.append(f"| {backend} | {' | '.join(times)} |")
        times = [
            f"{theirs[backend][shape]:.2f}" if shape in theirs[backend] else "–" for shape in shapes
        ]
        lines.append(f"| the reference's | {' | '.join(times)} |")
    return "\n".join(lines)


def loader_table() -> str:
    """Depth 12 with batches from the loader, and what the loader costs."""
    record = _record("step-d12-loader")
    (launch,) = record["launches"]
    (ready,) = launch["ready"]
    (difference,) = record["comparisons"].values()
    lines = ["| batches | tokens/s | waiting for them |", "|---|---|---|"]
    for batches in ("same", "loader"):
        turns = [turn for turn in launch["turns"] if turn["batches"] == batches]
        steps = [seconds for turn in turns for seconds in turn["step_s"]]
        waits = [seconds for turn in turns for seconds in turn["loader_wait_s"]]
        tokens_per_s = ready["batch_tokens"] / statistics.median(steps)
        lines.append(f"| {batches} | {tokens_per_s:,.0f} | {sum(waits) / sum(steps):.3%} |")
    ratios = (difference[key] for key in ("log_ratio", "low", "high"))
    share, low, high = (100 * math.expm1(ratio) for ratio in ratios)
    theirs = _record("nanochat")
    same, loaded = (theirs[part]["12"]["tokens_per_s"] for part in ("step", "loader"))
    lines.append(
        f"\nDifference in time a token: {share:+.2f} % [{low:+.2f}, {high:+.2f}]. nanochat: "
        f"{_span(same)} tokens/s, with its loader {_span(loaded)}."
    )
    return "\n".join(lines)


def start_table() -> str:
    """Seconds of every phase up to the end of the first step at depth 12."""
    phases = ("imports", "preflight", "build", "compile", "first_step", "total")
    lines = [f"| caches | {' | '.join(phases)} |", "|---|" + "---|" * len(phases)]
    for start in _record("startup-d12")["starts"]:
        seconds = " | ".join(f"{start[phase]:.1f}" for phase in phases)
        lines.append(f"| {start['state']} | {seconds} |")
    theirs = _span(_record("nanochat")["first_step_s"]["12"]["cold"])
    return "\n".join(lines) + f"\n\nnanochat, cold: {theirs} s."


def toggles_table() -> str:
    """Each trick's time a token at depth 12; the same table that the command prints."""
    sys.path.insert(0, str(ROOT))  # started as a script, this file sees docs/ alone
    from benchmarks.toggle_rows import Rows
    from benchmarks.toggle_table import markdown

    rows = Rows(RECORDS / "toggles-d12.jsonl")
    if not rows.sessions:
        return "Not measured yet."
    asked = {row.trick for row in rows.rows}
    asked |= {name.partition(", steps ")[0] for name in rows.unmeasured}  # a stage of it
    others = [name for name in _in_recipe() if name not in asked]
    unasked = f"\n\nNot asked for yet ({len(others)}): {'; '.join(others)}." if others else ""
    return markdown(rows) + unasked


def fp8_table() -> str:
    """Depth 24 in turns with its products in 8 bits."""
    record = _record("fp8-d24")
    (launch,) = record["launches"]
    (difference,) = record["comparisons"].values()
    lines = ["| products | tokens/s | MFU | SM clock | peak memory |", "|---|---|---|---|---|"]
    for place, name in enumerate(("bf16", "fp8")):
        turns = [turn for turn in launch["turns"] if turn["configuration"] == place]
        ready = launch["ready"][place]
        step_s = statistics.median(seconds for turn in turns for seconds in turn["step_s"])
        tokens_per_s = ready["batch_tokens"] / step_s
        mfu = tokens_per_s * ready["flops_per_token"] / ready["peak_flops"]
        clock = statistics.median(turn["sm_clock_mhz"] for turn in turns)
        peak = max(turn["peak_memory_bytes"] for turn in turns) / 1e9
        lines.append(
            f"| {name} | {tokens_per_s:,.0f} | {mfu:.0%} | {clock:,.0f} MHz | {peak:.1f} GB |"
        )
    share, low, high = (math.expm1(difference[key]) for key in ("log_ratio", "low", "high"))
    lines.append(
        f"\nTime a token: {share:+.1%} [{low:+.1%}, {high:+.1%}], for this launch "
        f"({_rows(record['configurations'][0]['overrides'])} rows a pass, "
        f"{launch['ready'][0]['batch_tokens']:,} tokens a step)."
    )
    return "\n".join(lines)


def ranks_table() -> str:
    """Depth 12 on one GPU and on two of one host."""
    path = RECORDS.parent / "h200x2" / "ranks-d12.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        f"| {rows[0]['device']}s | ms a step | tokens/s | of linear | peak memory of a rank |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        share = row["tokens_per_s"] / row["ranks"] / (rows[0]["tokens_per_s"] / rows[0]["ranks"])
        lines.append(
            f"| {row['ranks']} | {1e3 * row['step_s']:.1f} | {row['tokens_per_s']:,.0f} "
            f"| {share:.1%} | {row['peak_memory_bytes'] / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def loss_table() -> str:
    """The job of 240 steps at depth 8: its loss, and wall time over training time."""
    seeds, theirs = _record("d8-seeds")["d8"]["val_bpb"], _record("nanochat")["d8"]
    steps = list(theirs["val_bpb"])
    lines = [f"| val_bpb at step | {' | '.join(steps)} |", "|---|" + "---|" * len(steps)]
    lines += [
        f"| here, seed {seed} | {' | '.join(f'{losses[step]:.4f}' for step in steps)} |"
        for seed, losses in seeds.items()
    ]
    for name, of in (("mean", statistics.fmean), ("SD of a seed", statistics.stdev)):
        values = (of([losses[step] for losses in seeds.values()]) for step in steps)
        lines.append(f"| **here, {name}** | {' | '.join(f'{value:.4f}' for value in values)} |")
    values = (f"{theirs['val_bpb'][step]:.4f}" for step in steps)
    lines.append(f"| nanochat, one seed | {' | '.join(values)} |")
    runs = [run for run in _runs(PICTURED) if run["launch"]["arm"] == "base"]
    ratios = sorted(run["wall_s"] / run["metrics"]["train_time_s"] for run in runs)
    shown = " and ".join(f"{ratio:.2f}" for ratio in ratios)
    lines.append(
        f"\nWall time over training time, compile caches warm: {shown} (the study's base, one "
        f"evaluation a run); nanochat {theirs['wall_s']['warm'] / theirs['train_s']:.2f}."
    )
    return "\n".join(lines)


def core_table() -> str:
    """How long CORE takes at depth 12, and what it and soft CORE tell apart."""
    return f"{_core_seconds()}\n\n{_core_told_apart()}"


def _core_seconds() -> str:
    rows = _record("core-d12")["rows"]
    most = rows[0]["max_per_task"]
    heads = [f"at most {most} a task" if row["max_per_task"] else "all" for row in rows]
    table = {
        "examples": [f"{row['examples']:,}" for row in rows],
        "rows": [f"{row['rows']:,}" for row in rows],
        "seconds, prompts encoded before": [f"{row['cached_s']:.1f}" for row in rows],
        "seconds, cold": [f"{row['cold_s']:.1f}" for row in rows],
        "one example at a time, here": [
            f"{row['anchor_s']:,.1f} (from {row['anchor_examples']})" for row in rows
        ],
        "times as fast": [f"{row['ratio_cached']:.0f}" for row in rows],
        "nanochat": [f"{_record('nanochat')['core_s']:.1f}"] + ["–"] * (len(rows) - 1),
        "peak memory": [f"{row['peak_gib']:.1f} GiB" for row in rows],
        "decisions that differ, in bf16": [
            f"{len(row['flips'])} of {row['anchor_examples']}" for row in rows
        ],
    }
    lines = [f"| depth 12 | {' | '.join(heads)} |", "|---|" + "---|" * len(rows)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in table.items()]
    flips = [flip for row in rows for flip in row["flips"]]
    margins = "; ".join(
        f"{task} {number}, margins {one:.4f} one at a time and {batched:.4f} nats in batches"
        for task, number, one, batched in flips
    )
    return "\n".join(lines) + (f"\n\nThat differ: {margins}." if flips else "")


def _core_told_apart() -> str:
    found = _record("d8-seeds")
    lines = ["| | CORE | soft CORE |", "|---|---|---|"]
    runs = list(found["d8"]["metrics"].values())
    for name, of in (("mean", statistics.fmean), ("SD of a seed", statistics.stdev)):
        values = (of([run[metric] for run in runs]) for metric in ("core", "core_soft"))
        lines.append(f"| depth 8, {len(runs)} seeds: {name} | {_scores(values)} |")
    for name, pair in (
        (f"depth 12, {found['d12']['steps']} steps, against depth 8", "d8_d12"),
        (f"depth 12, its end against 80 % of its {found['d12']['steps']} steps", "d12_160_200"),
    ):
        totals = found["paired"][pair]["totals"]
        shown = (f"{t['estimate']:+.4f} [{t['low']:+.4f}, {t['high']:+.4f}]" for t in totals)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _scores(values: Iterable[float]) -> str:
    return " | ".join(f"{value:.4f}" for value in values)


def _span(values: list[int]) -> str:
    return " to ".join(f"{value:,}" for value in values)


def _runs(study: str) -> list[Any]:
    paths = (STUDIES / "records").glob("*.json")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [record for record in records if record["launch"]["study"] == study]


def _record(name: str) -> Any:
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def _rows(overrides: list[str]) -> str:
    key = "system.device_batch_rows="
    return next(text.removeprefix(key) for text in overrides if text.startswith(key))


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


def _in_recipe() -> dict[str, bool]:
    return _described("ablations/bases/speedrun.yaml", "--json")["tricks"]


def _described(*words: str) -> Any:
    command = [sys.executable, "-m", "model.describe", *words]
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
