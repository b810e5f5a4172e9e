"""Checks the requirements of a job before it starts.

    {"findings": [...], "checkpoint_bytes": n, "free_bytes": n, "planned_tokens": n, "data": {...},
     "errors": []}

`planned_tokens` are the tokens of all steps. For a faulty configuration, `errors` are those of
`model.describe`, each also a finding, and the other values are null.

    plan          batch, ranks, horizon, from the configuration alone
    packages      required packages
    gpus          the GPUs of this machine, as the driver reports them
    inventory     shards, downloads and text files on this machine, and whether they are complete
    data          the inventory, compared with the tokens that the job takes
    tokenizer     the source of the tokenizer
    core_bundle   the tasks of the CORE metric
    disk          checkpoints, compared with the free space of the run's file system
    connectivity  whether a server responds

Each file checks one subject and yields findings (model/diagnostics/finding.py). The trainer checks
its own requirements, so that the harness does not depend on its configuration fields. No torch, and
no use of a GPU: it takes seconds, on machines without GPUs too. Hashing every shard takes minutes
and is optional.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.config import Config
from model.config.derive import Derived
from model.data.settings import DataSettings
from model.diagnostics.finding import Finding, as_json, from_error
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
    """The requirements of a job in `out`, checked on this machine, one of `nodes`.

    Raises ModelError, and ModuleNotFoundError for a package that all checks need.
    """
    settings = DataSettings.from_config(config)
    inventory = take_inventory(settings, derived.stages[-1].last_row, every_byte=every_byte)
    space = disk.DiskSpace.of(
        config, derived, out, cache=settings.cache, coming_bytes=inventory.coming_bytes
    )
    ranks_here = derived.ranks // nodes
    return {
        "findings": as_json(_findings(config, derived, settings, inventory, space, ranks_here)),
        "checkpoint_bytes": space.checkpoint_bytes,
        "free_bytes": space.free_bytes,
        "planned_tokens": derived.tokens,
        "data": inventory.as_json(),
        "errors": [],
    }


def _findings(
    config: Config,
    derived: Derived,
    settings: DataSettings,
    inventory: Inventory,
    space: disk.DiskSpace,
    ranks_here: int,
) -> Iterator[Finding]:
    yield from plan.findings(config, derived)
    yield from packages.findings(config, settings, inventory)
    yield from gpus.findings(config, derived, gpus.visible(config), ranks_here)
    yield from data.findings(settings, derived, inventory)
    yield from tokenizer.findings(settings, inventory)
    yield from core_bundle.findings(config, settings.cache)
    yield from disk.findings(space)


def refused(error: ModelError) -> dict[str, Any]:
    """The result for a faulty configuration, or for a package that all checks need."""
    faults = error.errors if isinstance(error, ConfigErrors) else [error]
    unknown: dict[str, Any] = dict.fromkeys(("checkpoint_bytes", "free_bytes", "planned_tokens"))
    what = "packages" if isinstance(error, MachineError) else "configuration"
    found = as_json(from_error(what, fault) for fault in faults)
    return {"findings": found, **unknown, "data": {}, "errors": [f.as_json() for f in faults]}
