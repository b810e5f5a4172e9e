"""Measures how long the analysis of a large study takes, from memory and from a store on disk.

    python -m benchmarks.speed.analysis [ARMS SEEDS]

Creates a study of 100 arms and 100 seeds (10,000 records) in a temporary store, then times reading
the records, the attribution and writing the report. Prints a table.
"""

import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from harness.config.study_file import Decide, Limits
from harness.report.export import document_json
from harness.report.study.content import Content
from harness.report.study.document import build
from harness.report.study.export import as_csv
from harness.results.record import Identity, LaunchInfo, Record
from harness.results.store import Store
from harness.results.study_plan import Arm, PlannedRun, ResolvedStudy, plan_id
from harness.study.attribution import attribute


def large_study(arms: int, seeds: int) -> tuple[ResolvedStudy, list[Record]]:
    """A leave-one-out study without true effects, in one session."""
    rng = np.random.default_rng(0)
    made = [_arm("base" if index == 0 else f"no_{index}", index == 0) for index in range(arms)]
    runs, records = [], []
    for seed in range(seeds):
        for arm in made:
            ident = plan_id(arm.identity, seed)
            run = PlannedRun(plan_id=ident, arm=arm.name, seed=seed, block=seed, position=len(runs))
            runs.append(run)
            records.append(_record(arm, run, rng))
    study = ResolvedStudy(
        study="large",
        question="How long does the analysis take?",
        trainer="native",
        pin="derived",
        seeds=list(range(seeds)),
        horizons=[1.0],
        decide=Decide(margin={"val_bpb": 0.002}),
        limits=Limits(),
        arms=made,
        runs=runs,
        tricks={},
        settable_fields={},
        command="",
        created_at=0.0,
        source="",
    )
    return study, records


def _arm(name: str, base: bool) -> Arm:
    return Arm(
        name=name,
        role="base" if base else "leave_one_out",
        trick=None if base else name[3:],
        set={},
        checkout="",
        config={},
        derived={},
        tricks={},
        identity=Identity(config_id=name, code_id="c", data_id="d", protocol=1),
    )


def _record(arm: Arm, run: PlannedRun, rng: np.random.Generator) -> Record:
    start = 60.0 * run.position
    return Record(
        plan_id=run.plan_id,
        attempt="a",
        trainer="native",
        seed=run.seed,
        identity=arm.identity,
        status="completed",
        metrics={
            "val_bpb": float(1.3 + rng.normal(0, 0.001)),
            "val_loss": float(3.3 + rng.normal(0, 0.001)),
            "tokens_per_s": float(5e5 * np.exp(rng.normal(0, 0.001))),
            "peak_memory_bytes": 3e10,
        },
        steps=100,
        tokens=1_000_000,
        derived={},
        tricks={},
        environment={},
        environment_id="gpu",
        boot_id="b",
        concurrent_runs=0,
        started_at=start,
        ended_at=start + 59,
        wall_s=59.0,
        trainer_s=58.0,
        gpus=1,
        launch=LaunchInfo(study="large", arm=arm.name, block=run.block),
    )


def main() -> None:
    """Prints the table."""
    arms, seeds = (int(text) for text in sys.argv[1:3]) if len(sys.argv) > 2 else (100, 100)
    study, records = large_study(arms, seeds)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.save_study(study)
        (Path(folder) / "records").mkdir()
        for record in records:
            path = Path(folder) / "records" / f"{record.plan_id}.json"
            path.write_bytes(msgspec.json.encode(record))
        times = {}
        started = time.perf_counter()
        read = store.records()
        times["read records"] = time.perf_counter() - started
        started = time.perf_counter()
        attribution = attribute(study, read)
        times["attribute"] = time.perf_counter() - started
        started = time.perf_counter()
        content = Content(store=store, study=study, attribution=attribution)
        document_json(build(content)), as_csv(content)
        times["json and csv"] = time.perf_counter() - started
    print(f"{len(records):,} records, {arms} arms, {seeds} seeds")
    for what, seconds in times.items():
        print(f"{what:>16}  {seconds:6.2f} s")


if __name__ == "__main__":
    main()
