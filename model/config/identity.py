"""Who a run is: hashes of what was asked for, of the code and of the data. No torch.

`config_id` covers the requested configuration without its seed, leaving out every field that
equals its default, so new fields that default to off move nothing. PositionIds on this machine (a
folder's path, the cache) are left out too: what they hold is in `data_id`, and what a CORE bundle
holds stands with its outcomes. So is when checkpoints are written, which changes no number.
`code_id` covers all Python files of this package and the versions of torch and of the kernel
packages, read from package metadata without importing them.
"""

import dataclasses
import hashlib
import json
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from model.config import Config
from model.data.sources import NAMED_SOURCES

PROTOCOL = 1
PROTOCOL_HISTORY = {
    1: "2026-11-22 metrics, validation rows, timing and packing as first defined",
}
KERNEL_PACKAGES = (
    "torch",
    "triton",
    "flash-attn-4",
    "flash-attn-3",
    "kernels",
    "quack-kernels",
    "nvidia-cutlass-dsl",  # compiles the kernels of flash-attn-4 and quack
)
PACKAGE = Path(__file__).parents[1]  # model/
KNOWN_SOURCES = NAMED_SOURCES


def config_id(config: Config) -> str:
    """SHA-256 of the canonical JSON of what differs from the defaults; seed, places and sinks left
    out."""
    return sha256_of_json(identifying(config))


@cache
def code_id() -> str:
    """SHA-256 over (relative path, bytes) of this package's Python files and kernel versions."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).as_posix().encode()
        content = path.read_bytes()
        digest.update(b"%d %s %d " % (len(relative), relative, len(content)))
        digest.update(content)
    digest.update(json.dumps(kernel_versions(), sort_keys=True).encode())
    return digest.hexdigest()


@cache
def kernel_versions() -> dict[str, str]:
    """Installed versions of torch and the kernel packages, by package metadata."""
    versions = {}
    for name in KERNEL_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def differences(section: Any, default: Any) -> dict[str, Any]:
    """Nested mapping of the fields that differ from `default`'s; a trick that is on keeps its
    key."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        value, usual = getattr(section, field.name), getattr(default, field.name)
        if value == usual:
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            reference = usual if usual is not None else type(value)()
            value = differences(value, reference)
        changed[field.name] = value
    return changed


def sha256_of_json(value: Any) -> str:
    """SHA-256 of canonical JSON: sorted keys, no white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def identifying(config: Config) -> dict[str, Any]:
    """What `config_id` is the hash of."""
    changed = differences(config, Config())
    changed.pop("seed", None)
    changed.pop("logging", None)
    data = changed.get("data", {})
    data.pop("cache_dir", None)
    data.pop("mirror", None)
    if "source" in data and data["source"] not in KNOWN_SOURCES:
        data["source"] = "folder"
    if data.get("tokenizer") not in (None, "train", "gpt2"):
        data["tokenizer"] = "file"
    changed.get("system", {}).pop("compile_cache_dir", None)
    changed.pop("checkpoint", None)
    changed.get("core", {}).pop("bundle", None)
    # an evaluation that is on with all its defaults is asked for all the same
    return {name: part for name, part in changed.items() if part != {} or name == "core"}
