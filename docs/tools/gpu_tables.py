"""The tables of gpu.md, each from its records. Only `generate.py` imports it."""

import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.speed.toggles.rows import Rows
from benchmarks.speed.toggles.table import markdown

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks" / "records" / "h100"
TWO = RECORDS.parent / "h200x2"
FULL = TWO / "full-d12"
STUDIES = ROOT / "baselines" / "published"
PICTURED = "speedrun-d8"  # the study of README.md's table and picture


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


def attention_table() -> str:
    """Median and fastest call of every back-end and shape, beside those measured for nanochat."""
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


def start_table() -> str:
    """Seconds of every phase up to the end of the first step at depth 12."""
    phases = ("imports", "preflight", "build", "compile", "first_step", "total")
    lines = [f"| caches | {' | '.join(phases)} |", "|---|" + "---|" * len(phases)]
    for start in _record("startup-d12")["starts"]:
        seconds = " | ".join(f"{start[phase]:.1f}" for phase in phases)
        lines.append(f"| {start['state']} | {seconds} |")
    theirs = _span(_record("nanochat")["first_step_s"]["12"]["cold"])
    return "\n".join(lines) + f"\n\nnanochat, cold: {theirs} s."


def loader_table() -> str:
    """Depth 12 with batches from the loader, and the cost of the loader."""
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


def toggles_table(in_recipe: Iterable[str]) -> str:
    """Time a token of each trick at depth 12, as `benchmarks.speed.toggles` prints it."""
    rows = Rows(RECORDS / "toggles-d12.jsonl")
    if not rows.sessions:
        return "Not measured yet."
    requested = {row.trick for row in rows.rows}
    requested |= {name.partition(", steps ")[0] for name in rows.unmeasured}  # a stage of it
    others = [name for name in in_recipe if name not in requested]
    missing = f"\n\nNot requested yet ({len(others)}): {'; '.join(others)}." if others else ""
    return markdown(rows) + missing


def fp8_table() -> str:
    """Depth 24, interleaved with its products in 8 bits."""
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
    rows = _record("ranks-d12", TWO)
    heads = (
        f"{rows[0]['device']}s | ms a step | tokens/s | of linear | peak memory of a rank "
        "| exchanging | beside computation | waited for"
    )
    lines = [f"| {heads} |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        share = row["tokens_per_s"] / row["ranks"] / (rows[0]["tokens_per_s"] / rows[0]["ranks"])
        exchange_s, beside_s, step_s = (
            statistics.fmean(rank[part] for rank in row["profile"])
            for part in ("exchange_s", "beside_s", "step_s")
        )
        profile = "– | – | –"
        if exchange_s:
            profile = (
                f"{1e3 * exchange_s:.1f} ms | {beside_s / exchange_s:.0%} "
                f"| {(exchange_s - beside_s) / step_s:.1%} of the step"
            )
        lines.append(
            f"| {row['ranks']} | {1e3 * row['step_s']:.1f} | {row['tokens_per_s']:,.0f} "
            f"| {share:.1%} | {row['peak_memory_bytes'] / 1e9:.2f} GB | {profile} |"
        )
    return "\n".join(lines)


def preflight_table() -> str:
    """The preflight of the full job on two GPUs."""
    lines = ["| | what | expected | got |", "|---|---|---|---|"]
    for one in _record("preflight", FULL)["findings"]:
        mark = "✓" if one["ok"] else one["severity"]
        lines.append(f"| {mark} | {one['what']} | {one['expected']} | {one['got']} |")
    return "\n".join(lines)


def forecast_table() -> str:
    """The forecast of the full job on two GPUs beside its result."""
    forecast, entry = _record("forecast", FULL), _record("leaderboard_entry", FULL)
    cost = forecast["cost"]
    lines = ["| | forecast | measured | |", "|---|---|---|---|"]
    for name, expected, measured, digits in (
        ("training time without steps 0 to 10, s", cost["leaderboard_s"], entry["train_s"], 1),
        ("from start to end, s (the forecast has no CORE)", cost["wall_s"], entry["wall_s"], 0),
        ("val_bpb", forecast["forecast"]["val_bpb"], entry["val_bpb"], 4),
    ):
        estimate, low, high = (
            f"{expected[key]:,.{digits}f}" for key in ("estimate", "low", "high")
        )
        inside = "inside" if expected["low"] <= measured <= expected["high"] else "outside"
        lines.append(f"| {name} | {estimate} [{low}, {high}] | {measured:,.{digits}f} | {inside} |")
    lines.append(f"| CORE | – | {entry['core']:.4f} ± {entry['core_se']:.4f} | |")
    seen = _record("evaluations", FULL)
    lines += ["", f"| step | {' | '.join(str(one['step']) for one in seen)} |"]
    lines.append("|---|" + "---|" * len(seen))
    lines.append(f"| val_bpb | {_scores(one['val_bpb'] for one in seen)} |")
    return "\n".join(lines)


def search_table() -> str:
    """All trials of the search at depth 6, then its confirmation."""
    result = _record("search-d6")
    names, noise = result["parameters"], result["noise"]
    (objective,) = result["objectives"]
    lines = [f"| trial | {' | '.join(names)} | {objective} |", "|---|" + "---|" * (len(names) + 1)]
    for trial in result["trials"]:
        point = " | ".join(f"{trial['params'][name]:.4g}" for name in names)
        ended = f"pruned at step {trial['steps']}"
        value = f"{trial['values'][0]:.4f}" if trial["values"] else ended
        lines.append(f"| {trial['number']} | {point} | {value} |")
    lines += [
        "",
        "| trial | on the search's seed | held-out seeds | result |",
        "|---|---|---|---|",
    ]
    for one in result["candidates"]:
        effect = one["confirmation"]["effects"][objective]
        estimate, low, high = (f"{effect[key]:+.4f}" for key in ("estimate", "low", "high"))
        outcome = "confirmed" if one["confirmation"]["confirmed"] else "not confirmed"
        lines.append(
            f"| {one['candidate']['number']} | {one['candidate']['search_effect'][objective]:+.4f} "
            f"| {estimate} [{low}, {high}] | {outcome} |"
        )
    lines.append(
        f"\nBase: {noise['mean'][objective]:.5f}, SD {noise['sd'][objective]:.5f} over "
        f"{len(noise['seeds'])} seeds. {result['gpu_s']:,.0f} GPU-seconds of trials; intervals of "
        f"{100 * (1 - result['alpha']):.0f} % ({result['correction']}) for both candidates "
        "together."
    )
    return "\n".join(lines)


def core_table() -> str:
    """The time of CORE at depth 12, and the differences that CORE and soft CORE resolve."""
    return f"{_core_seconds()}\n\n{_core_differences()}"


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
    return "\n".join(lines) + (f"\n\nDecisions that differ: {margins}." if flips else "")


def _core_differences() -> str:
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


def loss_table() -> str:
    """The job of 240 steps at depth 8: loss, and wall time over training time."""
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
    runs = [run for run in study_runs(PICTURED) if run["launch"]["arm"] == "base"]
    ratios = sorted(run["wall_s"] / run["metrics"]["train_time_s"] for run in runs)
    shown = " and ".join(f"{ratio:.2f}" for ratio in ratios)
    lines.append(
        f"\nWall time over training time, compile caches warm: {shown} (the study's base, one "
        f"evaluation a run); nanochat {theirs['wall_s']['warm'] / theirs['train_s']:.2f}."
    )
    return "\n".join(lines)


def _scores(values: Iterable[float]) -> str:
    return " | ".join(f"{value:.4f}" for value in values)


def _span(values: list[int]) -> str:
    return " to ".join(f"{value:,}" for value in values)


def _rows(overrides: list[str]) -> str:
    key = "system.device_batch_rows="
    return next(text.removeprefix(key) for text in overrides if text.startswith(key))


def _record(name: str, folder: Path = RECORDS) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def study_runs(study: str) -> list[Any]:
    """The records of a study under baselines/."""
    paths = (STUDIES / "records").glob("*.json")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [record for record in records if record["launch"]["study"] == study]
