"""Proxies of a full job: smaller runs of the same recipe that its forecast is based on.

Proxies are ordinary completed records. They must share code, data, protocol and tricks with the job
and with each other, and their horizon must follow the size as the job's does (tokens per parameter
within HORIZON_TOLERANCE): a scaling law holds along one such line only. A difference raises
ForecastError with the name of the field. Pure functions.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from harness.errors import HarnessError
from harness.results.recipe import count
from harness.results.record import Identity, Record

MIN_SIZES = 3
MAX_READINGS = 2.0  # of the same text; in a third the held-out loss of a d12 rose (LOG.md)
HORIZON_TOLERANCE = 0.1  # whole batches and steps change tokens per parameter a little


class ForecastError(HarnessError):
    """The forecast is impossible: too few sizes, or runs of another recipe or horizon."""


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """Size of a run. `size` is its name, "d12"; `parameters` those that set the horizon."""

    size: str
    parameters: int
    tokens: int
    flops: float

    @property
    def horizon(self) -> float:
        """Tokens per parameter."""
        return self.tokens / self.parameters


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """One completed run. `recipe`: the values that all proxies must share, by field."""

    name: str
    scale: Scale
    seed: int
    val_bpb: float
    core: float | None = None
    core_soft: float | None = None
    core_settings: str | None = None  # scores of other settings are not comparable
    recipe: dict[str, str] = {}


# --- from records ---------------------------------------------------------------------------------


def proxy_of(record: Record) -> Proxy:
    """A proxy from a completed record. Raises ForecastError without a val_bpb."""
    bpb = record.metrics.get("val_bpb")
    if record.status != "completed" or bpb is None:
        expected = "a completed run with a val_bpb"
        got = f"{record.status}, val_bpb {bpb}"
        hint = "Run it again, or leave it out."
        raise ForecastError(f"{record.plan_id}/{record.attempt}", expected, got, hint)
    precision = record.environment.get("precision")
    return Proxy(
        name=record.plan_id,
        scale=scale_of(record.derived),
        seed=record.seed,
        val_bpb=bpb,
        core=record.metrics.get("core"),
        core_soft=record.metrics.get("core_soft"),
        core_settings=str(record.core) if record.core is not msgspec.UNSET else None,
        recipe={
            **recipe_of(record.trainer, record.identity, record.tricks),
            **({"precision": str(precision)} if precision is not None else {}),
        },
    )


def recipe_of(trainer: str, identity: Identity, tricks: Mapping[str, bool]) -> dict[str, str]:
    """The fields that runs of one recipe share at every size and that are known before a run."""
    return {
        "trainer": trainer,
        "code_id": identity.code_id,
        "data_id": str(identity.data_id),
        "protocol": str(identity.protocol),
        "tricks": ", ".join(sorted(name for name, on in tricks.items() if on)),
    }


def scale_of(derived: Mapping[str, Any]) -> Scale:
    """The scale of a run from its derived values. Raises ForecastError where one is missing."""
    parameters = derived.get("scaling_parameters") or derived.get("parameters_total")
    tokens, per_token = derived.get("tokens"), derived.get("flops_per_token")
    if not parameters or not tokens or not per_token:
        missing = {"parameters_total": parameters, "tokens": tokens, "flops_per_token": per_token}
        expected = "parameters, tokens and FLOPs per token among the trainer's derived values"
        got = f"no {' and no '.join(name for name, value in missing.items() if not value)}"
        hint = "Let the trainer's `describe` return them: the scaling law is fitted over them."
        raise ForecastError("derived", expected, got, hint)
    sizes = derived.get("sizes")
    layers = sizes.get("layers") if isinstance(sizes, dict) else None
    return Scale(
        size=f"d{layers}" if layers else f"{count(float(parameters))} parameters",
        parameters=int(parameters),
        tokens=int(tokens),
        flops=float(derived.get("flops") or per_token * tokens),
    )


def by_size(proxies: Sequence[Proxy]) -> list[list[Proxy]]:
    """Groups runs by size, smallest first."""
    groups = defaultdict(list)
    for proxy in proxies:
        groups[proxy.scale.flops].append(proxy)
    return [groups[flops] for flops in sorted(groups)]


# --- checks ---------------------------------------------------------------------------------------


def check_repetition(target: Scale, text_tokens: int) -> None:
    """Raises ForecastError where the job reads its text more than MAX_READINGS times."""
    readings = target.tokens / text_tokens
    if readings > MAX_READINGS:
        raise ForecastError(
            "text",
            f"text that is read at most {MAX_READINGS:g} times, as the proxies read fresh text",
            f"{text_tokens:,} tokens of text for {target.tokens:,} training tokens, "
            f"read {readings:.1f} times",
            "Add text, or shorten the horizon: repeated text is another recipe.",
        )


def check_comparable(
    proxies: Sequence[Proxy], target: Scale, recipe: Mapping[str, str] | None = None
) -> None:
    """Raises ForecastError unless the proxies are the target's recipe at three sizes or more."""
    sizes = by_size(proxies)
    if len(sizes) < MIN_SIZES:
        names = ", ".join(runs[0].scale.size for runs in sizes) or "none"
        expected = f"completed runs of this recipe at {MIN_SIZES} or more sizes"
        hint = "Run the others first: a law with an irreducible loss needs three sizes."
        raise ForecastError("proxies", expected, f"{len(sizes)}: {names}", hint)
    _check_recipes(proxies, recipe or {})
    _check_horizons(proxies, target)
    settings = {proxy.core_settings for proxy in proxies if proxy.core is not None}
    if len(settings) > 1:
        got = " and ".join(sorted(map(str, settings)))
        hint = "Evaluate all proxies with the same settings."
        raise ForecastError("proxies: CORE", "the same CORE settings in all runs", got, hint)


def _check_recipes(proxies: Sequence[Proxy], recipe: Mapping[str, str]) -> None:
    recipes = [*(proxy.recipe for proxy in proxies), recipe]
    for field in sorted({field for one in recipes for field in one}):
        values = sorted({one[field] for one in recipes if field in one})
        if len(values) > 1:
            expected = "the job's recipe at every size"
            hint = "Run the proxies again with the job's code, data and tricks."
            raise ForecastError(f"proxies: {field}", expected, " and ".join(values[:3]), hint)


def _check_horizons(proxies: Sequence[Proxy], target: Scale) -> None:
    for proxy in proxies:
        ratio = proxy.scale.horizon / target.horizon
        if not 1 / (1 + HORIZON_TOLERANCE) <= ratio <= 1 + HORIZON_TOLERANCE:
            raise ForecastError(
                f"proxies: {proxy.scale.size}",
                f"the job's horizon, {target.horizon:.3g} tokens per parameter",
                f"{proxy.scale.horizon:.3g}",
                "Set the horizon of the proxies by the same rule as the job's: a scaling law "
                "holds along one such rule.",
            )
