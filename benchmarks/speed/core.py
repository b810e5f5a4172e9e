"""Measures how fast CORE is evaluated, beside one example at a time: prints a table.

    python -m benchmarks.speed.core ablations/configs/speedrun.yaml --depth 12 --bundle BUNDLE
    python -m benchmarks.speed.core ... --whole --anchor-examples 200    # all 91,037 evaluations

Both evaluate the same model on the same bundle in this process: `model.core`, cold (prompts are
rendered and encoded) and with cached prompts, and the straightforward evaluator of
`core_reference.py`. The latter may run on a sample of each task's examples (--anchor-examples): its
seconds are then extrapolated, as the sum over tasks of the mean seconds an example times the number
of examples, and the table marks them. Decisions that differ are listed with both margins. Kernels
are warm: both evaluators run once before anything is measured.

The model is the newest checkpoint of a run (--run), or one at GPT-2's initialisation: with the zero
projections of the recipe all answers would be ties.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.core_reference import Decision, Question, decide, examples
from model.config import Config, Core
from model.config.derive import Derived
from model.config.reader import parse_overrides
from model.config.resolve import resolve
from model.core.eval_model import EvalModel
from model.core.evaluation import Evaluation, EvaluationResult
from model.core.source import at_initialisation, checkpoint_of, of_checkpoint
from model.data.prepare import prepare
from model.data.settings import DataSettings
from model.data.tokenizer import Tokenizer
from model.data.tokenizer import load as load_tokenizer
from model.distributed.ranks import ALONE
from model.gpt import GPT
from model.kernels import Kernels
from model.runtime import preflight
from model.runtime.environment import peak_memory_bytes

WARM_UP_PER_TASK = 11  # the least that ten shots allow
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What both evaluators are given."""

    config: Config
    derived: Derived
    gpt: GPT
    kernels: Kernels
    tokenizer: Tokenizer
    bundle: Path
    device: torch.device

    def evaluation(self, max_per_task: int | None, cache: Path) -> Evaluation:
        core = Core(bundle=str(self.bundle), max_per_task=max_per_task)
        data = replace(self.config.data, cache_dir=str(cache))
        config = replace(self.config, core=core, data=data)
        return Evaluation(config, self.derived, self.tokenizer, lambda text: None)

    def evaluated(self, evaluation: Evaluation) -> EvaluationResult:
        return evaluation(self.gpt, self.kernels)


@dataclass(frozen=True, kw_only=True)
class Anchored:
    """The straightforward evaluator on a sample, or on all."""

    decisions: list[Decision]
    examples: int
    """That there are."""
    seconds: float
    """For all examples, extrapolated from the sample."""
    processor_s: float
    """The same on the processor's clock, which runs for nobody else."""
    peak_bytes: int


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    bench = _bench(arguments)
    limits = [arguments.max_per_task] + ([None] if arguments.whole else [])
    with tempfile.TemporaryDirectory() as folder:
        bench.evaluated(bench.evaluation(WARM_UP_PER_TASK, Path(folder) / "warm"))
        rows = [_measured(bench, arguments, most, Path(folder)) for most in limits]
    report = {**_model_json(bench), "rows": rows}
    _print(report)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.core", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", nargs="?", help="YAML or JSON; or --run")
    parser.add_argument("--run", type=Path, help="a run's directory, for its newest checkpoint")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="a vocabulary's file, not the data's own")
    parser.add_argument("--depth", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--max-per-task", type=int, default=100)
    parser.add_argument("--whole", action="store_true", help="the whole bundle too")
    parser.add_argument("--anchor-examples", type=int, help="so many of the anchor's, not all")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def _bench(arguments: argparse.Namespace) -> Bench:
    overrides = parse_overrides(arguments.set)
    if arguments.depth is not None:
        overrides["dial.depth"] = arguments.depth
    file = arguments.config if arguments.run is None else arguments.run / "config.json"
    if arguments.run is None:
        overrides.setdefault("model.init", "gpt2")
    config, derived = resolve(str(file), overrides)
    device = preflight.device_of(config)
    kernels, derived = preflight.check(config, derived, device)
    if arguments.run is None:
        gpt = at_initialisation(config, derived, device)
    else:
        gpt, _ = of_checkpoint(checkpoint_of(arguments.run, None), config, derived, device)
    if arguments.tokenizer is not None:
        tokenizer = load_tokenizer(arguments.tokenizer)
    else:
        tokenizer = prepare(DataSettings.from_config(config), lambda text: None).tokenizer
    return Bench(
        config=config,
        derived=derived,
        gpt=gpt,
        kernels=kernels,
        tokenizer=tokenizer,
        bundle=arguments.bundle,
        device=device,
    )


def _measured(
    bench: Bench, arguments: argparse.Namespace, max_per_task: int | None, folder: Path
) -> dict[str, Any]:
    cache = folder / str(max_per_task)
    _reset_peak(bench.device)
    began = time.perf_counter()
    bench.evaluated(bench.evaluation(max_per_task, cache))
    cold_s = time.perf_counter() - began
    began = time.perf_counter()
    evaluation = bench.evaluation(max_per_task, cache)
    opened_s = time.perf_counter() - began
    processor_began = time.process_time()
    found = bench.evaluated(evaluation)
    cached_s, processor_s = time.perf_counter() - began, time.process_time() - processor_began
    peak = peak_memory_bytes(bench.device)
    anchored = _anchored(bench, max_per_task, arguments.anchor_examples)
    plan = evaluation.layout_of(ALONE)
    return {
        "max_per_task": max_per_task,
        "examples": len(found.outcomes.task),
        "rows": len(found.outcomes.losses),
        "row_tokens": int(evaluation.questions.lengths.sum()),
        "model_tokens": sum(batch.tokens for batch in plan.batches),
        "batches": len(plan.batches),
        "cold_s": cold_s,
        "cached_s": cached_s,
        "opened_s": opened_s,
        "anchor_s": anchored.seconds,
        "anchor_examples": len(anchored.decisions),
        "ratio_cached": anchored.seconds / cached_s,
        "processor_s": processor_s,
        "anchor_processor_s": anchored.processor_s,
        "peak_gib": peak / GIB,
        "anchor_peak_gib": anchored.peak_bytes / GIB,
        "core": found.result.core,
        "core_soft": found.result.core_soft,
        **_compared(found, anchored.decisions),
    }


def _anchored(bench: Bench, max_per_task: int | None, limit: int | None) -> Anchored:
    """Every n-th example of every task, one at a time; at least one of each."""
    torch_kernels = Kernels(attention=bench.kernels.attention)
    eval_model = EvalModel(bench.gpt, bench.config, bench.derived.sizes, torch_kernels)
    by_task: dict[str, list[Question]] = {}
    for question in examples(bench.bundle, max_per_task):
        by_task.setdefault(question.task["label"], []).append(question)
    count = sum(map(len, by_task.values()))
    step = 1 if limit is None else max(1, count // limit)
    _reset_peak(bench.device)
    decisions, seconds, processor_s = [], 0.0, 0.0
    for task in by_task.values():
        chosen = task[::step]
        began, processor_began = time.perf_counter(), time.process_time()
        decisions += [decide(one, eval_model.gpt, _encode(bench), bench.device) for one in chosen]
        share = len(task) / len(chosen)
        seconds += (time.perf_counter() - began) * share
        processor_s += (time.process_time() - processor_began) * share
    return Anchored(
        decisions=decisions,
        examples=count,
        seconds=seconds,
        processor_s=processor_s,
        peak_bytes=peak_memory_bytes(bench.device),
    )


def _encode(bench: Bench) -> Any:
    tokenizer = bench.tokenizer
    return lambda text: [tokenizer.bos_id, *tokenizer.encode(text)]


def _compared(found: EvaluationResult, decisions: list[Decision]) -> dict[str, Any]:
    """Decisions that differ, with both margins, and how far mean losses are apart."""
    outcomes, names = found.outcomes, [task.task.name for task in found.result.tasks]
    pairs = zip(outcomes.task, outcomes.example, strict=True)
    place = {(names[task], int(example)): at for at, (task, example) in enumerate(pairs)}
    flips, apart, unscored = [], [0.0], 0
    for decision in decisions:
        at = place[decision.task, decision.example]
        losses = outcomes.losses[outcomes.first_row[at] : outcomes.first_row[at + 1]]
        if np.isnan(decision.losses).any():
            unscored += 1
            continue
        apart.append(float(np.abs(losses - decision.losses).max()))
        if bool(outcomes.correct[at]) != decision.correct:
            margins = [round(decision.margin, 6), round(float(outcomes.margin[at]), 6)]
            flips.append([decision.task, decision.example, *margins])
    return {"flips": flips, "largest_difference_nats": max(apart), "unscored": unscored}


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _model_json(bench: Bench) -> dict[str, Any]:
    cuda = bench.device.type == "cuda"
    name = torch.cuda.get_device_name(bench.device) if cuda else "CPU"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "precision": bench.config.system.precision,
        "attention": bench.kernels.attention,
        "fused": sorted(bench.kernels.fused & {"qkv", "products"}),
        "depth": bench.derived.sizes.layers,
        "width": bench.derived.sizes.width,
        "batch_tokens": bench.derived.device_batch_rows * bench.derived.sizes.context,
    }


def _print(report: dict[str, Any]) -> None:
    print("\n".join(_lines(report)), flush=True)


def _lines(report: dict[str, Any]) -> Iterator[str]:
    yield (
        f"depth {report['depth']}, {report['device']}, {report['precision']}, attention "
        f"{report['attention']}, fused {', '.join(report['fused']) or 'none'}, "
        f"batches of {report['batch_tokens']:,} tokens"
    )
    for row in report["rows"]:
        most = row["max_per_task"] or "all"
        yield f"max_per_task {most}: {row['examples']:,} examples, {row['rows']:,} rows"
        yield f"  tokens of rows        {row['row_tokens']:,}"
        yield f"  tokens in the model   {row['model_tokens']:,} in {row['batches']} batches"
        yield f"  cold                  {row['cold_s']:.2f} s"
        yield f"  prompts kept          {row['cached_s']:.2f} s, {row['opened_s']:.2f} s of opening"
        part = row["anchor_examples"] < row["examples"]
        from_what = f", from {row['anchor_examples']:,} examples" if part else ""
        yield f"  one at a time         {row['anchor_s']:.1f} s{from_what}"
        yield f"  ratio                 {row['ratio_cached']:.1f}"
        if report["device"] == "CPU":  # whose cores other processes may use meanwhile
            own, theirs = row["processor_s"], row["anchor_processor_s"]
            yield f"  processor's seconds   {own:.1f} and {theirs:.1f}, ratio {theirs / own:.1f}"
        yield f"  peak memory           {row['peak_gib']:.2f} GiB"
        yield f"  one at a time         {row['anchor_peak_gib']:.2f} GiB"
        yield f"  losses at most        {row['largest_difference_nats']:.2g} nats apart"
        yield f"  other decisions       {len(row['flips'])} of {row['anchor_examples']:,}"
        for task, example, theirs, own in row["flips"]:
            yield f"    {task} {example}: margin {theirs:.5f} one at a time, {own:.5f} here"


if __name__ == "__main__":
    sys.exit(main())
