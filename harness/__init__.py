"""Ablation and regression benchmarks for GPT-2 speedrun trainers.

    >>> import harness
    >>> records = harness.load_records("runs")
    >>> harness.compare("baseline/*.txt", "change/*.txt").to_frame()

The public names are those of `harness.api`, which is loaded when one of them is first used, so that
the command line starts fast.

The packages in the order in which a result passes through them. A package imports only those
above it, and siblings on one line never import each other; import-linter checks both.

    errors, files, redact, format, metrics   exceptions and exit codes, atomic files, the metrics
    stats               intervals, decisions, power, sequential tests: pure functions
    config              strict schemas of study, search, full-job and cluster files
    results             the record of a run, the store, archives; readers of other trainers' logs
    comparison, runner  the comparison engine with its noise model; trainers and their processes
    study, gate         arms, designs and attribution; baselines and the gate
    search, full        hyperparameter search; the full job and its forecast
    report              everything that prints or draws
    cli, api            one file a command; the Python API
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import (
        Attribution,
        Comparison,
        NoiseModel,
        Study,
        attribution,
        compare,
        load_curves,
        load_records,
        load_study,
        noise_model,
        run_study,
    )

    __version__: str

__all__ = [
    "Attribution",
    "Comparison",
    "NoiseModel",
    "Study",
    "__version__",
    "attribution",
    "compare",
    "load_curves",
    "load_records",
    "load_study",
    "noise_model",
    "run_study",
]

DISTRIBUTION = "speedrun-harness"  # the name on PyPI; `harness` there is another project


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in __all__:
        from harness import api

        return getattr(api, name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """The installed version; `0+unknown` where the package is imported from a folder instead."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0+unknown"
