"""Builds stores of synthetic records: a study whose true effects and noise are known.

Not a mock: real ResolvedStudy, Record and curve files, written as the harness writes them, so that
the analysis and the report read what they would read after a study.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness.arms import Arm, Pin, PlannedRun, ResolvedStudy, TrickInfo, plan_id
from harness.config import Decide, Limits
from harness.record import Identity, Launch, Record
from harness.store import Store

BASE_TOKENS = 1_000_000
SLOPE = -0.10  # bpb per ln(tokens)
TRICKS = ("muon", "value_embeddings", "windows", "residual_scalars")
TRUE = {  # arm: (change in bpb, change in ln tokens/s) when the trick is removed
    "no_muon": (0.034, 0.06),
    "no_value_embeddings": (0.012, 0.021),
    "no_windows": (-0.0008, -0.05),
    "no_residual_scalars": (0.0003, 0.001),
}


class Synthetic(msgspec.Struct, kw_only=True):
    """A study and its records, to be changed by a test before it is analysed or saved."""

    study: ResolvedStudy
    records: list[Record]

    def edit(self, pick: Callable[[Record], bool], **changes: Any) -> None:
        """Replaces fields of the records that `pick` chooses; at least one."""
        assert any(pick(record) for record in self.records)
        self.records = [
            msgspec.structs.replace(record, **changes) if pick(record) else record
            for record in self.records
        ]

    def edit_study(self, **changes: Any) -> None:
        self.study = msgspec.structs.replace(self.study, **changes)

    def edit_arm(self, name: str, **changes: Any) -> None:
        arms = [
            msgspec.structs.replace(arm, **changes) if arm.name == name else arm
            for arm in self.study.arms
        ]
        self.edit_study(arms=arms)

    def save(self, root: Path) -> Store:
        """Writes study, records and curves where the store keeps them."""
        import pyarrow.parquet

        (root / "records").mkdir(parents=True)
        (root / "curves").mkdir()
        for record in self.records:
            name = f"{record.plan_id}.json"
            if record.status != "completed":
                name = f"{record.plan_id}.{record.attempt}.json"
            (root / "records" / name).write_bytes(msgspec.json.encode(record))
            if record.status == "completed":
                path = root / "curves" / f"{record.plan_id}.parquet"
                pyarrow.parquet.write_table(_curve(record), path)
        store = Store(root)
        store.save_study(self.study)
        return store


def build(
    *,
    true: dict[str, tuple[float, float]] = TRUE,
    seeds: tuple[int, ...] = (1, 2, 3),
    horizons: tuple[float, ...] = (0.71, 1.0, 1.41),
    sd: float = 0.001,
    speed_sd: float = 0.001,
    many: str = "dunnett",
    margin: dict[str, float] | None = None,
    rng_seed: int = 0,
) -> Synthetic:
    """A finished leave-one-out study in one session."""
    rng = np.random.default_rng(rng_seed)
    arms = [_arm("base", "base", None), *(_arm(name, "leave_one_out", name[3:]) for name in true)]
    arms += [_arm(f"base@{h}", "horizon", None, h) for h in horizons if h != 1]
    runs, records = [], []
    for seed in seeds:
        for arm in arms:
            run = PlannedRun(
                plan_id=plan_id(arm.identity, seed),
                arm=arm.name,
                seed=seed,
                block=None if arm.role == "horizon" else seed,
                position=len(runs),
            )
            loss, speed = true.get(arm.name, (0.0, 0.0))
            loss += SLOPE * np.log(arm.horizon or 1.0) + rng.normal(0, sd)
            speed += rng.normal(0, speed_sd) + 0.02 * seed  # blocks drift
            runs.append(run)
            records.append(_record(arm, run, float(1.5 + loss), 20_000 * float(np.exp(speed))))
    study = ResolvedStudy(
        study="synthetic",
        question="Which of the four tricks helps?",
        trainer="native",
        pin="derived",
        seeds=list(seeds),
        horizons=list(horizons),
        decide=Decide(margin={"val_bpb": 0.005} if margin is None else margin, many=many),  # type: ignore[arg-type]
        limits=Limits(),
        arms=arms,
        runs=runs,
        tricks={name: TrickInfo(summary=f"The {name} trick.", lines=40) for name in TRICKS},
        handles={},
        command="harness study synthetic.yaml",
        created_at=1.8e9,
        source="ablations/synthetic.yaml",
    )
    return Synthetic(study=study, records=records)


def _arm(name: str, role: str, trick: str | None, horizon: float | None = None) -> Arm:
    extra = 2_000_000 if trick != "value_embeddings" else 0
    total = 5_000_000 + extra
    return Arm(
        name=name,
        role=role,  # type: ignore[arg-type]
        trick=trick,
        horizon=horizon,
        base="ablations/bases/speedrun_tiny_cpu.yaml",
        set={f"tricks.{trick}": None} if trick else {},
        pinned={"dial.steps": Pin(base=400, own=310)} if trick == "value_embeddings" else {},
        untuned=["optimizer.matrices.lr"] if trick == "muon" else [],
        checkout="/somewhere",
        config={
            "model": {"depth": 4, "context_tokens": 256, "tricks": {t: t != trick for t in TRICKS}},
            "optimizer": {"matrices": {"kind": "adamw" if trick == "muon" else "muon", "lr": 0.02}},
        },
        derived={
            "steps": 400,
            "tokens": BASE_TOKENS,
            "batch_tokens": 2_500,
            "parameters_total": total,
            "parameters": {"matrices": 3_000_000, "embedding": total - 3_000_000},
            "flops_per_token": 20_000_000 + extra,
        },
        tricks={t: t != trick for t in TRICKS},
        identity=Identity(config_id=f"config-{name}", code_id="code", data_id="data", protocol=1),
    )


def _record(arm: Arm, run: PlannedRun, bpb: float, tokens_per_s: float) -> Record:
    tokens = round(BASE_TOKENS * (arm.horizon or 1.0))
    train_s = tokens / tokens_per_s
    start = 1.8e9 + 60.0 * run.position
    return Record(
        plan_id=run.plan_id,
        attempt="a1",
        trainer="native",
        seed=run.seed,
        identity=arm.identity,
        status="completed",
        metrics={
            "val_bpb": bpb,
            "val_loss": bpb * 2.9,
            "train_loss": bpb * 2.95,
            "tokens_per_s": tokens_per_s,
            "train_time_s": train_s,
            "peak_memory_bytes": 4.0e8 + (0 if arm.trick == "value_embeddings" else 3.2e7),
            "compile_s": None,
            "mfu": None,
        },
        steps=400,
        tokens=tokens,
        derived=arm.derived,
        tricks=arm.tricks,
        environment={
            "cpu": {"name": "Some CPU", "cores": 2},
            "torch": "2.13.0",
            "python": "3.11.7",
            "attention_backend": "sdpa",
            "compile_cache": {"result": "off"},
            "calibration": {"matmul_tflops": 0.11, "copy_gb_s": 9.0},
        },
        environment_id="cpu-2-cores",
        boot_id="boot",
        neighbours=0,
        started_at=start,
        ended_at=start + train_s + 3,
        wall_s=train_s + 3,
        trainer_s=train_s + 2.7,
        gpus=0,
        launch=Launch(study="synthetic", arm=arm.name, block=run.block),
    )


def _curve(record: Record) -> Any:
    import pyarrow as pa

    step = np.arange(1, record.steps + 1)
    tokens = step * (record.tokens / record.steps)
    rng = np.random.default_rng(record.seed)
    last = record.metrics["val_loss"] or 0.0
    loss = last - 0.6 * np.log(tokens / tokens[-1]) + rng.normal(0, 0.03, len(step))
    evaluated = step % 100 == 0
    val = np.where(evaluated, last - 0.6 * np.log(tokens / tokens[-1]), np.nan)
    return pa.table(
        {
            "step": pa.array(step),
            "tokens": pa.array(tokens.astype(np.int64)),
            "train_time_s": pa.array(tokens / (record.metrics["tokens_per_s"] or 1.0)),
            "train_loss": pa.array(loss),
            "val_loss": pa.array(val, from_pandas=True),
            "val_bpb": pa.array(val / 2.9, from_pandas=True),
        }
    )


@pytest.fixture
def synthetic() -> Callable[..., Synthetic]:
    """The builder above."""
    return build
