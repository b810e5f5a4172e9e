"""Measures how long a trainer takes from its start to the end of its first step, cold and warm.

    python -m benchmarks.speed.startup ablations/configs/speedrun.yaml --set dial.depth=8 --runs 2

Each run starts `model.pace` twice: cold, with an empty cache for everything that Inductor, Triton,
FlashAttention-4 and quack compile (`system.compile_cache_dir`), then warm, with the cache of the
cold start. Data is prepared before the first start, and the operating system has cached Python,
torch and the kernel packages. Prints one row a phase, in seconds: the mean over the runs.

Exit code 0; 1 where a trainer failed; 2 wrong usage.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.pace import Pace, StepperFailed, failure_text, first_answers
from benchmarks.speed.step import positive

PHASES = ("imports", "preflight", "data", "build", "compile", "first_step")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, saves."""
    chosen = _parser().parse_args(argv)
    records = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            _read_into_memory(chosen)
            for run in range(chosen.runs):
                caches = Path(folder) / f"caches-{run}"
                for state in ("cold", "warm"):
                    record = _start(chosen, Path(folder) / f"{state}-{run}", caches)
                    records.append({"run": run, "state": state, **record})
    except StepperFailed as error:
        print(f"error: {failure_text(error)}", file=sys.stderr)
        return 1
    print_table(records)
    if chosen.out is not None:
        record = {"base": str(chosen.base), "set": chosen.set, "starts": records}
        chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def _read_into_memory(chosen: argparse.Namespace) -> None:
    """Prepares the data, and imports what a trainer imports, in processes of their own."""
    commands = [["model.doctor"]]
    if not chosen.synthetic:
        overrides = [word for text in chosen.set for word in ("--set", text)]
        commands.append(["model.data", "prepare", str(chosen.base), *overrides])
    for command in commands:
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        if done.returncode:
            reason = f"it ended with exit code {done.returncode}"
            raise StepperFailed(command[0], reason, "failed", done.stderr, killed=False)


def _start(chosen: argparse.Namespace, folder: Path, caches: Path) -> dict[str, Any]:
    """Starts one trainer, waits until it is ready, ends it; what its phases took."""
    arguments = ["--synthetic"] if chosen.synthetic else []
    overrides = [*chosen.set, f"system.compile_cache_dir={caches}"]
    pace = Pace(folder.name, chosen.base, overrides, folder, arguments=arguments)
    with contextlib.ExitStack() as stack:
        stack.callback(pace.kill)
        first_answers([pace], 60 * chosen.ready_minutes)
        pace.stop()
        environment = pace.file("environment.json")
        return {
            **seconds_of(pace.events(), pace.started_at),
            "compile_cache": environment["compile_cache"],
            "environment": environment,
        }


def seconds_of(events: Sequence[dict[str, Any]], started_at: float) -> dict[str, float]:
    """Seconds by phase, and `total` from the start of the process to the end of its first step.

    Imports begin with the process, before Python itself runs; a phase that did not take place
    (nothing to compile, no data) is left out.
    """
    phases = {event["name"]: event for event in events if event["event"] == "phase"}
    seconds = {"imports": phases["startup"]["t"] - started_at}
    seconds |= {name: phases[name]["seconds"] for name in PHASES if name in phases}
    return {**seconds, "total": phases["first_step"]["t"] - started_at}


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """One row a phase, cold and warm."""
    runs = len(records) // 2
    environment = records[0]["environment"]
    device = (environment["gpus"] or [environment["cpu"]])[0]["name"]
    print(f"{device}, torch {environment['torch']}, mean of {runs} starts each, seconds\n")
    states = {
        state: [each for each in records if each["state"] == state] for state in ("cold", "warm")
    }
    print(f"{'phase':<12}" + "".join(f"{state:>10}" for state in states))
    for phase in (*PHASES, "total"):
        cells = [_mean(each, phase) for each in states.values()]
        print(f"{phase:<12}" + "".join(f"{cell:>10}" for cell in cells))
    cells = [_cache_text(each[0]["compile_cache"]) for each in states.values()]
    print(f"{'cache':<12}" + "".join(f"{cell:>10}" for cell in cells))


def _mean(records: Sequence[dict[str, Any]], phase: str) -> str:
    seconds = [record[phase] for record in records if phase in record]
    return f"{statistics.fmean(seconds):.2f}" if seconds else "–"


def _cache_text(recorded: dict[str, Any]) -> str:
    """Hit or miss, and of how many compiled functions."""
    if recorded["result"] == "off":
        return "off"
    lookups = recorded["hits"] + recorded["misses"] + recorded["bypasses"]
    return f"{recorded['hits']}/{lookups} hit"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.startup", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("base", type=Path, metavar="BASE", help="YAML or JSON")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--runs", type=positive, default=2, help="pairs of a cold and a warm start")
    parser.add_argument("--synthetic", action="store_true", help="one random batch, no data")
    parser.add_argument("--ready-minutes", type=float, default=30.0, help="limit of a start")
    parser.add_argument("--out", type=Path, help="save all records as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
