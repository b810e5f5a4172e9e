"""CPU seconds and peak memory of the commands that read a store, by its number of records.

python -m benchmarks.speed.store [RECORDS ...] --folder FOLDER

Nine records of ten are the runs of one study of the simulated trainer, whose numbers are drawn with
fixed seeds; the others are a nightly run, of which 50 nights are one series. Run directories,
curves and records are written as the harness writes them. The store of each size stays in the
folder and is used again; delete it once the simulated trainer has changed. A cell has the CPU
seconds of a process with its children, on which other processes have little influence, and its peak
memory.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from harness import errors
from harness.config.study_file import load_study
from harness.results.record import LaunchInfo, Record, RunPlan
from harness.results.store import Store
from harness.results.study_plan import Arm, PlannedRun, plan_id
from harness.runner.fake_trainer.train import Curve, bits_per_byte, environment
from harness.runner.trainer import by_name
from harness.study.resolve import resolve

ROOT = Path(__file__).parents[2]
SIZES = (500, 2_000, 10_000)
TRICKS = ("windows", "muon", "residual_scalars", "value_embeddings")
ARMS = 1 + len(TRICKS)
NIGHTS = 50  # of one nightly run
BEGAN_AT, RUN_S, DAY_S = 1.7e9, 60.0, 86_400.0
EVALUATIONS = 20  # of a run
SPEED_CV = 0.0013
OUTCOMES = (errors.PASS, errors.INCONCLUSIVE, errors.REGRESSION)
BUILT = "built"  # exists once a folder is complete


def commands(folder: Path) -> dict[str, list[str]]:
    """Row of the table -> a command line of the harness."""
    study, store, baselines = folder / "study.yaml", folder / "runs", folder / "baselines"
    at, stored = ["--store", str(store)], ["--baselines", str(baselines)]
    base = f"{store}:load/base"
    change = ["--candidate-set", "windows=null"]
    return {
        "study --dry-run": ["study", str(study), "--dry-run", *at],
        "study, all runs done": ["study", str(study), *at],
        "report": ["report", "load", *at],
        "noise": ["noise", *at],
        "drift": ["drift", *at],
        "compare": ["compare", base, "--", f"{store}:load/no_muon"],
        "gate --plan": ["gate", "--baseline", "load", *change, "--plan", *at, *stored],
        "baseline list": ["baseline", "list", *stored],
    }


def build(folder: Path, records: int) -> None:
    """Writes a study, its store, and a baseline of its base."""
    folder.mkdir(parents=True)
    (folder / "base.yaml").write_text((ROOT / "ablations/configs/fake.yaml").read_text())
    file, seeds = folder / "study.yaml", 9 * records // (10 * ARMS)
    file.write_text(
        "study: load\nquestion: How long do commands take?\ntrainer: fake\nbase: base.yaml\n"
        f"arms: {{leave_one_out: [{', '.join(TRICKS)}]}}\n"
        f"seeds: {list(range(1, seeds + 1))}\n"
    )
    store = Store(folder / "runs")
    study = resolve(load_study(file), file, store, by_name("fake"), command="", now=BEGAN_AT)
    store.save_study(study)
    speeds = random.Random(1)
    for number, run in enumerate(study.runs):
        made = record_of(study.arm(run.arm), run, BEGAN_AT + RUN_S * number, speeds)
        commit(store, made)
    for made in nightly(study.arm("base"), records - len(study.runs), speeds):
        commit(store, made)
    record = ["baseline", "record", "load", "--from", f"{store.root}:load/base"]
    measure([*record, "--store", str(store.root), "--baselines", str(folder / "baselines")])
    (folder / BUILT).touch()


def nightly(base: Arm, count: int, speeds: random.Random) -> Iterator[Record]:
    """Runs of one configuration, NIGHTS at each seed."""
    identity = msgspec.structs.replace(base.identity, config_id="nightly")
    arm = msgspec.structs.replace(base, identity=identity)
    for number in range(count):
        seed, night = divmod(number, NIGHTS)
        run = PlannedRun(plan_id=plan_id(identity, seed), arm="base", seed=seed, position=0)
        yield record_of(arm, run, BEGAN_AT + DAY_S * night + RUN_S * seed, speeds, night)


def record_of(
    arm: Arm, run: PlannedRun, at: float, speeds: random.Random, attempt: int = 0
) -> Record:
    """A completed run with the numbers of the simulated trainer."""
    curve = Curve({**arm.config, "seed": run.seed}, None)
    steps, tokens = curve.derived["steps"], curve.derived["steps"] * curve.derived["batch_tokens"]
    train_time_s = steps * curve.step_s * speeds.gauss(1, SPEED_CV)
    loss = curve.loss(steps)
    return Record(
        plan_id=run.plan_id,
        attempt=f"a{attempt}",
        trainer="fake",
        seed=run.seed,
        identity=arm.identity,
        derived=arm.derived,
        tricks=arm.tricks,
        launch=LaunchInfo(study="load", arm=arm.name, block=run.block),
        started_at=at,
        boot_id="boot",
        status="completed",
        metrics={
            "train_time_s": train_time_s,
            "tokens_per_s": tokens / train_time_s,
            "val_loss": loss,
            "val_bpb": bits_per_byte(loss),
            "peak_memory_bytes": 4.0e8,
        },
        steps=steps,
        tokens=tokens,
        environment=environment(),
        environment_id="simulated",
        concurrent_runs=0,
        ended_at=at + RUN_S,
        wall_s=RUN_S,
        trainer_s=RUN_S,
        gpus=0,
    )


def commit(store: Store, record: Record) -> None:
    """Writes a run directory, its curve and its record."""
    run_dir = store.run_dir(record.plan_id, record.attempt)
    run_dir.mkdir(parents=True)
    plan = {name: getattr(record, name) for name in RunPlan.__struct_fields__}
    (run_dir / "launch.json").write_bytes(msgspec.json.encode(plan))
    loss = record.metrics["val_loss"] or 0.0
    events = (
        {
            "event": "evaluation",
            "step": max(1, record.steps * number // EVALUATIONS),
            "tokens": record.tokens * number // EVALUATIONS,
            "train_time_s": (record.metrics["train_time_s"] or 0.0) * number / EVALUATIONS,
            "val_loss": loss * (number / EVALUATIONS) ** -0.1,
            "val_bpb": bits_per_byte(loss * (number / EVALUATIONS) ** -0.1),
        }
        for number in range(1, EVALUATIONS + 1)
    )
    (run_dir / "events.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(events))
    store.commit(record, run_dir)


def measure(argv: list[str]) -> tuple[float, float]:
    """CPU seconds and peak MB of a command with its children. Raises SystemExit where it fails."""
    command = [sys.executable, "-m", "harness", *argv]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode not in OUTCOMES:
            sys.exit(f"harness {' '.join(argv)}\n{output.read().decode()}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=int, nargs="*", default=SIZES)
    parser.add_argument("--folder", type=Path, required=True, help="where the stores are kept")
    parser.add_argument("--only", action="append", help="a row; may be repeated")
    options = parser.parse_args()
    sizes = {records: (options.folder / f"{records}").resolve() for records in options.records}
    if missing := {n: at for n, at in sizes.items() if not (at / BUILT).exists()}:
        for records, folder in missing.items():
            build(folder, records)
        # a child's peak memory counts from its parent's: measure from a process that built nothing
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.speed.store", *sys.argv[1:]])
    rows = [name for name in commands(Path()) if not options.only or name in options.only]
    print("CPU seconds, peak MB".ljust(22) + "".join(f"{size:>14,}" for size in sizes))
    for name in rows:
        cells = [measure(commands(folder)[name]) for folder in sizes.values()]
        print(name.ljust(22) + "".join(f"{s:>8.1f}{mb:>6.0f}" for s, mb in cells), flush=True)


if __name__ == "__main__":
    main()
