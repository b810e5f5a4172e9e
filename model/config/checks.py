"""Checks of ranges and of combinations of fields, which the types of fields cannot express.

Each check yields faults with field, expected, got and hint. All faults are reported at once, before
anything runs. No torch.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from model.config import AdamW, Config
from model.config.dropped_layers import without_attention, without_mlp
from model.config.parameters import LABELS
from model.config.shapes import (
    FP8_MIN_SIDE,
    FP8_MULTIPLE,
    WINDOW_MULTIPLE,
    bos_of,
    fits_fp8,
    learnable_xsa_layers,
    mudd_gates_from,
    mudd_places,
    paired_layers,
    sizes_of,
)
from model.data.settings import DataSettings
from model.data.sources import require_askable
from model.errors import ConfigError, DataError

POSITIVE = {
    "dial": (
        "depth",
        "ratio",
        "steps",
        "tokens",
        "flops",
        "train_time_s",
        "batch_tokens",
        "params",
        "reference_params",
    ),
    "model": ("context_tokens", "vocab_size", "head_width", "width"),
    "eval": ("tokens", "every_steps"),
    "checkpoint": ("every_steps", "every_minutes", "keep"),
    "system": ("device_batch_rows", "threads"),
    "optimizer": ("clip", "table_interval_steps"),
}
MAX_LAYERS = 1000  # a larger depth is a typing error


def faults(config: Config) -> list[ConfigError]:
    """All faults of a configuration; its fields have the right types."""
    found = list(_ranges(config))
    if found:  # the other checks need valid numbers
        return found
    checks = (
        *(_shape, _windows, _documents, _dropped, _learnable_xsa, _pairs, _gates, _logits),
        *(_bigrams, _mudd, _fp8),
        *(_adamw, _adamw_cautious_decay, _weight_average, _muon),
        *(_schedule, _stages, _horizon, _data, _core),
    )
    return [fault for check in checks for fault in check(config)]


def _ranges(config: Config) -> Iterator[ConfigError]:
    for section, names in POSITIVE.items():
        for name in names:
            value = getattr(getattr(config, section), name)
            if value is not None and value <= 0:
                yield _fault(f"{section}.{name}", "more than 0", value, "Raise it.")
    if config.dial.depth >= MAX_LAYERS:
        yield _fault("dial.depth", f"under {MAX_LAYERS}", config.dial.depth, "Lower it.")
    if config.system.calibration_s < 0:
        got = config.system.calibration_s
        yield _fault("system.calibration_s", "0 or more", got, "0 skips the calibration.")
    if not config.system.compile_cache_dir:
        hint = "Set a folder, or omit the field for .cache/compile."
        yield _fault("system.compile_cache_dir", "a folder", "an empty string", hint)


def _shape(config: Config) -> Iterator[ConfigError]:
    model = config.model
    if model.width is not None and model.width % model.head_width:
        expected = f"a multiple of head_width ({model.head_width})"
        hint = "Change model.width or model.head_width."
        yield _fault("model.width", expected, model.width, hint)
    if model.rotary is not None and model.head_width % 2:
        hint = "Rotary rotates channels in pairs; choose an even head width."
        yield _fault("model.head_width", "even", model.head_width, hint)
    if model.rotary is not None and model.rotary.base <= 0:
        yield _fault("model.rotary.base", "more than 0", model.rotary.base, "Raise it.")
    if model.qk_norm is not None and model.qk_norm.scale <= 0:
        yield _fault("model.qk_norm.scale", "more than 0", model.qk_norm.scale, "Raise it.")
    half = model.rotary.half if model.rotary is not None else None
    if half is not None and model.head_width % 4:
        hint = "half_rotary rotates pairs in half of the channels; change model.head_width."
        yield _fault("model.head_width", "a multiple of 4", model.head_width, hint)
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
        expected = f"at least {WINDOW_MULTIPLE} tokens, the dial's smallest short window"
        hint = "Set model.windows.short_tokens, or model.windows: null."
        yield _fault("model.context_tokens", expected, context, hint)
    if short is not None and not 0 < short <= context:
        expected = f"1 to context_tokens ({context})"
        hint = "Shorten the window, lengthen model.context_tokens, or set model.windows: null."
        yield _fault("model.windows.short_tokens", expected, short, hint)


def _documents(config: Config) -> Iterator[ConfigError]:
    if config.model.document_mask is None:
        return
    bos, vocab, path = bos_of(config), config.model.vocab_size, "model.document_mask.bos_id"
    if bos is None:
        expected = f"the BOS id of the tokenizer {config.data.tokenizer}"
        yield _fault(path, expected, "null", "Set the id of the tokenizer's BOS.")
    elif not 0 <= bos < vocab:
        yield _fault(path, f"0 to below vocab_size ({vocab})", bos, "Set the tokenizer's BOS.")


def _pairs(config: Config) -> Iterator[ConfigError]:
    paired = config.model.paired_heads
    if paired is None:
        return
    path, hint = "model.paired_heads", "Set model.paired_heads: null."
    if paired.every <= 0:
        yield _fault(f"{path}.every", "1 or more", paired.every, "Raise it.")
        return
    sizes = sizes_of(config)
    if sizes.heads % 2:
        yield _fault(path, "an even number of heads", sizes.heads, hint)
    if config.model.windows is not None and not any(paired_layers(config, sizes)):
        yield _fault(path, "a layer with a short window", "none", hint)


def _dropped(config: Config) -> Iterator[ConfigError]:
    if config.model.dropped_layers is None:
        return
    layers = config.dial.depth
    parts = {"attention": without_attention(config, layers), "mlp": without_mlp(config)}
    for name, dropped in parts.items():
        path = f"model.dropped_layers.{name}"
        yield from _layer_list(path, dropped, layers)
        if {*range(layers)} <= {*dropped}:
            expected = "at least one layer with it"
            yield _fault(path, expected, "none left", "Drop fewer, or raise dial.depth.")


def _learnable_xsa(config: Config) -> Iterator[ConfigError]:
    settings, path = config.model.learnable_xsa, "model.learnable_xsa.layers"
    if settings is None:
        return
    sizes = sizes_of(config)
    chosen = learnable_xsa_layers(config, sizes)
    yield from _layer_list(path, chosen, sizes.layers)
    if without := [i for i in chosen if i < sizes.layers and not sizes.attentions[i]]:
        hint = "Remove them here, or from model.dropped_layers.attention."
        yield _fault(path, "layers with attention", f"{without} without attention", hint)
    if not chosen:
        yield _fault(
            path, "at least one layer", "none", "Add a layer, or set model.learnable_xsa: null."
        )


def _layer_list(path: str, chosen: tuple[int, ...], layers: int) -> Iterator[ConfigError]:
    """Faults of a list of layers: unknown or repeated layers."""
    if any(not 0 <= layer < layers for layer in chosen) or len({*chosen}) < len(chosen):
        expected = f"different layers from 0 to {layers - 1}"
        yield _fault(path, expected, [*chosen], "Count layers from 0.")


def _logits(config: Config) -> Iterator[ConfigError]:
    softcap, rescale = config.model.softcap, config.model.logit_rescale
    if softcap is not None and softcap.cap <= 0:
        hint = "Raise it, or set model.softcap: null."
        yield _fault("model.softcap.cap", "more than 0", softcap.cap, hint)
    if rescale is None:
        return
    for name in ("bound", "scale"):
        if (value := getattr(rescale, name)) <= 0:
            hint = "Raise it, or set model.logit_rescale: null."
            yield _fault(f"model.logit_rescale.{name}", "more than 0", value, hint)


def _bigrams(config: Config) -> Iterator[ConfigError]:
    bigrams = config.model.bigram_hash_embedding
    if bigrams is None:
        return
    for name in ("table_multiple", "sign_rows"):
        value = getattr(bigrams, name)
        if value is not None and value <= 0:
            yield _fault(f"model.bigram_hash_embedding.{name}", "1 or more", value, "Raise it.")


def _mudd(config: Config) -> Iterator[ConfigError]:
    if (mudd := config.model.mudd_connections) is None:
        return
    path, depth = "model.mudd_connections", config.dial.depth
    if depth < 2:
        hint = "Raise dial.depth, or set model.mudd_connections: null."
        yield _fault("dial.depth", "at least 2 layers", depth, hint)
        return
    for name, first, end in (("sources", 0, depth - 2), ("layers", 1, depth - 1)):
        chosen = getattr(mudd, name)
        if chosen is None:
            continue
        outside = [layer for layer in chosen if not first <= layer <= end]
        if outside or list(chosen) != sorted(set(chosen)):
            expected = f"layers {first} to {end} of {depth}, each once and in order"
            yield _fault(f"{path}.{name}", expected, list(chosen), "Change it, or omit it.")
    attends = dict(enumerate(sizes_of(config).attentions))
    silent = [at.layer for at in mudd_places(config, depth) if not attends.get(at.layer, True)]
    if silent:
        hint = "It mixes into values: choose other layers, or keep their attention."
        yield _fault(f"{path}.layers", "layers with attention", silent, hint)
    for at, trick in ((path, mudd), (f"{path}.gates", mudd.gates)):
        for name in ("hidden", "scale"):
            if trick is not None and (value := getattr(trick, name)) <= 0:
                yield _fault(f"{at}.{name}", "more than 0", value, "Raise it.")
    if mudd.gates is not None and not 1 <= mudd_gates_from(mudd.gates, depth) < depth:
        got = mudd.gates.from_layer
        yield _fault(f"{path}.gates.from_layer", f"1 to {depth - 1}", got, "Change it, or omit it.")


def _fp8(config: Config) -> Iterator[ConfigError]:
    if config.model.fp8 is None:
        return
    width, context = sizes_of(config).width, config.model.context_tokens
    if not fits_fp8(width, width):
        expected = f"a width that is a multiple of {FP8_MULTIPLE} and at least {FP8_MIN_SIDE}"
        hint = "Widen the model (dial.depth, model.width), or set model.fp8: null."
        yield _fault("model.fp8", expected, width, hint)
    if context % FP8_MULTIPLE:  # weight gradients are products over tokens
        expected = f"a multiple of {FP8_MULTIPLE} for fp8 products"
        yield _fault(
            "model.context_tokens", expected, context, "Change it, or set model.fp8: null."
        )
    fp8 = config.model.fp8
    if fp8.places == "head" and not fp8.head:
        yield _fault("model.fp8.head", "true, for places: head", False, "Omit it.")
    names = ("history_steps", "static_input", "static_weight", "static_gradient")
    for name in names:
        if (value := getattr(fp8, name)) <= 0:
            yield _fault(f"model.fp8.{name}", "more than 0", value, "Raise it.")
    if fp8.headroom < 1:
        hint = "Raise it: below 1 the largest values would be clipped."
        yield _fault("model.fp8.headroom", "1 or more", fp8.headroom, hint)


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


def _adamw_cautious_decay(config: Config) -> Iterator[ConfigError]:
    cautious, path = config.optimizer.adamw_cautious_decay, "optimizer.adamw_cautious_decay.labels"
    if cautious is None or cautious.labels is None:
        return
    labels = cautious.labels
    if not labels or not {*labels} <= {*LABELS} or len({*labels}) < len(labels):
        yield _fault(
            path, f"distinct labels of {', '.join(LABELS)}", [*labels], "Use null for all."
        )
        return
    if "matrices" in labels and config.optimizer.muon is not None:
        hint = "Remove it; optimizer.muon.cautious_decay masks the decay of Muon."
        yield _fault(path, "labels of AdamW", "matrices, a label of Muon", hint)
    if zero := [label for label in labels if getattr(config.optimizer, label).decay == 0]:
        hint = "Remove them, or raise their decay."
        yield _fault(path, "labels with a decay", f"{', '.join(zero)} with 0", hint)


def _weight_average(config: Config) -> Iterator[ConfigError]:
    if (average := config.optimizer.weight_average) is None:
        return
    path = "optimizer.weight_average"
    for name in ("decay", "start"):
        if not 0 <= (value := getattr(average, name)) < 1:
            hint = "For example 0.99." if name == "decay" else "Use a share of all steps."
            yield _fault(f"{path}.{name}", "0 to below 1", value, hint)
    if average.every_steps <= 0:
        yield _fault(f"{path}.every_steps", "1 or more", average.every_steps, "Raise it.")
    if not 0 < average.blend <= 1:
        hint = f"1 evaluates the average only; set {path}: null for the weights."
        yield _fault(f"{path}.blend", "above 0, to 1", average.blend, hint)


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
    if muon.normuon is not None and not 0 <= (value := muon.normuon.beta2) < 1:
        yield _fault("optimizer.muon.normuon.beta2", "0 to below 1", value, "For example 0.9.")
    if not 0 < muon.norm_floor <= 1:
        hint = "nanochat uses 1e-6."
        yield _fault("optimizer.muon.norm_floor", "above 0, to 1", muon.norm_floor, hint)
    most = 5 if muon.orthogonalize == "polar_express" else 100
    if not 1 <= muon.iterations <= most:
        hint = "Polar Express has 5 coefficient triples; 5 iterations are common."
        yield _fault("optimizer.muon.iterations", f"1 to {most}", muon.iterations, hint)


def _schedule(config: Config) -> Iterator[ConfigError]:
    schedule = config.schedule
    if schedule.warmup_steps is not None and schedule.warmup_steps < 0:
        yield _fault("schedule.warmup_steps", "0 or more", schedule.warmup_steps, "Raise it.")
    if schedule.warmdown is not None and not 0 <= schedule.warmdown.fraction <= 1:
        got, hint = schedule.warmdown.fraction, "Use a share of all steps."
        yield _fault("schedule.warmdown.fraction", "0 to 1", got, hint)
    if schedule.warmdown is not None and schedule.warmdown.final_lr < 0:
        got, hint = schedule.warmdown.final_lr, "Use a share of the peak."
        yield _fault("schedule.warmdown.final_lr", "0 or more", got, hint)
    if schedule.cosine_final_lr < 0:
        got, hint = schedule.cosine_final_lr, "Use a share of the peak."
        yield _fault("schedule.cosine_final_lr", "0 or more", got, hint)


def _data(config: Config) -> Iterator[ConfigError]:
    """Faults that `model.data` finds without reading files."""
    try:
        require_askable(DataSettings.from_config(config))
    except DataError as error:
        yield ConfigError(**error.as_json())


def _stages(config: Config) -> Iterator[ConfigError]:
    for check in (_batch_stages, _context_stages, _window_warmup, _multi_token, _untie):
        yield from check(config)


def _batch_stages(config: Config) -> Iterator[ConfigError]:
    if (stages := config.schedule.batch_stages) is None:
        return
    for name in ("factors", "lr_factors"):
        values = getattr(stages, name)
        if not values or min(values) <= 0:
            path, hint = f"schedule.batch_stages.{name}", "For example [0.5, 1, 1.5]."
            yield _fault(path, "numbers above 0", values, hint)
    if len(stages.factors) != len(stages.lr_factors):
        got = f"{len(stages.lr_factors)} for {len(stages.factors)} factors"
        yield _fault(
            "schedule.batch_stages.lr_factors", "one per factor", got, "Use equal lengths."
        )


def _context_stages(config: Config) -> Iterator[ConfigError]:
    stages, context = config.schedule.context_stages, config.model.context_tokens
    if stages is None:
        return
    if not stages.pieces or any(n < 1 or context % n for n in stages.pieces):
        expected, hint = f"divisors of context_tokens ({context})", "For example [2, 1, 1]."
        yield _fault("schedule.context_stages.pieces", expected, stages.pieces, hint)


def _window_warmup(config: Config) -> Iterator[ConfigError]:
    if (warmup := config.schedule.window_warmup) is None:
        return
    shares, path = warmup.shares, "schedule.window_warmup"
    rising = list(shares) == sorted(set(shares))
    if not shares or not rising or not 0 < shares[0] <= shares[-1] <= 1:
        expected, hint = "increasing shares above 0, at most 1", "For example [0.25, 0.5, 1]."
        yield _fault(f"{path}.shares", expected, shares, hint)
    if warmup.first_scale <= 0:
        yield _fault(f"{path}.first_scale", "more than 0", warmup.first_scale, "Raise it.")


def _multi_token(config: Config) -> Iterator[ConfigError]:
    several, context = config.schedule.multi_token, config.model.context_tokens
    if several is None:
        return
    if not 0 < len(several.weights) <= context or min(several.weights) <= 0:
        expected, hint = f"1 to {context} numbers above 0", "For example [1, 0.5, 0.25]."
        yield _fault("schedule.multi_token.weights", expected, several.weights, hint)


def _untie(config: Config) -> Iterator[ConfigError]:
    untie = config.schedule.untie
    if untie is not None and not 0 <= untie.fraction <= 1:
        hint = "Use a share of all steps."
        yield _fault("schedule.untie.fraction", "0 to 1", untie.fraction, hint)


def _horizon(config: Config) -> Iterator[ConfigError]:
    dial, schedule = config.dial, config.schedule
    if dial.tokens is not None and dial.flops is not None:
        yield _fault("dial.tokens", "one horizon", "also dial.flops", "Set one of them to null.")
    if dial.train_time_s is None:
        return
    if dial.steps is not None:
        hint = (
            "Set one of them to null. A study's shorter horizons are set in steps and need a "
            "base without dial.train_time_s; see model/config/horizon.py."
        )
        yield _fault("dial.train_time_s", "one horizon", "also dial.steps", hint)
    for name in ("batch_stages", "context_stages", "window_warmup", "multi_token", "untie"):
        if getattr(schedule, name) is not None:
            hint = f"Use dial.tokens instead, or set schedule.{name}: null."
            expected = f"a horizon in steps, tokens or FLOPs for schedule.{name}"
            yield _fault("dial.train_time_s", expected, dial.train_time_s, hint)


def _core(config: Config) -> Iterator[ConfigError]:
    if (core := config.core) is None:
        return
    for name in ("max_per_task", "every_steps"):
        if (value := getattr(core, name)) is not None and value <= 0:
            hint = "Raise it, or omit it."
            yield _fault(f"core.{name}", "more than 0", value, hint)
    if core.long_prompts == "full" and config.model.rotary is None:
        expected = f"crop_left: learned positions end at {config.model.context_tokens}"
        hint = "Omit it, or set model.rotary."
        yield _fault("core.long_prompts", expected, core.long_prompts, hint)
    if core.bundle == "":
        yield _fault("core.bundle", "a folder", "an empty string", "Set a folder, or omit it.")


def _fault(path: str, expected: str, got: Any, hint: str) -> ConfigError:
    return ConfigError(path=path, expected=expected, got=str(got), hint=hint)
