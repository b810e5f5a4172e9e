"""The identity of a run: hashes of the requested configuration, the code and the data. No torch.

`config_id` covers the requested configuration without its seed and omits fields that equal their
default, so new fields that default to off do not change it. Local paths (a data folder, the cache)
are omitted too: `data_id` covers the content of data, and CORE outcomes record the content of the
bundle. Checkpointing is omitted, because it does not affect results. `code_id` covers all Python
files of this package and the versions of torch and of the kernel packages, read from package
metadata without importing them.
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
    """SHA-256 of the canonical JSON of all non-default fields, without seed, paths and sinks."""
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
    """Nested mapping of the fields that differ from `default`; a trick that is on keeps its
    key."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        value, default_value = getattr(section, field.name), getattr(default, field.name)
        if value == default_value:
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            reference = default_value if default_value is not None else type(value)()
            value = differences(value, reference)
        changed[field.name] = value
    return changed


def sha256_of_json(value: Any) -> str:
    """SHA-256 of canonical JSON: sorted keys, no white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def identifying(config: Config) -> dict[str, Any]:
    """The values that `config_id` hashes."""
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
    # CORE with all defaults is still a requested evaluation
    return {name: part for name, part in changed.items() if part != {} or name == "core"}
