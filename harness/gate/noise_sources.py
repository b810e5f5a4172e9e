"""The noise model that a command uses: shipped rows, a file's, and those of a store."""

from pathlib import Path

from harness.compare.noise_model import SHIPPED, NoiseModel, NoiseRow, measured_rows, read_rows
from harness.results.store import Store


def load_noise_model(file: Path, store: Store) -> NoiseModel:
    """The shipped rows, those of a noise model file if it is there, and those of a store's
    records.
    """
    kept = read_rows(file) if file.exists() else []
    return NoiseModel([*read_rows(SHIPPED), *kept, *derived_rows(store)])


def derived_rows(store: Store) -> list[NoiseRow]:
    """What a store's gates and records teach."""
    from harness.gate import history

    return history.taught(measured_rows(store.records()), history.load(store))
