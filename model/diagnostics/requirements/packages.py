"""Packages that the job will import, found without importing them.

Importing torch takes seconds, and a missing package is found before a node waits for it.
`model.doctor --probe` checks whether kernel packages work on the machine.
"""

from collections.abc import Iterator
from importlib.util import find_spec

from model.config import Config
from model.data.settings import DataSettings
from model.diagnostics.finding import Finding, check
from model.diagnostics.requirements.inventory import Inventory

ALWAYS = ("torch", "numpy", "tiktoken")


def findings(config: Config, settings: DataSettings, inventory: Inventory) -> Iterator[Finding]:
    wanted = [*ALWAYS]
    if inventory.home is None and settings.tokenizer == "train":
        wanted.append("rustbpe")
    if config.core is not None or (inventory.home is None and inventory.kind == "parquet"):
        wanted.append("pyarrow")
    missing = [name for name in wanted if find_spec(name) is None]
    yield check(
        "packages",
        ok=not missing,
        expected=", ".join(wanted),
        got=f"no {', '.join(missing)}" if missing else "all installed",
        hint="Install the trainer's packages: pip install 'speedrun-harness[train]'.",
    )
