"""The FakeTrainer's configuration: fields, derived values, tricks, identity.

Small, strict, and of the same shape as a real trainer's: nested fields with defaults, values
derived from one dial, pins, a catalogue. It knows nothing of the harness.
"""

import copy
import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.files import canonical_json, digest

PROTOCOL = 1
DEVICE_BYTES = 80 * 2**30  # memory of the simulated GPU
STATE_BYTES = 12  # a parameter in a checkpoint: itself and two moments, in fp32
SLOW = 1.2  # a slow rank's time over that of the others
UNIDENTIFIED = ("seed", "pace", "checkpoint", "machine")

DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "dial": {
        "depth": 4,  # sets parameters, and with them the planned tokens
        "ratio": 12.0,  # planned tokens per parameter
        "steps": None,  # null: derived
        "batch_tokens": 16384,
    },
    "data": {"source": "formula"},
    "eval": {"every_steps": 40, "tokens": 65536},
    "core": {
        "examples": 0,  # of each task; 0 leaves CORE out
        "bundle": "formula",  # another word is another set of examples
        "tokenizer": "letters",
        "long_prompts": "full",  # or crop_left
        "baselines": "v1",  # or v2
    },
    # the tricks; null is off
    "windows": None,  # a pattern such as SSSL
    "residual_scalars": None,  # true
    "value_embeddings": None,  # true
    "backout": None,  # true; only beside residual_scalars
    "optimizer": {"matrices": "adamw", "adamw_lr": 0.01},  # or muon
    "noise": {
        "loss_sd": 0.0014,  # nats, between seeds
        "skill_sd": 0.02,  # nats, between seeds: on the margins of CORE's examples
        "speed_cv": 0.0013,  # relative, between launches
        "host_drift": 0.0,  # relative amplitude of a slow swing of the host's speed
        "host_drift_period_s": 3600.0,
    },
    "plant": {  # what a gate has to find
        "loss": 0.0,  # nats on the final loss
        "skill": 0.0,  # nats on the margin of every example of CORE
        "slowdown": 0.0,  # relative, on every step
        "loader_wait": 0.0,  # share of each step that waits for its batch
        "memory_share": 0.0,  # of the device, instead of what the formula says
        "memory_unforeseen": False,  # the estimate knows nothing of that share
        "loss_jump": 0.0,  # nats on the training loss, from the step below on
        "loss_jump_at_step": None,
    },
    "bowl": {  # what a search has to find: a loss with one minimum, at OPTIMUM
        "curvature": 0.0,  # nats at a distance of 1 from it
        "x": 0.0,
        "y": 0.0,
        "diverges_beyond_x": None,
        "no_memory_beyond_y": None,
        "crashes_below_x": None,
    },
    "pace": {"sleep_ms": 0.0, "startup_ms": 0.0},  # real waiting; the recorded times are simulated
    "checkpoint": {"every_steps": None},  # null: none, not even where it is told to leave
    "machine": {  # what is wrong with it; no part of the identity, so that it can be repaired
        "gpus": 8,  # how many ranks find one
        "mixed_gpus": False,
        "throttled_rank": None,  # its clocks are held down
        "slow_rank": None,  # it computes a fifth longer, and the others wait
        "missing_shard": None,  # the number of a file that is not there
        "free_bytes": 10**12,
        "checkpoint_bytes": None,  # null: by the number of parameters
        "silent_probe": False,  # it ends without a word
        "rank_killed_at_step": None,  # once: not by a process that goes on from a checkpoint
    },
    "fail": {
        "at_seeds": None,  # a list: fail at these seeds only
        "until_file": None,  # fail only as long as this file is absent
        "crash_at_step": None,
        "hang_at_step": None,
        "diverge_at_step": None,
        "out_of_memory_at_step": None,
        "killed_at_step": None,  # by a signal that nothing can catch
        "missing_package": False,  # as on a machine that lacks one
        "half_line": False,  # end in the middle of a line of events.jsonl
        "half_result": False,  # end in the middle of result.json
        "nan_metric": False,  # a metric that is not a number
        "half_core": False,  # leave half of core.parquet
        "ignore_sigterm": False,
        "exit_code": None,  # end with this code after a good result
    },
}

# effect on the final loss (nats) and on the speed (relative) of switching each on
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
        "summary": "The middle of the stream taken out before the head, simulated",
        "on": {"backout": True},
        "off": {"backout": None},
        "requires": ["residual_scalars"],
        "lines": 12,
    },
}
SETTABLE_FIELDS = {"seed": "seed", "steps": "dial.steps", "evaluate": "eval.every_steps"}


class FakeConfigError(HarnessError):
    """A fault in a FakeTrainer's configuration."""


def load(base: Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults, then a base file, then overrides, checked. Raises FakeConfigError."""
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
        raise FakeConfigError(
            str(path),
            "a configuration file",
            str(error.strerror),
            "Name an existing file, such as ablations/configs/fake.yaml.",
        ) from error
    if path.suffix == ".json":  # as the harness hands it to a run: no need of a YAML reader
        found = json.loads(text)
    else:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            found = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            raise FakeConfigError(
                str(path),
                "YAML with every key once",
                str(error).partition("\n\n")[0],
                "Correct that line.",
            ) from error
    if not isinstance(found, dict):
        raise FakeConfigError(str(path), "a mapping", repr(found), "See the default values.")
    return found


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
        raise FakeConfigError(
            prefix + path,
            "one of " + ", ".join(config),
            repr(head),
            f"Did you mean {near[0]!r}?" if near else "Remove it.",
        )
    if rest:
        _assign(config[head], rest, value, f"{prefix}{head}.")
        return
    _check_type(prefix + head, value)
    config[head] = value


def _check_type(path: str, value: Any) -> None:
    old: Any = DEFAULTS
    for part in path.split("."):
        old = old[part]
    if isinstance(value, str) and value in ("off", "none", "false"):
        raise FakeConfigError(path, "null for off", repr(value), "Write null.")
    number = path == "dial.steps" or path.startswith("bowl.") or _is_number(old)
    fits = _is_number(value) or (old is None and value is None)
    if (number and not fits) or (isinstance(old, dict) and not isinstance(value, dict)):
        raise FakeConfigError(
            path, "a number" if number else "a mapping", repr(value), "Write such a value."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(config: dict[str, Any]) -> None:
    if config["backout"] and not config["residual_scalars"]:
        raise FakeConfigError(
            "backout",
            "residual_scalars on beside it",
            "residual_scalars: null",
            "Switch residual_scalars on, or backout off.",
        )
    if config["optimizer"]["matrices"] not in ("muon", "adamw"):
        raise FakeConfigError(
            "optimizer.matrices",
            "muon or adamw",
            repr(config["optimizer"]["matrices"]),
            "Write one of them.",
        )


def tricks(config: Mapping[str, Any]) -> dict[str, bool]:
    """Which tricks are on."""
    return {
        "windows": config["windows"] is not None,
        "muon": config["optimizer"]["matrices"] == "muon",
        "residual_scalars": bool(config["residual_scalars"]),
        "value_embeddings": bool(config["value_embeddings"]),
        "backout": bool(config["backout"]),
    }


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the configuration. Gates of the value embeddings count as parameters."""
    depth, dial = int(config["dial"]["depth"]), config["dial"]
    width = 64 * depth
    blocks = 12 * depth * width**2
    gates = 24 * depth * width if config["value_embeddings"] else 0
    head = 4096 * width
    planned = dial["ratio"] * (blocks + gates + head)
    steps = dial["steps"] or max(1, int(planned / dial["batch_tokens"]))
    window = 0.5 if config["windows"] else 1.0
    foreseen = 0 if config["plant"]["memory_unforeseen"] else planted_bytes(config)
    return {
        "steps": int(steps),
        "batch_tokens": int(dial["batch_tokens"]),
        "tokens": int(steps) * int(dial["batch_tokens"]),
        "parameters": {"blocks": blocks, "gates": gates, "head": head},
        "parameters_total": blocks + gates + head,
        "flops_per_token": int(6 * (blocks + gates + head) + 12 * depth * width * 1024 * window),
        "memory_bytes": foreseen or 16 * (blocks + gates + head),
        "learning_rates": {"matrices": config["optimizer"]["adamw_lr"]},
        "weight_decay": {"matrices": 0.1},
    }


def bowl_loss(config: Mapping[str, Any]) -> float:
    """Nats that a configuration loses by its distance from the optimum."""
    bowl = config["bowl"]
    squares = sum((bowl[axis] - best) ** 2 for axis, best in OPTIMUM.items())
    return float(bowl["curvature"] * squares)


def planted_bytes(config: Mapping[str, Any]) -> int:
    """The planted share of the simulated device's memory."""
    return int(config["plant"]["memory_share"] * DEVICE_BYTES)


def held_bytes(config: Mapping[str, Any]) -> int:
    """What it is said to hold while it runs, whatever the estimate was."""
    return planted_bytes(config) or int(derived(config)["memory_bytes"])


def pins(config: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides that give these derived values to any arm."""
    found = derived(config)
    return {"dial.steps": found["steps"], "dial.batch_tokens": found["batch_tokens"]}


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of a configuration: its own, its code's, its data's."""
    asked = {key: value for key, value in config.items() if key not in UNIDENTIFIED}
    return {
        "config_id": digest(_without_defaults(asked, DEFAULTS), 16),
        "code_id": code_id(),
        "data_id": hashlib.sha256(canonical_json(config["data"]).encode()).hexdigest()[:16],
        "protocol": PROTOCOL,
    }


def code_id() -> str:
    """A hash of this package's code."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def _without_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            inner = _without_defaults(value, defaults[key])
            if inner:
                kept[key] = inner
        elif value is not None and value != defaults[key]:
            kept[key] = value
    return kept
