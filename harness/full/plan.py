"""Plans a job: its configuration and its proxies' as the trainer resolves them.

All configurations are described in one call. Data that is not prepared is prepared here once, and
not by every rank.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from harness import files
from harness.config.full_file import FullFile
from harness.config.yaml_schema import find_base
from harness.errors import StoreError
from harness.results import stored_file
from harness.results.record import Identity
from harness.results.store import Store
from harness.runner.attempt import RunSpec
from harness.runner.replicates import Recipe, describe_with_data, recipe_from_description
from harness.runner.replies import Request
from harness.runner.trainer import NativeTrainer, value_at

JOB = "the job"
PLAN = "plan.json"


class ProxyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One proxy at one seed."""

    label: str
    job: RunSpec


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The job and its proxies. `evaluate_path`: the field of the evaluation interval in steps."""

    file: FullFile
    recipe: Recipe
    proxies: list[ProxyPlan]
    evaluate_path: str | None

    @property
    def job(self) -> RunSpec:
        """The full run."""
        return self.recipe.job(self.file.seed, self.file.ranks)

    @property
    def data_ready(self) -> bool:
        """Whether all data is prepared, so that every run has its plan_id."""
        jobs = [self.job, *(proxy.job for proxy in self.proxies)]
        return all(job.identity.data_id is not None for job in jobs)

    @property
    def steps(self) -> int:
        """Steps of the full run."""
        return int(self.recipe.derived.get("steps") or 0)

    @property
    def stages(self) -> list[int]:
        """First step of each stage of the full run; all steps of a stage have one shape."""
        stages = self.recipe.derived.get("stages") or []
        return [int(stage["first_step"]) for stage in stages] or [0]

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the full run, with the one at its end."""
        every = value_at(self.recipe.config, self.evaluate_path) if self.evaluate_path else None
        return -(-self.steps // int(every)) if every else 1


def plan_job(
    file: FullFile, path: Path, trainer: NativeTrainer, *, prepare: bool = True
) -> JobPlan:
    """Resolves all configurations; `prepare`: prepares their data first.

    Raises StudyFileError with the trainer's errors, and TrainerError.
    """
    requests = _requests(file, path)
    describe = describe_with_data if prepare else type(trainer).describe_or_fail
    descriptions = describe(trainer, requests)
    catalogue = trainer.catalogue()
    recipe, *smaller = [recipe_from_description(one, catalogue) for one in descriptions]
    seeds = file.proxies.seeds if file.proxies is not None else []
    return JobPlan(
        file=file,
        recipe=recipe,
        proxies=[
            ProxyPlan(label=f"{request.name}, seed {seed}", job=proxy.job(seed))
            for request, proxy in zip(requests[1:], smaller, strict=True)
            for seed in seeds
        ],
        evaluate_path=catalogue.settable_fields.get("evaluate"),
    )


def _requests(file: FullFile, path: Path) -> list[Request]:
    """The job first, then one request per proxy value."""
    base = find_base(path, file.base)
    requests = [Request(name=JOB, base=base, set=file.set)]
    if (proxies := file.proxies) is not None:
        for value in proxies.values:
            own = {**proxies.set, proxies.field: value}
            sets = {path: old for path, old in file.set.items() if not _below(path, own)} | own
            name = f"proxy {proxies.field}={value}"
            requests.append(Request(name=name, base=base, set=sets))
    return requests


def _below(path: str, others: Iterable[str]) -> bool:
    """Whether a field is inside one of the others, as core.max_per_task is inside core."""
    return any(path.startswith(f"{other}.") for other in others)


# --- the job that a name stands for ---------------------------------------------------------------


class StoredPlan(msgspec.Struct, frozen=True, kw_only=True):
    """`plan.json` of a job: the run that its name stands for."""

    plan_id: str
    identity: Identity
    seed: int
    ranks: int
    proxies: list[str]

    @property
    def fields(self) -> dict[str, Any]:
        """What makes it this job, by field."""
        return {**msgspec.to_builtins(self.identity), "seed": self.seed, "ranks": self.ranks}


def store_plan(folder: Path, plan: JobPlan, path: Path, store: Store) -> None:
    """Stores the run that the name stands for: the plan and the job file, in the job's folder.

    Raises StoreError as `check_name`, and DiskError.
    """
    check_name(folder, plan, store)
    files.write_json(folder / PLAN, msgspec.to_builtins(_stored(plan)))
    files.write_text(folder / "job.yaml", path.read_text(encoding="utf-8"))
    files.write_json(folder / "job.json", msgspec.to_builtins(plan.file))


def check_name(folder: Path, plan: JobPlan, store: Store) -> None:
    """Raises StoreError if the job's name stands for another job that has runs in this store."""
    value = files.read_json(folder / PLAN)
    if value is None:
        return
    old = stored_file.convert(value, StoredPlan, folder / PLAN, "the plan of a full job")
    new = _stored(plan)
    if not plan.data_ready:  # then the data's identity is unknown
        identity = msgspec.structs.replace(old.identity, data_id=None)
        old = msgspec.structs.replace(old, identity=identity)
    if old.fields == new.fields or not store.attempts(old.plan_id):
        return
    changes = [
        f"{field} {old.fields[field]}, now {value}"
        for field, value in new.fields.items()
        if value != old.fields[field]
    ]
    expected = "one job of this name in a store"
    hint = "Rename the job, restore the old settings or code, or use another --store."
    raise StoreError(f"full: {plan.file.full}", expected, "; ".join(changes), hint)


def _stored(plan: JobPlan) -> StoredPlan:
    job = plan.job
    return StoredPlan(
        plan_id=job.plan_id,
        identity=job.identity,
        seed=job.seed,
        ranks=job.ranks,
        proxies=[proxy.job.plan_id for proxy in plan.proxies],
    )
