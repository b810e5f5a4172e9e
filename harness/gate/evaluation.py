"""Measures final checkpoints with the base's code, so that losses are not the candidate's claim.

The run keeps the checkpoint of its last step. The base's trainer describes the same settings, loads
the weights into its own model, and evaluates them on its own rows (the verb `val_eval`); its losses
replace those that the run reported. Everything else of the record stays the run's own report. The
result is kept in the store under `evaluations/`, and the checkpoint is removed. Only with --sandbox
is that out of a candidate's reach; without it, this finds honest mistakes and no attack.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from harness import files
from harness.errors import TrainerError
from harness.gate.sides import GateSide
from harness.metrics import LOSSES, QUALITY
from harness.results.record import Record, attempt_name
from harness.results.store import Store
from harness.runner.attempt import CHECKPOINTS, RunSpec, newest_checkpoint
from harness.runner.trainer import with_value

LAST_STEP_ONLY = 10**9  # steps between checkpoints; the last step always has one
DIFFERENCE_NATS = 1e-3  # between two evaluations of one model, worth a note


class BaseEvaluator:
    """Evaluates the runs of one gate. `side`: the base's code with the candidate's settings."""

    def __init__(self, side: GateSide, store: Store, timeout_s: float) -> None:
        """Raises TrainerError where the base's trainer cannot evaluate a checkpoint."""
        self.side, self.store, self.timeout_s = side, store, timeout_s
        path = side.trainer.catalogue().settable_fields.get("checkpoint")
        if path is None:
            raise _cannot("a trainer that evaluates checkpoints", "one without the verb val_eval")
        self.checkpoint_path = path

    def keeping_checkpoint(self, job: RunSpec) -> RunSpec:
        """The run with a checkpoint of its last step, which changes no number of it."""
        config = with_value(job.config, self.checkpoint_path, LAST_STEP_ONLY)
        return msgspec.structs.replace(job, config=config)

    def unusable(self, plan_id: str) -> set[str]:
        """The recorded attempts that can no longer be evaluated."""
        return {
            attempt_name(record)
            for record in self.store.attempts(plan_id)
            if record.status == "completed"
            and not self._file(record).exists()
            and not newest_checkpoint(self.store.run_dir(plan_id, record.attempt))
        }

    def evaluated(self, record: Record, config: Mapping[str, Any]) -> tuple[Record, str | None]:
        """The record with the base's losses and no other metric of quality, and a note where the
        run reported another loss.

        `config`: its configuration as the base's code describes it. Raises TrainerError.
        """
        run_dir = self.store.run_dir(record.plan_id, record.attempt)
        found = files.read_json(self._file(record))
        if found is None:
            found = self._measure(run_dir, config)
            files.write_json(self._file(record), found)
            shutil.rmtree(run_dir / CHECKPOINTS, ignore_errors=True)
        others = {name: None for name in QUALITY if name not in LOSSES}
        metrics = {**record.metrics, **others, **{name: found[name] for name in LOSSES}}
        reported = record.metrics.get("val_loss")
        note = None
        if reported is None or abs(reported - found["val_loss"]) > DIFFERENCE_NATS:
            note = (
                f"seed {record.seed}: the run reported a val_loss of {reported}, and the base's "
                f"code measures {found['val_loss']:.5f} on its final checkpoint, which counts"
            )
        return msgspec.structs.replace(record, metrics=metrics), note

    def _file(self, record: Record) -> Path:
        code = self.side.identity.code_id[:12]
        name = f"{record.attempt}-{code}.json"
        return self.store.root / "evaluations" / record.plan_id / name

    def _measure(self, run_dir: Path, config: Mapping[str, Any]) -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="harness-") as folder:
            file = Path(folder) / "config.json"
            files.write_json(file, dict(config))
            try:
                return self.side.trainer.evaluate(file, run_dir.resolve(), self.timeout_s)
            except TrainerError as error:
                raise _cannot(error.expected, error.got) from error


def _cannot(expected: str, got: str) -> TrainerError:
    hint = (
        "The base's code cannot measure this candidate, for example because the model differs. "
        "Review how the candidate evaluates, then gate it with --evaluate-with candidate."
    )
    return TrainerError("--evaluate-with base", expected, got, hint)
