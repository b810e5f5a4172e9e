"""The Python API: what `import harness` gives.

Loads the records and curves of a store, loads or runs a study, attributes its gains, and compares
runs, as pandas objects. Every function returns the numbers that the command of the same name
prints: `harness study`, `harness report`, `harness compare`, `harness noise`. Nothing here prints.

    load_records    one row a run: identity, environment, status, every metric
    load_curves     one row a step of a run
    load_study      a stored study; `run_study` runs it first
    attribution     what each arm of a study changes, with intervals
    compare         side B against side A, metric by metric
    noise_model     how much identical runs differ
"""

from harness.api.comparison import Comparison, NoiseModel, compare, noise_model
from harness.api.records import load_curves, load_records
from harness.api.study import Attribution, Study, attribution, load_study, run_study

__all__ = [
    "Attribution",
    "Comparison",
    "NoiseModel",
    "Study",
    "attribution",
    "compare",
    "load_curves",
    "load_records",
    "load_study",
    "noise_model",
    "run_study",
]
