"""Creates Optuna's samplers and pruners from the names and arguments in a search file."""

import inspect
import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeGuard

from harness.config.search_file import SearchFile, dimensions
from harness.config.yaml_schema import nearest
from harness.errors import StudyFileError
from harness.files import digest
from harness.search.space import Dimension, label
from harness.search.storage import allow_experimental, import_optuna

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from harness.search.points import PointSampler

Setting = str | dict[str, Any]  # a class name, or {name: class name, argument: value}
MOST_POINTS = 1_000_000  # of a grid
PACKAGES = {  # imported by Optuna only when such a class first proposes or prunes
    "CmaEsSampler": ("cmaes",),
    "GPSampler": ("scipy", "torch"),
    "QMCSampler": ("scipy",),
    "WilcoxonPruner": ("scipy",),
}


def create_sampler(
    file: SearchFile, seed: int, where: str, start: Mapping[str, Any] | None = None
) -> "BaseSampler":
    """A sampler. Raises StudyFileError for an unknown name, argument or missing package.

    `seed`: of this worker. The points of a grid and of a quasi-random sequence are those of every
    worker: they depend on the search alone. `start`: the base's point, which is the first trial.
    """
    module, where = import_optuna().samplers, f"{where}: sampler"
    sampler: BaseSampler = _create(module, "Sampler", file.sampler, where, seed=seed)
    given = {} if isinstance(file.sampler, str) else file.sampler
    shared = int(given.get("seed") or int(digest([file.search, file.seed], 8), 16))
    if isinstance(sampler, module.GridSampler):
        from harness.search.points import Grid

        return Grid(_grid(file, given["search_space"], where), shared, start)
    if isinstance(sampler, module.QMCSampler):
        from harness.search.points import QuasiRandom

        kind, scramble = str(given.get("qmc_type", "sobol")), bool(given.get("scramble"))
        return QuasiRandom(file.parameters, kind, scramble, shared)
    return sampler


def is_shared(sampler: "BaseSampler") -> "TypeGuard[PointSampler]":
    """Whether the points of a sampler are those of every worker."""
    from harness.search.points import PointSampler

    return isinstance(sampler, PointSampler)


def _grid(file: SearchFile, values: Any, where: str) -> dict[str, list[Any]]:
    """The values of each parameter of a grid, all of them in its range. Raises StudyFileError."""
    fields = {path: Dimension(path=path, field=one) for _, path, one in dimensions(file)}
    where = f"{where}.search_space"
    if not isinstance(values, dict) or set(values) != set(file.parameters):
        got = ", ".join(map(str, values)) if isinstance(values, dict) else repr(values)
        hint = "A grid lists the values of every field under `space`, and of every trick."
        raise StudyFileError(where, "each of " + ", ".join(file.parameters), got, hint)
    for name, several in values.items():
        allowed = fields[name].contains if name in fields else lambda one: isinstance(one, bool)
        bad = [one for one in several if not allowed(one)] if isinstance(several, list) else several
        if bad or not several:
            text = fields[name].describe() if name in fields else "true or false"
            raise StudyFileError(f"{where}.{name}", text, repr(bad), "Correct these values.")
    number = math.prod(map(len, values.values()))
    if number > MOST_POINTS:
        expected, hint = f"at most {MOST_POINTS:,} points", "Use fewer values, or another sampler."
        raise StudyFileError(where, expected, f"{number:,}", hint)
    return {name: list(dict.fromkeys(map(label, values[name]))) for name in file.parameters}


def create_pruner(setting: Setting, evaluations: int, where: str) -> "BasePruner":
    """A pruner; `evaluations` is the number of evaluations of a complete run.

    One evaluation is one unit of the pruner's resource. By default a run is not pruned before a
    ninth of its evaluations, because the order of runs early in training hardly predicts their
    order at the end. Runs with a single evaluation are never pruned. Raises StudyFileError.
    """
    optuna = import_optuna()
    resources = {"min_resource": max(1, evaluations // 9), "max_resource": max(1, evaluations)}
    pruner: BasePruner = _create(optuna.pruners, "Pruner", setting, f"{where}: pruner", **resources)
    return pruner if evaluations > 1 else optuna.pruners.NopPruner()


def _create(module: Any, kind: str, setting: Setting, where: str, **defaults: Any) -> Any:
    """An object of one of a module's classes; arguments of the file override the defaults."""
    given = {"name": setting} if isinstance(setting, str) else dict(setting)
    name = str(given.pop("name", ""))
    known = [one for one in module.__all__ if one.endswith(kind) and not one.startswith("Base")]
    if name not in known:
        hint = nearest(name, known) or "Choose one of these; its arguments stand beside `name`."
        raise StudyFileError(where, "one of " + ", ".join(known), repr(name), hint)
    if missing := [one for one in PACKAGES.get(name, ()) if find_spec(one) is None]:
        raise StudyFileError(
            where,
            f"the packages that Optuna's {name} needs",
            "no package " + ", ".join(missing),
            f"pip install {' '.join(missing)}, or choose another of: {', '.join(known)}.",
        )
    build: Callable[..., Any] = getattr(module, name)
    parameters = inspect.signature(build).parameters
    try:
        with allow_experimental():
            return build(**{key: defaults[key] for key in defaults if key in parameters} | given)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        hint = "Its arguments are " + ", ".join(parameters) + "."
        raise StudyFileError(where, f"arguments of Optuna's {name}", str(error), hint) from error
