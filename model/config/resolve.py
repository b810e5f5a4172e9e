"""Resolve a configuration file and overrides to a checked `Config`, derived values and identity.

Every command of the trainer does this first. No torch.
"""

import copy
from functools import cache
from pathlib import Path
from typing import Any

from model.config import Config, catalogue, identity
from model.config.derive import Derived, derive
from model.config.reader import apply_overrides, build, read_values
from model.data.manifest import View, find_view
from model.data.settings import DataSettings
from model.errors import ConfigError, ConfigErrors


def resolve(base: str | None, overrides: dict[str, Any], ranks: int = 1) -> tuple[Config, Derived]:
    """Returns the checked configuration and its derived values; raises ConfigErrors."""
    values = copy.deepcopy(_base_values(base)) if base else {}
    errors: list[ConfigError] = []
    apply_overrides(values, overrides, errors)
    config = build(Config, values, "", errors)
    if errors:
        raise ConfigErrors(errors)
    catalogue.check(config)
    return config, derive(config, ranks)


def identity_json(config: Config) -> dict[str, Any]:
    """The four identities; data_id is null until the data is prepared."""
    return identity_of(config, find_view(DataSettings.from_config(config)))


def identity_of(config: Config, view: View | None) -> dict[str, Any]:
    """The four identities, given the prepared data (or None)."""
    return {
        "config_id": identity.config_id(config),
        "code_id": identity.code_id(),
        "data_id": view.data_id if view is not None else None,
        "protocol": identity.PROTOCOL,
    }


@cache
def _base_values(base: str) -> dict[str, Any]:
    return read_values(Path(base))
