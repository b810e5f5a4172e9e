"""Runs of one configuration on one checkout, one a seed: what a baseline and a gate are made of.

A run that is recorded already is not made again, except where the caller says that this very
record may not serve, because a run is no replicate of itself. After `attempt`, before `baseline`.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import IO, Any

import msgspec

from harness.errors import StoreError, TrainerError
from harness.results.record import FINAL_STATUSES, Identity, LaunchInfo, Record, attempt_name
from harness.results.store import Store
from harness.results.study_plan import plan_id
from harness.runner.attempt import RunSpec, run_attempt
from harness.runner.process import Stop
from harness.runner.trainer import Catalogue, Description, NativeTrainer, Request, with_value

LOCK_LOOKS, LOCK_LOOK_S = 10, 0.1  # another harness looks at a plan for a moment as it starts


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A described configuration on one checkout; `seed_path` is where its seed stands.

    `text_tokens`: of the text that it trains on, where the trainer tells.
    """

    config: dict[str, Any]
    derived: dict[str, Any]
    tricks: dict[str, bool]
    identity: Identity
    seed_path: str
    text_tokens: int | None = None

    def job(self, seed: int, ranks: int = 1) -> RunSpec:
        """The run of that seed."""
        return RunSpec(
            plan_id=plan_id(self.identity, seed, ranks),
            seed=seed,
            config=with_value(self.config, self.seed_path, seed),
            identity=self.identity,
            derived=self.derived,
            tricks=self.tricks,
            launch=LaunchInfo() if ranks == 1 else LaunchInfo(ranks=ranks),
        )


def describe_recipe(
    trainer: NativeTrainer, name: str, base: str | None, sets: Mapping[str, Any]
) -> Recipe:
    """A configuration file and overrides, described with its data ready.

    Raises StudyFileError with the trainer's faults, and TrainerError.
    """
    (said,) = describe_with_data(trainer, [Request(name=name, base=base, set=dict(sets))])
    return recipe_from_description(said, trainer.catalogue())


def recipe_from_description(said: Description, catalogue: Catalogue) -> Recipe:
    """A description as what runs are made of; its data may not be ready yet."""
    assert said.identity is not None
    return Recipe(
        config=said.config or {},
        derived=said.derived or {},
        tricks=said.tricks or {},
        identity=msgspec.convert(msgspec.to_builtins(said.identity), Identity),
        seed_path=catalogue.settable_fields.get("seed", "seed"),
        text_tokens=said.text_tokens,
    )


def describe_with_data(trainer: NativeTrainer, requests: Sequence[Request]) -> list[Description]:
    """Descriptions with their data ready. Raises StudyFileError and TrainerError."""
    said = trainer.describe_or_fail(requests)
    if lacking := _without_data(said):
        for run_or_reuse in lacking:
            trainer.prepare(run_or_reuse.config or {})
        said = trainer.describe_or_fail(requests)
    if _without_data(said):
        raise TrainerError(
            "",
            "a data_id after `data prepare`",
            "null",
            "Check the place and the permissions of the trainer's cache folder.",
        )
    return said


def _without_data(said: Sequence[Description]) -> list[Description]:
    return [
        run_or_reuse
        for run_or_reuse in said
        if run_or_reuse.identity is None or run_or_reuse.identity.data_id is None
    ]


def recorded_run(store: Store, job: RunSpec, spent: Collection[str]) -> Record | None:
    """The first record of this run that answers for it and is not among `spent`."""
    for record in store.attempts(job.plan_id):
        if record.status in FINAL_STATUSES and attempt_name(record) not in spent:
            return record
    return None


def run_or_reuse(
    store: Store,
    trainer: NativeTrainer,
    job: RunSpec,
    stop: Stop,
    *,
    timeout_s: float,
    spent: Collection[str] = (),
) -> Record:
    """The record of one run: the known one, or a fresh attempt. Raises StoreError."""
    with lock_plan(store, job):
        found = recorded_run(store, job, spent)
        return found or run_attempt(store, trainer, job, timeout_s=timeout_s, stop=stop)


def lock_plan(store: Store, job: RunSpec) -> IO[bytes]:
    """The lock of a run's plan. Raises StoreError where another harness keeps it."""
    lock = store.lock_plan(job.plan_id)
    looks = 0
    while lock is None and looks < LOCK_LOOKS:
        time.sleep(LOCK_LOOK_S)
        lock, looks = store.lock_plan(job.plan_id), looks + 1
    if lock is None:
        raise StoreError(
            str(store.root),
            f"nobody else at work on the run {job.plan_id}",
            "another harness that is",
            "Wait for its end; its record then serves this command too.",
        )
    return lock
