"""The noise model that a command uses: shipped rows, a file's, and those of a store."""

from pathlib import Path

from harness.compare.noise_model import PRIORS, Ledger, Row, own_rows, read_rows
from harness.results.store import Store


def load_ledger(file: Path, store: Store) -> Ledger:
    """The shipped rows, those of a ledger file if it is there, and those of a store's records."""
    kept = read_rows(file) if file.exists() else []
    return Ledger([*read_rows(PRIORS), *kept, *learnt(store)])


def learnt(store: Store) -> list[Row]:
    """What a store's gates and records teach."""
    from harness.gate import history

    return history.taught(own_rows(store.records()), history.load(store))
