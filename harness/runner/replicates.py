"""Runs of one configuration on one checkout, one per seed: the runs of a baseline and of a gate.

A recorded run is reused, except where the caller has consumed that record already: a run is not a
replicate of itself.
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
from harness.runner.replies import Catalogue, Description, Request
from harness.runner.trainer import NativeTrainer, with_value

LOCK_TRIES, LOCK_POLL_S = 10, 0.1  # another harness holds a lock for a moment while it starts


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A described configuration on one checkout.

    `seed_path`: the configuration's field for the seed. `text_tokens`: the tokens of its training
    text, if the trainer reports them.
    """

    config: dict[str, Any]
    derived: dict[str, Any]
    tricks: dict[str, bool]
    identity: Identity
    seed_path: str
    text_tokens: int | None = None

    def job(self, seed: int, ranks: int = 1) -> RunSpec:
        """The run of a seed."""
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
    """Describes a configuration file with overrides and prepares its data.

    Raises StudyFileError with the faults that the trainer finds, and TrainerError.
    """
    (description,) = describe_with_data(trainer, [Request(name=name, base=base, set=dict(sets))])
    return recipe_from_description(description, trainer.catalogue())


def recipe_from_description(description: Description, catalogue: Catalogue) -> Recipe:
    """The recipe of a description; its data need not be prepared."""
    assert description.identity is not None
    return Recipe(
        config=description.config or {},
        derived=description.derived or {},
        tricks=description.tricks or {},
        identity=description.identity,
        seed_path=catalogue.settable_fields.get("seed", "seed"),
        text_tokens=description.text_tokens,
    )


def describe_with_data(trainer: NativeTrainer, requests: Sequence[Request]) -> list[Description]:
    """Describes configurations and prepares their data. Raises StudyFileError and TrainerError."""
    descriptions = trainer.describe_or_fail(requests)
    if unprepared := _without_data(descriptions):
        for description in unprepared:
            trainer.prepare(description.config or {})
        descriptions = trainer.describe_or_fail(requests)
    if _without_data(descriptions):
        hint = "Check the location and the permissions of the trainer's cache folder."
        raise TrainerError("", "a data_id after `data prepare`", "null", hint)
    return descriptions


def _without_data(descriptions: Sequence[Description]) -> list[Description]:
    return [one for one in descriptions if one.identity is None or one.identity.data_id is None]


def recorded_run(store: Store, job: RunSpec, consumed: Collection[str]) -> Record | None:
    """The first record that answers for this run and is not among `consumed` (attempt names)."""
    for record in store.attempts(job.plan_id):
        if record.status in FINAL_STATUSES and attempt_name(record) not in consumed:
            return record
    return None


def run_or_reuse(
    store: Store,
    trainer: NativeTrainer,
    job: RunSpec,
    stop: Stop,
    *,
    timeout_s: float,
    consumed: Collection[str] = (),
) -> Record:
    """The record of a run: an existing one, or that of a new attempt. Raises StoreError."""
    with lock_plan(store, job):
        recorded = recorded_run(store, job, consumed)
        return recorded or run_attempt(store, trainer, job, timeout_s=timeout_s, stop=stop)


def lock_plan(store: Store, job: RunSpec) -> IO[bytes]:
    """The lock of a run's plan. Raises StoreError if another harness holds it."""
    for _ in range(LOCK_TRIES):
        if (lock := store.lock_plan(job.plan_id)) is not None:
            return lock
        time.sleep(LOCK_POLL_S)
    expected = f"no other harness running {job.plan_id}"
    hint = "Wait until it has finished; this command then uses its record."
    raise StoreError(str(store.root), expected, "one that is", hint)
