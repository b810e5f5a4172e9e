"""Packages that the job will import, looked for without importing them.

An import of torch takes seconds, and one that is missing is found here before a node is held for
it. Whether kernel packages work is the machine's to say (`model.doctor --probe`).
"""

from collections.abc import Iterator
from importlib.util import find_spec

from model.config import Config
from model.data.settings import DataSettings
from model.diagnostics.finding import Finding, judged
from model.diagnostics.requirements.inventory import Inventory

ALWAYS = ("torch", "numpy", "tiktoken")


def findings(config: Config, settings: DataSettings, stock: Inventory) -> Iterator[Finding]:
    """One finding for all of them."""
    wanted = [*ALWAYS]
    if stock.home is None and settings.tokenizer == "train":
        wanted.append("rustbpe")
    if config.core is not None or (stock.home is None and stock.kind == "parquet"):
        wanted.append("pyarrow")
    missing = [name for name in wanted if find_spec(name) is None]
    yield judged(
        "packages",
        ok=not missing,
        expected=", ".join(wanted),
        got=f"no {', '.join(missing)}" if missing else "all installed",
        hint="Install the trainer's packages: pip install 'speedrun-harness[train]'.",
    )
