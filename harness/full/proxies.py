"""Runs that a forecast rests on: how large each is, what it reached, whether they are one recipe.

Proxies are ordinary completed records of the job's recipe at smaller sizes. They have to share
code, data, protocol and tricks with the job and with each other, and their horizon has to follow
the size as the job's does (tokens a parameter within HORIZON_TOLERANCE): a law over sizes holds
along one such line and not beside it. What differs is refused with the field.

In the flow: after the noise model, before `forecast`. Pure.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from harness.errors import HarnessError
from harness.results.recipe import count
from harness.results.record import Identity, Record

LEAST_SIZES = 3
MOST_READINGS = 2.0  # of the same text; in the third a d12's loss on other text rose (LOG.md)
HORIZON_TOLERANCE = 0.1  # batches and steps come whole, which moves tokens a parameter a little


class ForecastError(HarnessError):
    """A forecast that cannot be made: too few sizes, runs of another recipe or horizon."""


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How large a run is. `size` is its name, "d12"; `parameters` are those the horizon follows."""

    size: str
    parameters: int
    tokens: int
    flops: float

    @property
    def horizon(self) -> float:
        """Tokens a parameter."""
        return self.tokens / self.parameters


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """One completed run. `recipe`: what all of them must share, by name."""

    name: str
    scale: Scale
    seed: int
    val_bpb: float
    core: float | None = None
    core_soft: float | None = None
    core_settings: str | None = None  # scores of other settings measure something else
    recipe: dict[str, str] = {}


# --- what runs say of themselves ------------------------------------------------------------------


def proxy_of(record: Record) -> Proxy:
    """A completed record as a proxy. Raises ForecastError where it lacks what is needed."""
    bpb = record.metrics.get("val_bpb")
    if record.status != "completed" or bpb is None:
        raise ForecastError(
            f"{record.plan_id}/{record.attempt}",
            "a completed run with a val_bpb",
            f"{record.status}, val_bpb {bpb}",
            "Make it again, or leave it out.",
        )
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
    """What runs of one recipe share at every size, as far as it is known before a run."""
    return {
        "trainer": trainer,
        "code_id": identity.code_id,
        "data_id": str(identity.data_id),
        "protocol": str(identity.protocol),
        "tricks": ", ".join(sorted(name for name, on in tricks.items() if on)),
    }


def scale_of(derived: Mapping[str, Any]) -> Scale:
    """The scale of a run from its derived values. Raises ForecastError where they do not tell."""
    parameters = derived.get("scaling_parameters") or derived.get("parameters_total")
    tokens, per_token = derived.get("tokens"), derived.get("flops_per_token")
    if not parameters or not tokens or not per_token:
        missing = {"parameters_total": parameters, "tokens": tokens, "flops_per_token": per_token}
        raise ForecastError(
            "derived",
            "parameters, tokens and FLOPs a token among the trainer's derived values",
            f"no {' and no '.join(name for name, value in missing.items() if not value)}",
            "The trainer's `describe` has to tell them; without them no law can be fitted.",
        )
    sizes = derived.get("sizes")
    layers = sizes.get("layers") if isinstance(sizes, dict) else None
    return Scale(
        size=f"d{layers}" if layers else f"{count(float(parameters))} parameters",
        parameters=int(parameters),
        tokens=int(tokens),
        flops=float(derived.get("flops") or per_token * tokens),
    )


def by_size(proxies: Sequence[Proxy]) -> list[list[Proxy]]:
    """Runs of one size together, the smallest first."""
    found = defaultdict(list)
    for proxy in proxies:
        found[proxy.scale.flops].append(proxy)
    return [found[flops] for flops in sorted(found)]


# --- may it be made -------------------------------------------------------------------------------


def refuse_repeated(target: Scale, text_tokens: int) -> None:
    """Raises ForecastError where the job reads its text so often that no law of sizes holds."""
    readings = target.tokens / text_tokens
    if readings > MOST_READINGS:
        raise ForecastError(
            "text",
            f"text that is read {MOST_READINGS:g} times at most, the proxies' being fresh",
            f"{text_tokens:,} tokens of it for {target.tokens:,}, read {readings:.1f} times",
            "Give more text, or train for less: repeated text is another recipe.",
        )


def refuse_unlike(
    proxies: Sequence[Proxy], target: Scale, recipe: Mapping[str, str] | None = None
) -> None:
    """Raises ForecastError unless the proxies are one recipe at three sizes, the target's."""
    sizes = by_size(proxies)
    if len(sizes) < LEAST_SIZES:
        names = ", ".join(runs[0].scale.size for runs in sizes) or "none"
        raise ForecastError(
            "proxies",
            f"completed runs of this recipe at {LEAST_SIZES} sizes or more",
            f"{len(sizes)}: {names}",
            "Make the others first: a law with a floor cannot be fitted to fewer.",
        )
    _refuse_other_recipes(proxies, recipe or {})
    _refuse_other_horizons(proxies, target)
    settings = {proxy.core_settings for proxy in proxies if proxy.core is not None}
    if len(settings) > 1:
        raise ForecastError(
            "proxies: CORE",
            "one way of evaluating it",
            " and ".join(sorted(map(str, settings))),
            "Their scores do not measure the same thing: evaluate all of them alike.",
        )


def _refuse_other_recipes(proxies: Sequence[Proxy], recipe: Mapping[str, str]) -> None:
    told = [*(proxy.recipe for proxy in proxies), recipe]
    for field in sorted({field for one in told for field in one}):
        values = sorted({one[field] for one in told if field in one})
        if len(values) > 1:
            raise ForecastError(
                f"proxies: {field}",
                "one recipe at every size, the job's",
                " and ".join(values[:3]),
                "Make the proxies again with the job's own code, data and tricks.",
            )


def _refuse_other_horizons(proxies: Sequence[Proxy], target: Scale) -> None:
    for proxy in proxies:
        ratio = proxy.scale.horizon / target.horizon
        if not 1 / (1 + HORIZON_TOLERANCE) <= ratio <= 1 + HORIZON_TOLERANCE:
            raise ForecastError(
                f"proxies: {proxy.scale.size}",
                f"the job's horizon, {target.horizon:.3g} tokens a parameter",
                f"{proxy.scale.horizon:.3g}",
                "Let the horizon follow the size in the proxies as it does in the job: "
                "a law over sizes holds along one such line.",
            )
