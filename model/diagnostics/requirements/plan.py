"""The plan of a job from its configuration: the split of a step, and the length of training.

`derive` has already refused a batch that does not divide by the ranks. Pure functions.
"""

from collections.abc import Iterator

from model.config import Config
from model.config.derive import Derived
from model.diagnostics.finding import Finding, check, info


def findings(config: Config, derived: Derived) -> Iterator[Finding]:
    yield _batch(derived)
    yield _horizon(config, derived)


def _batch(derived: Derived) -> Finding:
    ranks, context = derived.ranks, derived.sizes.context
    shares = (
        f"{context:,} a row x {derived.device_batch_rows} rows a pass x "
        f"{derived.gradient_accumulation} a rank x {ranks}"
    )
    expected = "a batch that divides evenly over ranks and passes"
    return info("batch", expected=expected, got=f"{derived.batch_tokens:,} tokens = {shares}")


def _horizon(config: Config, derived: Derived) -> Finding:
    """A run shorter than its warm-up never reaches its learning rates."""
    share = derived.tokens / derived.planned_tokens
    length = (
        f"{derived.steps:,} steps, {derived.tokens:,} tokens by {derived.horizon}, "
        f"{share:.2f} of the dial's plan"
    )
    return check(
        "horizon",
        ok=derived.warmup_steps < derived.steps,
        expected="a warm-up that ends before the run does",
        got=f"{length}; {derived.warmup_steps:,} steps of warm-up",
        hint="Lower schedule.warmup_steps, or train for longer (dial.steps, dial.ratio).",
        otherwise="warning",
    )
