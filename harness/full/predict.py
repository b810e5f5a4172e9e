"""What a job's proxies and its step test say of it before it starts; the fits are in their files.

Brings records, curves and the noise noise model to `forecast`, `band` and `cost`, which are pure.
After the proxies and the preflight, before the launch.
"""

from collections.abc import Sequence

import msgspec

from harness.compare.noise_model import NoiseModel
from harness.full.cost import Cost, Part, Stage, launch_row, parts_of, time_and_cost
from harness.full.forecast import Forecast, forecast, replicate_noise
from harness.full.loss_envelope import LossEnvelope, band, curve_of
from harness.full.plan import JobPlan
from harness.full.preflight import Preflight
from harness.full.proxies import ForecastError, proxy_of, recipe_of, scale_of
from harness.results.recipe import NoiseScope, device_name
from harness.results.recipe import scale_from_derived as words_of
from harness.results.record import Record
from harness.results.run_files import read_events
from harness.results.store import Store

MAKE_THEM = "`--proxies` makes those that are missing; `--without-forecast` starts without one."


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The forecast of a job, or the sentence that says why there is none; the band likewise."""

    forecast: Forecast | None = None
    why_none: str | None = None
    band: LossEnvelope | None = None
    why_no_band: str | None = None
    cost: Cost | None = None


def foretell(
    plan: JobPlan, store: Store, records: Sequence[Record], noise_model: NoiseModel
) -> Prediction:
    """Loss, bits and CORE of the job from the proxies that are recorded."""
    try:
        found = _forecast(plan, records, noise_model)
    except ForecastError as error:
        return Prediction(why_none=f"{error} {MAKE_THEM}")
    try:
        return Prediction(forecast=found, band=_band(plan, store, records))
    except ForecastError as error:
        return Prediction(forecast=found, why_no_band=str(error))


def _forecast(plan: JobPlan, records: Sequence[Record], noise_model: NoiseModel) -> Forecast:
    recipe, file = plan.recipe, plan.file
    gpu = device_name(records[0].environment) if records else None
    scale = words_of(file.trainer, recipe.derived)
    return forecast(
        [proxy_of(record) for record in records],
        scale_of(recipe.derived),
        recipe=recipe_of(file.trainer, recipe.identity, recipe.tricks),
        noise=replicate_noise(noise_model, scale, gpu),
        core_target=file.target.core,
        text_tokens=recipe.text_tokens,
    )


def _band(plan: JobPlan, store: Store, records: Sequence[Record]) -> LossEnvelope:
    tables = [(record, store.curve(record.plan_id)) for record in records]
    curves = [curve_of(record, table) for record, table in tables if table is not None]
    return band(curves, scale_of(plan.recipe.derived))


def with_cost(
    foretold: Prediction,
    plan: JobPlan,
    store: Store,
    records: Sequence[Record],
    noise_model: NoiseModel,
    preflight: Preflight,
) -> Prediction:
    """The same with time and money, from the steps of a preflight in every stage of the job."""
    tests = preflight.steps
    if [test.at_step for test in tests] != plan.stages:
        return foretold
    ends = [*plan.stages[1:], plan.steps]
    scale = words_of(plan.file.trainer, plan.recipe.derived)
    cost = time_and_cost(
        [
            Stage(name=f"steps from {test.at_step:,}", steps=end - test.at_step, step_s=test.step_s)
            for test, end in zip(tests, ends, strict=True)
        ],
        _parts(plan, store, records, tests[0].startup_s),
        ranks=plan.file.ranks,
        launch=launch_row(noise_model, NoiseScope(scale=scale, device=tests[0].device)),
        price_usd_per_gpu_hour=plan.file.price_usd_per_gpu_hour,
    )
    return msgspec.structs.replace(foretold, cost=cost)


def _parts(plan: JobPlan, store: Store, records: Sequence[Record], startup_s: float) -> list[Part]:
    """What stands beside steps: starting as it just was, the rest from the largest proxy."""
    start = Part(name="start-up", count=1, each_s=startup_s, rests_on="as in the step test")
    if not records:
        unknown = Part(name="evaluations", count=plan.evaluations, each_s=None)
        return [start, unknown]
    largest = max(records, key=lambda record: record.tokens)
    events = read_events(store.run_dir(largest.plan_id, largest.attempt) / "events.jsonl")
    found = parts_of(
        largest,
        events,
        plan.recipe.derived,
        ranks=plan.file.ranks,
        evaluations=plan.evaluations,
        cores=0 if largest.core is msgspec.UNSET else 1,
    )
    return [start, *(part for part in found if part.name != start.name)]
