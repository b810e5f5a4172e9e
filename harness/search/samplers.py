"""Creates Optuna's samplers and pruners from the names and arguments in a search file."""

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from harness.config.yaml_schema import nearest
from harness.errors import StudyFileError
from harness.search.storage import allow_experimental, import_optuna

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

Setting = str | dict[str, Any]  # a class name, or {name: class name, argument: value}
PACKAGES = {  # imported by Optuna only when such a class first proposes or prunes
    "CmaEsSampler": ("cmaes",),
    "GPSampler": ("scipy", "torch"),
    "QMCSampler": ("scipy",),
    "WilcoxonPruner": ("scipy",),
}


def create_sampler(setting: Setting, seed: int, where: str) -> "BaseSampler":
    """A sampler. Raises StudyFileError for an unknown name, argument or missing package."""
    module = import_optuna().samplers
    sampler: BaseSampler = _create(module, "Sampler", setting, f"{where}: sampler", seed=seed)
    return sampler


def create_pruner(setting: Setting, evaluations: int, where: str) -> "BasePruner":
    """A pruner; `evaluations` is the number of evaluations of a complete run.

    One evaluation is one unit of the pruner's resource. By default a run is not pruned before a
    ninth of its evaluations, because the order of runs early in training predicts their order at
    the end poorly. Runs with a single evaluation are never pruned. Raises StudyFileError.
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
    except (TypeError, ValueError) as error:
        hint = "Its arguments are " + ", ".join(parameters) + "."
        raise StudyFileError(where, f"arguments of Optuna's {name}", str(error), hint) from error
