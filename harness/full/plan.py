"""A job with every question answered: its recipe and its proxies' as the trainer understands them.

All configurations are described at once; where data is not ready, it is made ready here, and not
by eight ranks side by side. After the file, before anything that runs.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from harness.config.full_file import FullFile
from harness.config.yaml_schema import EXAMPLES
from harness.errors import StudyFileError
from harness.runner.attempt import RunSpec
from harness.runner.replicates import Recipe, describe_with_data, recipe_from_description
from harness.runner.trainer import NativeTrainer, Request

JOB = "the job"


class ProxyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One proxy to make, at one seed."""

    label: str
    job: RunSpec


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The job and its proxies. `evaluate_path`: the field that says every how many steps."""

    file: FullFile
    recipe: Recipe
    proxies: list[ProxyPlan]
    evaluate_path: str | None

    @property
    def job(self) -> RunSpec:
        """The full run."""
        return self.recipe.job(self.file.seed, self.file.ranks)

    @property
    def ready(self) -> bool:
        """Whether all data is, so that every run has its name."""
        jobs = [self.job, *(proxy.job for proxy in self.proxies)]
        return all(job.identity.data_id is not None for job in jobs)

    @property
    def steps(self) -> int:
        """Of the full run."""
        return int(self.recipe.derived.get("steps") or 0)

    @property
    def stages(self) -> list[int]:
        """The first step of each stage of the full run: within one, steps have one shape."""
        told = self.recipe.derived.get("stages") or []
        return [int(stage["first_step"]) for stage in told] or [0]

    @property
    def evaluations(self) -> int:
        """How often the full run evaluates, its end included."""
        every = _value(self.recipe.config, self.evaluate_path) if self.evaluate_path else None
        return -(-self.steps // int(every)) if every else 1


def plan(file: FullFile, path: Path, trainer: NativeTrainer, *, prepares: bool = True) -> JobPlan:
    """Describes all configurations; `prepares`: with their data made ready.

    Raises StudyFileError with the trainer's faults, and TrainerError.
    """
    requests = _requests(file, path)
    said = describe_with_data(trainer, requests) if prepares else trainer.describe_or_fail(requests)
    catalogue = trainer.catalogue()
    recipe, *smaller = [recipe_from_description(one, catalogue) for one in said]
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
    """The job first, then one for each proxy's value."""
    base = (path.parent / file.base).resolve()
    if not base.is_file():
        raise StudyFileError(
            f"{path}: base",
            "a configuration file, relative to this one",
            f"no file {base}",
            EXAMPLES,
        )
    found = [Request(name=JOB, base=str(base), set=file.set)]
    if (proxies := file.proxies) is not None:
        for value in proxies.values:
            own = {**proxies.set, proxies.field: value}
            sets = {path: old for path, old in file.set.items() if not _below(path, own)} | own
            name = f"proxy {proxies.field}={value}"
            found.append(Request(name=name, base=str(base), set=sets))
    return found


def _below(path: str, others: Iterable[str]) -> bool:
    """Whether a field is a part of one of the others, as core.max_per_task is of core."""
    return any(path.startswith(f"{other}.") for other in others)


def _value(config: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        config = config.get(part) if isinstance(config, dict) else None  # type: ignore[assignment]
    return config
