"""Configuration of the simulated trainer: fields, derived values, tricks and identity.

It has the shape of a real trainer's configuration: nested fields with defaults, values derived from
one dial, pinned values and a catalogue of tricks.
"""

import copy
import difflib
import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.files import canonical_json, digest

PROTOCOL = 1
DEVICE_BYTES = 80 * 2**30  # memory of the simulated GPU
NOT_IN_IDENTITY = ["seed", "pace", "checkpoint"]

DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "dial": {
        "depth": 4,  # sets the number of parameters and, with it, of planned tokens
        "ratio": 12.0,  # planned tokens per parameter
        "steps": None,  # null: derived
        "batch_tokens": 16384,
    },
    "data": {"source": "formula"},
    "eval": {"every_steps": 40, "tokens": 65536},
    "core": {
        "examples": 0,  # of each task; 0 leaves CORE out
        "bundle": "formula",  # any other name selects another set of examples
        "tokenizer": "letters",
        "long_prompts": "full",  # or crop_left
        "baselines": "v1",  # or v2
    },
    # tricks; null is off
    "windows": None,  # a pattern such as SSSL
    "residual_scalars": None,  # true
    "value_embeddings": None,  # true
    "backout": None,  # true; requires residual_scalars
    "optimizer": {"matrices": "adamw", "adamw_lr": 0.01},  # or muon
    "noise": {
        "loss_sd": 0.0014,  # nats, between seeds
        "skill_sd": 0.02,  # nats, between seeds, on the margins of CORE's examples
        "speed_cv": 0.0013,  # relative, between launches
        "host_drift": 0.0,  # relative amplitude of a slow sine in the host's speed
        "host_drift_period_s": 3600.0,
    },
    "plant": {  # regressions for a gate to find
        "loss": 0.0,  # nats added to the final loss
        "skill": 0.0,  # nats added to the margin of every CORE example
        "slowdown": 0.0,  # relative, of every step
        "loader_wait": 0.0,  # share of each step spent waiting for its batch
        "memory_share": 0.0,  # of the device's memory, in place of the formula's estimate
    },
    "bowl": {  # a quadratic term of the loss for a search to minimise; its minimum is OPTIMUM
        "curvature": 0.0,  # nats at distance 1 from the minimum
        "x": 0.0,
        "y": 0.0,
    },
    "pace": {"sleep_ms": 0.0, "startup_ms": 0.0},  # real sleep; recorded times are simulated
    "checkpoint": {"every_steps": None},  # and at the end; null: none, not even on SIGTERM
    "fail": {
        "at_seeds": None,  # a list of seeds: fail at these only
        "crash_at_step": None,
        "hang_at_step": None,
        "diverge_at_step": None,
        "out_of_memory_at_step": None,
    },
}

# effect of each trick when on: on the final loss (nats) and on the speed (relative)
EFFECTS = {
    "windows": (0.004, 0.11),
    "muon": (-0.055, -0.03),
    "residual_scalars": (-0.016, -0.012),
    "value_embeddings": (-0.021, -0.015),
    "backout": (-0.003, -0.001),
}
OPTIMUM = {"x": 0.6, "y": 0.3}
PEOPLE = ["the harness"]

CATALOGUE: dict[str, dict[str, Any]] = {
    "windows": {
        "summary": "Attention windows, simulated",
        "on": {"windows": "SSSL"},
        "off": {"windows": None},
        "lines": 40,
    },
    "muon": {
        "summary": "Muon for the matrices, simulated; off is AdamW",
        "on": {"optimizer.matrices": "muon"},
        "off": {"optimizer.matrices": "adamw"},
        "retune": ["optimizer.adamw_lr"],
        "lines": 120,
    },
    "residual_scalars": {
        "summary": "Learned scalars on the residual stream, simulated",
        "on": {"residual_scalars": True},
        "off": {"residual_scalars": None},
        "lines": 25,
    },
    "value_embeddings": {
        "summary": "Embeddings added to the values, simulated",
        "on": {"value_embeddings": True},
        "off": {"value_embeddings": None},
        "lines": 50,
    },
    "backout": {
        "summary": "Subtracts the middle of the residual stream before the head, simulated",
        "on": {"backout": True},
        "off": {"backout": None},
        "requires": ["residual_scalars"],
        "lines": 12,
    },
}
SETTABLE_FIELDS = {
    "seed": "seed",
    "steps": "dial.steps",
    "evaluate": "eval.every_steps",
    "checkpoint": "checkpoint.every_steps",
}


class FakeConfigError(HarnessError):
    """An invalid configuration of the simulated trainer."""


def load(base: Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns defaults, updated by a base file, then by overrides. Raises FakeConfigError."""
    config = copy.deepcopy(DEFAULTS)
    if base is not None:
        _merge(config, _read(base), "")
    for path, value in overrides.items():
        _assign(config, path, value)
    _check(config)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        expected = "a configuration file"
        hint = "Name an existing file, such as ablations/configs/fake.yaml."
        raise FakeConfigError(str(path), expected, str(error.strerror), hint) from error
    except UnicodeDecodeError as error:
        got = f"an invalid byte at {error.start}"
        raise FakeConfigError(str(path), "UTF-8 text", got, "Save the file as UTF-8.") from error
    if path.suffix == ".json":  # written by the harness: needs no YAML reader
        config = json.loads(text)
    else:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            config = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            expected = "YAML with every key once"
            got = " ".join(str(error).partition("\n\n")[0].split())
            raise FakeConfigError(str(path), expected, got, "Correct that line.") from error
    if not isinstance(config, dict):
        got = "an empty file" if config is None else repr(config)
        raise FakeConfigError(str(path), "a mapping", got, "See the default values.")
    return config


def _merge(config: dict[str, Any], new: Mapping[str, Any], prefix: str) -> None:
    for key, value in new.items():
        path = f"{prefix}{key}"
        if isinstance(config.get(key), dict) and isinstance(value, dict):
            _merge(config[key], value, f"{path}.")
        else:
            _assign(config, str(key), value, prefix)


def _assign(config: dict[str, Any], path: str, value: Any, prefix: str = "") -> None:
    head, _, rest = path.partition(".")
    if head not in config or (rest and not isinstance(config[head], dict)):
        near = difflib.get_close_matches(head, list(config), n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "Remove it."
        raise FakeConfigError(prefix + path, "one of " + ", ".join(config), repr(head), hint)
    if rest:
        _assign(config[head], rest, value, f"{prefix}{head}.")
        return
    _check_type(prefix + head, value)
    config[head] = value


def _check_type(path: str, value: Any) -> None:
    default: Any = DEFAULTS
    for part in path.split("."):
        default = default[part]
    if isinstance(value, str) and value in ("off", "none", "false"):
        raise FakeConfigError(path, "null for off", repr(value), "Write null.")
    number = path == "dial.steps" or path.startswith("bowl.") or _is_number(default)
    fits = _is_number(value) or (default is None and value is None)
    if (number and not fits) or (isinstance(default, dict) and not isinstance(value, dict)):
        raise FakeConfigError(
            path, "a number" if number else "a mapping", repr(value), "Write such a value."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(config: dict[str, Any]) -> None:
    rate = config["optimizer"]["adamw_lr"]
    for name, number in (*config["dial"].items(), ("adamw_lr", rate)):
        if number is not None and not number > 0:  # NaN neither
            section = "dial" if name in config["dial"] else "optimizer"
            raise FakeConfigError(f"{section}.{name}", "more than 0", str(number), "Raise it.")
    if config["backout"] and not config["residual_scalars"]:
        expected = "residual_scalars to be on as well"
        got = "residual_scalars: null"
        raise FakeConfigError("backout", expected, got, "Turn residual_scalars on, or backout off.")
    if config["optimizer"]["matrices"] not in ("muon", "adamw"):
        got = repr(config["optimizer"]["matrices"])
        raise FakeConfigError("optimizer.matrices", "muon or adamw", got, "Write one of them.")


def tricks(config: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each trick is on, by name."""
    return {
        "windows": config["windows"] is not None,
        "muon": config["optimizer"]["matrices"] == "muon",
        "residual_scalars": bool(config["residual_scalars"]),
        "value_embeddings": bool(config["value_embeddings"]),
        "backout": bool(config["backout"]),
    }


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values derived from a configuration: steps, tokens, parameters, FLOPs, memory."""
    depth, dial = int(config["dial"]["depth"]), config["dial"]
    width = 64 * depth
    blocks = 12 * depth * width**2
    gates = 24 * depth * width if config["value_embeddings"] else 0
    head = 4096 * width
    planned = dial["ratio"] * (blocks + gates + head)
    steps = dial["steps"] or max(1, int(planned / dial["batch_tokens"]))
    window = 0.5 if config["windows"] else 1.0
    return {
        "steps": int(steps),
        "batch_tokens": int(dial["batch_tokens"]),
        "tokens": int(steps) * int(dial["batch_tokens"]),
        "parameters": {"blocks": blocks, "gates": gates, "head": head},
        "parameters_total": blocks + gates + head,
        "flops_per_token": int(6 * (blocks + gates + head) + 12 * depth * width * 1024 * window),
        "memory_bytes": planted_bytes(config) or 16 * (blocks + gates + head),
        "learning_rates": {"matrices": config["optimizer"]["adamw_lr"]},
        "weight_decay": {"matrices": 0.1},
    }


def bowl_loss(config: Mapping[str, Any]) -> float:
    """The loss, in nats, due to the distance of a configuration from OPTIMUM."""
    bowl = config["bowl"]
    squares = sum((bowl[axis] - best) ** 2 for axis, best in OPTIMUM.items())
    return float(bowl["curvature"] * squares)


def planted_bytes(config: Mapping[str, Any]) -> int:
    """The planted memory use in bytes; 0 where none is planted."""
    return int(config["plant"]["memory_share"] * DEVICE_BYTES)


def pins(config: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that give the derived values of this configuration to another arm."""
    values = derived(config)
    return {"dial.steps": values["steps"], "dial.batch_tokens": values["batch_tokens"]}


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Identifiers of the configuration, the code and the data, and the protocol."""
    identified = {key: value for key, value in config.items() if key not in NOT_IN_IDENTITY}
    return {
        "config_id": digest(_without_defaults(identified, DEFAULTS), 16),
        "code_id": code_id(),
        "data_id": digest(config["data"], 16),
        "protocol": PROTOCOL,
    }


def generator(config: Mapping[str, Any], *key: object) -> random.Random:
    """A random generator of a configuration, its seed and `key`.

    The code of this trainer is not part of it: its numbers stay the same when a line of it changes.
    """
    drawn = {name: value for name, value in identity(config).items() if name != "code_id"}
    return random.Random(canonical_json([drawn, config["seed"], *key]))


def code_id() -> str:
    """A hash of this package's source files."""
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return sources.hexdigest()[:16]


def _without_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            if inner := _without_defaults(value, defaults[key]):
                changed[key] = inner
        elif value is not None and value != defaults[key]:
            changed[key] = value
    return changed
