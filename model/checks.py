"""What no single field's type can say: ranges, and combinations that cannot be.

Each check yields faults with field, expected, got and remedy; all are told at once, before
anything runs. No torch.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from model.config import AdamW, Config
from model.data.settings import DataSettings
from model.data.sources import require_askable
from model.errors import ConfigError, DataError
from model.shapes import WINDOW_MULTIPLE, paired_layers, sizes_of

POSITIVE = {
    "dial": ("depth", "ratio", "steps", "batch_tokens", "params", "reference_params"),
    "model": ("context_tokens", "vocab_size", "head_width", "width"),
    "eval": ("tokens", "every_steps"),
    "checkpoint": ("every_steps", "every_minutes", "keep"),
    "system": ("device_batch_rows", "threads"),
    "optimizer": ("clip",),
}
MOST_LAYERS = 1000  # beyond it a depth is a slip of the keyboard


def faults(config: Config) -> list[ConfigError]:
    """All faults of a configuration whose fields have the right types."""
    found = list(_ranges(config))
    if found:  # the other checks compute with these numbers
        return found
    checks = (_shape, _windows, _pairs, _gates, _logits, _bigrams, _adamw, _muon, _schedule, _data)
    return [fault for check in checks for fault in check(config)]


def _ranges(config: Config) -> Iterator[ConfigError]:
    for section, names in POSITIVE.items():
        for name in names:
            value = getattr(getattr(config, section), name)
            if value is not None and value <= 0:
                yield _fault(f"{section}.{name}", "more than 0", value, "Raise it.")
    if config.dial.depth >= MOST_LAYERS:
        yield _fault("dial.depth", f"under {MOST_LAYERS}", config.dial.depth, "Lower it.")
    if config.system.calibration_s < 0:
        got = config.system.calibration_s
        yield _fault("system.calibration_s", "0 or more", got, "0 leaves the calibration out.")
    if not config.system.compile_cache_dir:
        remedy = "Name one, or leave the field out for .cache/compile."
        yield _fault("system.compile_cache_dir", "a folder", "an empty text", remedy)


def _shape(config: Config) -> Iterator[ConfigError]:
    model = config.model
    if model.width is not None and model.width % model.head_width:
        expected = f"a multiple of head_width ({model.head_width})"
        remedy = "Change model.width or model.head_width."
        yield _fault("model.width", expected, model.width, remedy)
    if model.rotary is not None and model.head_width % 2:
        remedy = "Rotary turns channels in pairs; choose an even head width."
        yield _fault("model.head_width", "even", model.head_width, remedy)
    if model.rotary is not None and model.rotary.base <= 0:
        yield _fault("model.rotary.base", "more than 0", model.rotary.base, "Raise it.")
    half = model.rotary.half if model.rotary is not None else None
    if half is not None and model.head_width % 4:
        remedy = "Half of the channels turn, in pairs; choose such a head width."
        yield _fault("model.head_width", "a multiple of 4", model.head_width, remedy)
    if half is not None and half.base <= 0:
        yield _fault("model.rotary.half.base", "more than 0", half.base, "Raise it.")


def _windows(config: Config) -> Iterator[ConfigError]:
    windows, context = config.model.windows, config.model.context_tokens
    if windows is None:
        return
    if not windows.pattern or not set(windows.pattern) <= {"S", "L"}:
        got = repr(windows.pattern)
        yield _fault("model.windows.pattern", "letters S and L", got, "For example SSSL.")
    short = windows.short_tokens
    if short is None and context < WINDOW_MULTIPLE:
        expected = f"at least {WINDOW_MULTIPLE} tokens, or the dial's short window exceeds it"
        remedy = "Set model.windows.short_tokens, or model.windows: null."
        yield _fault("model.context_tokens", expected, context, remedy)
    if short is not None and not 0 < short <= context:
        expected = f"1 to context_tokens ({context})"
        remedy = "Shorten the window, lengthen model.context_tokens, or set model.windows: null."
        yield _fault("model.windows.short_tokens", expected, short, remedy)


def _pairs(config: Config) -> Iterator[ConfigError]:
    paired = config.model.paired_heads
    if paired is None:
        return
    path, remedy = "model.paired_heads", "Set model.paired_heads: null."
    if paired.every <= 0:
        yield _fault(f"{path}.every", "1 or more", paired.every, "Raise it.")
        return
    sizes = sizes_of(config)
    if sizes.heads % 2:
        yield _fault(path, "an even number of heads", sizes.heads, remedy)
    if config.model.windows is not None and not any(paired_layers(config, sizes)):
        yield _fault(path, "a layer with a short window", "none", remedy)


def _logits(config: Config) -> Iterator[ConfigError]:
    softcap, rescale = config.model.softcap, config.model.logit_rescale
    if softcap is not None and softcap.cap <= 0:
        remedy = "Raise it, or set model.softcap: null."
        yield _fault("model.softcap.cap", "more than 0", softcap.cap, remedy)
    if rescale is None:
        return
    for name in ("bound", "scale"):
        if (value := getattr(rescale, name)) <= 0:
            remedy = "Raise it, or set model.logit_rescale: null."
            yield _fault(f"model.logit_rescale.{name}", "more than 0", value, remedy)


def _bigrams(config: Config) -> Iterator[ConfigError]:
    bigrams = config.model.bigram_hash_embedding
    if bigrams is None:
        return
    for name in ("table_multiple", "sign_rows"):
        value = getattr(bigrams, name)
        if value is not None and value <= 0:
            yield _fault(f"model.bigram_hash_embedding.{name}", "1 or more", value, "Raise it.")


def _gates(config: Config) -> Iterator[ConfigError]:
    width = sizes_of(config).width
    for name in ("smear", "value_embeddings", "sparse_attention_gate"):
        trick = getattr(config.model, name)
        if trick is not None and not 0 < trick.gate_channels <= width:
            path, expected = f"model.{name}.gate_channels", f"1 to the width ({width})"
            yield _fault(path, expected, trick.gate_channels, "Lower it.")


def _adamw(config: Config) -> Iterator[ConfigError]:
    for label in fields(config.optimizer):
        settings = getattr(config.optimizer, label.name)
        if not isinstance(settings, AdamW):
            continue
        path = f"optimizer.{label.name}"
        for name in ("lr", "eps", "decay"):
            if (value := getattr(settings, name)) < 0:
                yield _fault(f"{path}.{name}", "0 or more", value, "Raise it.")
        for name in ("beta1", "beta2"):
            if not 0 <= (value := getattr(settings, name)) < 1:
                yield _fault(f"{path}.{name}", "0 to below 1", value, "For example 0.9.")


def _muon(config: Config) -> Iterator[ConfigError]:
    muon = config.optimizer.muon
    if muon is None:
        return
    for name in ("lr", "decay", "momentum_warmup_steps"):
        if (value := getattr(muon, name)) < 0:
            yield _fault(f"optimizer.muon.{name}", "0 or more", value, "Raise it.")
    for name in ("momentum_start", "momentum", "momentum_end"):
        if not 0 <= (value := getattr(muon, name)) < 1:
            yield _fault(f"optimizer.muon.{name}", "0 to below 1", value, "For example 0.95.")
    most = 5 if muon.orthogonalize == "polar_express" else 100
    if not 1 <= muon.iterations <= most:
        remedy = "Polar Express has five coefficient triples; five steps are usual."
        yield _fault("optimizer.muon.iterations", f"1 to {most}", muon.iterations, remedy)


def _schedule(config: Config) -> Iterator[ConfigError]:
    schedule = config.schedule
    if schedule.warmup_steps is not None and schedule.warmup_steps < 0:
        yield _fault("schedule.warmup_steps", "0 or more", schedule.warmup_steps, "Raise it.")
    if schedule.warmdown is not None and not 0 <= schedule.warmdown.fraction <= 1:
        got, remedy = schedule.warmdown.fraction, "Give the share of all steps."
        yield _fault("schedule.warmdown.fraction", "0 to 1", got, remedy)


def _data(config: Config) -> Iterator[ConfigError]:
    """What `model.data` refuses without looking at a file."""
    try:
        require_askable(DataSettings.from_config(config))
    except DataError as error:
        yield ConfigError(**error.as_json())


def _fault(path: str, expected: str, got: Any, remedy: str) -> ConfigError:
    return ConfigError(path=path, expected=expected, got=str(got), remedy=remedy)
