"""What a job requires before it starts, without starting anything.

    {"findings": [...], "checkpoint_bytes": n, "free_bytes": n, "planned_tokens": n, "data": {...},
     "errors": []}

`planned_tokens` are those that all steps of the job take. Where the configuration itself is faulty,
`errors` are those of `model.describe`, each a finding too, and nothing else is known.

    plan          batch, ranks, horizon: what follows from the configuration alone
    packages      what has to be installed
    gpus          the GPUs of this machine, as the driver reports them
    inventory     which shards, downloads and text files are here and complete
    data          the same, compared with the tokens that the job takes
    tokenizer     where the tokenizer comes from
    core_bundle   the tasks of the CORE metric
    disk          checkpoints, compared with the free space of the run's file system
    connectivity  whether an address answers

Each file checks one thing and yields findings (model/diagnostics/finding.py). The trainer checks
its own requirements, so that the harness needs no field of its configuration. No torch, and no GPU
is touched: it takes seconds, on a machine without GPUs too. Hashes of every shard take minutes and
are compared on request only.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.config import Config
from model.config.derive import Derived
from model.data.settings import DataSettings
from model.diagnostics.finding import Finding, as_json, of_error
from model.diagnostics.requirements import (
    core_bundle,
    data,
    disk,
    gpus,
    packages,
    plan,
    tokenizer,
)
from model.diagnostics.requirements.inventory import Inventory, take_inventory
from model.errors import ConfigErrors, MachineError, ModelError


def requirements(
    config: Config, derived: Derived, out: Path, *, nodes: int = 1, every_byte: bool = False
) -> dict[str, Any]:
    """What a job in `out` requires, and whether this machine, one of `nodes`, has it.

    Raises ModelError, and ModuleNotFoundError for a package that everything needs.
    """
    settings = DataSettings.from_config(config)
    stock = take_inventory(settings, derived.stages[-1].last_row, every_byte=every_byte)
    room = disk.Room.of(config, derived, out, cache=settings.cache, coming_bytes=stock.coming_bytes)
    ranks_here = derived.ranks // nodes
    return {
        "findings": as_json(_findings(config, derived, settings, stock, room, ranks_here)),
        "checkpoint_bytes": room.checkpoint_bytes,
        "free_bytes": room.free_bytes,
        "planned_tokens": derived.tokens,
        "data": stock.as_json(),
        "errors": [],
    }


def _findings(
    config: Config,
    derived: Derived,
    settings: DataSettings,
    stock: Inventory,
    room: disk.Room,
    ranks_here: int,
) -> Iterator[Finding]:
    yield from plan.findings(config, derived)
    yield from packages.findings(config, settings, stock)
    yield from gpus.findings(config, derived, gpus.visible(config), ranks_here)
    yield from data.findings(settings, derived, stock)
    yield from tokenizer.findings(settings, stock)
    yield from core_bundle.findings(config, settings.cache)
    yield from disk.findings(room)


def refused(error: ModelError) -> dict[str, Any]:
    """The answer for a faulty configuration, or for a package that everything needs."""
    faults = error.errors if isinstance(error, ConfigErrors) else [error]
    unknown: dict[str, Any] = dict.fromkeys(("checkpoint_bytes", "free_bytes", "planned_tokens"))
    what = "packages" if isinstance(error, MachineError) else "configuration"
    found = as_json(of_error(what, fault) for fault in faults)
    return {"findings": found, **unknown, "data": {}, "errors": [f.as_json() for f in faults]}
