"""The dial: all values derived from a configuration, computed once, printed and stored.

Scaling rules are nanochat's at 92d63d4 (the batch rule is arXiv 2505.13738). N counts the
parameters of the blocks and the head (a tied head once). No torch.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from math import floor, gcd, log2, sqrt
from typing import Any

from model.config import AdamW, Config, checks
from model.config.horizon import Kind, horizon_of
from model.config.kernel_eligibility import eligible_kernels
from model.config.memory import memory_of
from model.config.parameters import LABELS, parameters
from model.config.shapes import Sizes, sizes_of, windows_of
from model.config.stages import Stage, factored_rows, stage_at, stages_of
from model.errors import ConfigError, ConfigErrors

REFERENCE_DEPTH = 12
REFERENCE_BATCH_TOKENS = 2**19  # nanochat's tuned batch at depth 12
BATCH_EXPONENT = 0.383  # arXiv 2505.13738: optimal batch over tokens
MAX_ROWS_PER_FORWARD = 32


@dataclass(frozen=True, kw_only=True)
class Derived:
    """The derived values of one configuration."""

    sizes: Sizes
    scaling_parameters: int
    """N of this model: block parameters and head."""
    scaling_ratio: float
    """r = params / reference_params."""
    planned_tokens: int
    """ratio times N: batch and decay follow it even if steps are set explicitly."""
    batch_tokens: int
    """The dial's batch; a stage may use another."""
    horizon: Kind
    """The field that sets the length of training (model/config/horizon.py)."""
    steps: int
    """Steps of the run; an upper bound under train_time_s."""
    tokens: int
    """Tokens of all steps."""
    stages: tuple[Stage, ...]
    """Consecutive steps of one shape (model/config/stages.py); one without stage schedules."""
    device_batch_rows: int
    gradient_accumulation: int
    """Forward passes per step on one rank, for the dial's batch."""
    ranks: int
    warmup_steps: int
    learning_rates: dict[str, float]
    """Peak by label; under Muon, `matrices` before the shape factor of each matrix."""
    weight_decay: dict[str, float]
    """By label; under Muon, `matrices` at step 0."""
    parameters: dict[str, int]
    """Counts by label."""
    parameters_total: int
    flops_per_token: int
    """6 N + sum over layers of 12 H K min(window, T), not halved for causality; full rows."""
    flops: int
    """FLOPs of all steps, each with the rows of its stage."""
    memory_bytes: int
    """Estimated peak of one rank with torch's kernels, which need the most memory (memory.py)."""
    memory_fused_bytes: int
    """Estimated peak with all fused kernels that the configuration allows."""
    memory_parts: dict[str, int]
    """Parts of the estimate in bytes; not all are allocated at once."""
    validation_rows: int

    def rows(self, step: int) -> range:
        """Rows of the packing plan for a step (from 0), over all ranks."""
        return stage_at(self.stages, step).rows(step)

    def tokens_until(self, step: int) -> int:
        """Tokens of the steps before `step`."""
        return (self.rows(step - 1).stop if step else 0) * self.sizes.context

    def as_json(self) -> dict[str, Any]:
        """Plain values for `describe` and config.json."""
        return asdict(self)


def derive(config: Config, ranks: int = 1) -> Derived:
    """Derive all values; raises ConfigErrors with every invalid combination."""
    found = checks.faults(config)
    if found:
        raise ConfigErrors(found)
    sizes = sizes_of(config)
    counts = dict.fromkeys(LABELS, 0)
    for parameter in parameters(config, sizes):
        counts[parameter.label] += parameter.count
    scaling = _scaling_parameters(config, sizes)
    matmuls = matmul_parameters(config, sizes)
    params = config.dial.params or scaling
    reference = config.dial.reference_params or _scaling_parameters(
        config, sizes_of(config, REFERENCE_DEPTH)
    )
    r = params / reference
    planned = round(config.dial.ratio * params)
    batch = config.dial.batch_tokens or batch_rule(r)
    rows, accumulation = _rows(config, batch, ranks)
    batch_rows = batch // sizes.context

    def flops(stages: tuple[Stage, ...]) -> int:
        return sum(
            _tokens([stage], sizes) * stage_flops_per_token(config, matmuls, sizes, stage)
            for stage in stages
        )

    horizon = horizon_of(
        config,
        batch_rows=batch_rows,
        planned_tokens=planned,
        tokens=lambda stages: _tokens(stages, sizes),
        flops=flops,
    )
    steps = horizon.steps
    stages = stages_of(config, batch_rows, steps)
    memory = memory_of(config, sizes, counts, rows, ranks=ranks)
    fused = memory_of(config, sizes, counts, rows, eligible_kernels(config, sizes), ranks)
    return Derived(
        sizes=sizes,
        scaling_parameters=scaling,
        scaling_ratio=r,
        planned_tokens=planned,
        batch_tokens=batch,
        horizon=horizon.kind,
        steps=steps,
        tokens=_tokens(stages, sizes),
        stages=stages,
        device_batch_rows=rows,
        gradient_accumulation=accumulation,
        ranks=ranks,
        warmup_steps=_warmup_steps(config, steps),
        learning_rates=_learning_rates(config, sizes, batch, counts),
        weight_decay=_weight_decay(config, batch, r, counts),
        parameters={label: n for label, n in counts.items() if n},
        parameters_total=sum(counts.values()),
        flops_per_token=flops_per_token(matmuls, sizes),
        flops=flops(stages),
        memory_bytes=memory.peak,
        memory_fused_bytes=fused.peak,
        memory_parts=memory.as_json(),
        validation_rows=max(1, config.eval.tokens // sizes.context),
    )


def pins(config: Config, derived: Derived) -> dict[str, Any]:
    """Overrides that set this configuration's derived values in another arm."""
    reference = config.dial.reference_params or _scaling_parameters(
        config, sizes_of(config, REFERENCE_DEPTH)
    )
    # a timed run has no fixed steps (model/config/horizon.py)
    timed = config.dial.train_time_s is not None
    return {
        **({} if timed else {"dial.steps": derived.steps}),
        "dial.batch_tokens": derived.batch_tokens,
        "dial.params": config.dial.params or derived.scaling_parameters,
        "dial.reference_params": reference,
        "model.width": derived.sizes.width,
        "system.device_batch_rows": derived.device_batch_rows,
    }


def batch_rule(r: float) -> int:
    """Tokens per step: the power of two nearest (in log) to 2^19 r^0.383."""
    return 1 << round(log2(REFERENCE_BATCH_TOKENS * r**BATCH_EXPONENT))


def flops_per_token(matmul_parameters: int, sizes: Sizes) -> int:
    """Forward and backward matmul FLOPs per token, from shapes."""
    attention = sum(min(window, sizes.context) for window in sizes.windows)
    return 6 * matmul_parameters + 12 * sizes.heads * sizes.head_width * attention


def stage_flops_per_token(
    config: Config, matmul_parameters: int, sizes: Sizes, stage: Stage
) -> int:
    """FLOPs per token with the rows and windows of a stage."""
    windows = windows_of(config, sizes.layers, stage.long_window_tokens)
    staged = replace(sizes, context=sizes.context // stage.pieces, windows=windows)
    return flops_per_token(matmul_parameters, staged)


def _tokens(stages: Sequence[Stage], sizes: Sizes) -> int:
    return sizes.context * sum(stage.steps * stage.batch_rows for stage in stages)


def _scaling_parameters(config: Config, sizes: Sizes) -> int:
    in_blocks = sum(
        p.count for p in parameters(config, sizes) if p.name.startswith("blocks.") and not p.lookup
    )
    return in_blocks + sizes.vocab * sizes.width


def matmul_parameters(config: Config, sizes: Sizes) -> int:
    """Weights in matmuls over tokens: those of the scaling rules and gates outside the blocks,
    counted as in nanochat."""
    tied_head = sizes.vocab * sizes.width if config.model.tied_head else 0
    return tied_head + sum(p.count for p in parameters(config, sizes) if p.in_matmul)


def _warmup_steps(config: Config, steps: int) -> int:
    if config.schedule.warmup_steps is not None:
        return config.schedule.warmup_steps
    return min(2000, floor(0.05 * steps))


def _learning_rates(
    config: Config, sizes: Sizes, batch: int, counts: dict[str, int]
) -> dict[str, float]:
    batch_factor = sqrt(batch / REFERENCE_BATCH_TOKENS)
    width_factor = (sizes.width / 768) ** -0.5
    rates = {}
    for label, settings in label_settings(config, counts).items():
        rate = settings.lr
        rate *= batch_factor if settings.batch_scaled else 1.0
        rate *= width_factor if settings.width_scaled else 1.0
        rates[label] = rate
    muon = config.optimizer.muon
    if muon is not None:
        rates["matrices"] = muon.lr * (batch_factor if muon.batch_scaled else 1.0)
    return rates


def _weight_decay(config: Config, batch: int, r: float, counts: dict[str, int]) -> dict[str, float]:
    decay = {label: settings.decay for label, settings in label_settings(config, counts).items()}
    muon = config.optimizer.muon
    if muon is not None:
        decay["matrices"] = muon.decay * sqrt(batch / REFERENCE_BATCH_TOKENS) / r
    return decay


def label_settings(config: Config, counts: dict[str, int]) -> dict[str, AdamW]:
    """AdamW settings of every label that has parameters."""
    settings = {label: getattr(config.optimizer, label) for label in LABELS if counts.get(label)}
    if config.schedule.untie is not None:
        settings["embedding"] = config.optimizer.head  # it starts from the head's table
    return settings


def _rows(config: Config, batch: int, ranks: int) -> tuple[int, int]:
    """Rows per forward pass and forward passes per step, on one rank; raises ConfigErrors."""
    context = config.model.context_tokens
    if batch % (context * ranks):
        raise _invalid(
            "dial.batch_tokens",
            f"a multiple of context_tokens x ranks = {context} x {ranks}",
            batch,
            "Change dial.batch_tokens, model.context_tokens or the number of ranks.",
        )
    rank_rows = batch // (context * ranks)
    staged = factored_rows(rank_rows, config.schedule.batch_stages)
    if any(each < 1 or each != round(each) for each in staged):
        raise _invalid(
            "schedule.batch_stages.factors",
            f"factors that result in whole rows, from {rank_rows} rows per step and rank",
            ", ".join(f"{each:g}" for each in staged) + " rows",
            "Change the factors, or raise dial.batch_tokens.",
        )
    common_rows = gcd(*(round(each) for each in staged))
    rows = config.system.device_batch_rows
    if rows is None:
        rows = max(n for n in range(1, MAX_ROWS_PER_FORWARD + 1) if common_rows % n == 0)
    if rows < 1 or common_rows % rows:
        raise _invalid(
            "system.device_batch_rows",
            f"a divisor of the {common_rows} rows per step and rank",
            rows,
            "Use a divisor, or null for the default.",
        )
    return rows, rank_rows // rows


def _invalid(path: str, expected: str, got: object, hint: str) -> ConfigErrors:
    return ConfigErrors([ConfigError(path=path, expected=expected, got=str(got), hint=hint)])


def with_rows(config: Config, derived: Derived, rows: int) -> Derived:
    """Derive again with `rows` per forward pass; raises ConfigErrors if they do not divide."""
    system = replace(config.system, device_batch_rows=rows)
    return derive(replace(config, system=system), derived.ranks)


def largest_fitting_rows(
    config: Config, derived: Derived, free_bytes: int, fused: Collection[str] = ()
) -> int | None:
    """The largest number of rows per forward pass that fits `free_bytes`; None if none fits.

    The result divides the derived rows, and so the rows of every stage. `fused` as in `memory_of`.
    """
    max_rows = derived.device_batch_rows
    for rows in range(max_rows, 0, -1):
        if max_rows % rows == 0:
            memory = memory_of(
                config, derived.sizes, derived.parameters, rows, fused, derived.ranks
            )
            if memory.peak <= free_bytes:
                return rows
    return None
