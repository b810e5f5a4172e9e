"""The forecast of a job before it starts: quality and loss envelope from its proxies, time and
money from its step test.

Reads records, curves and the noise model for `forecast`, `loss_envelope` and `cost`.
"""

from collections.abc import Sequence

import msgspec

from harness.comparison.noise_model import NoiseModel
from harness.full.cost import Cost, Part, Stage, launch_row, parts_of, time_and_cost
from harness.full.forecast import Forecast, forecast, replicate_noise
from harness.full.loss_envelope import LossEnvelope, curve_of, plan_envelope
from harness.full.plan import JobPlan
from harness.full.preflight import Preflight
from harness.full.proxies import ForecastError, proxy_of, recipe_of, scale_of
from harness.results.recipe import NoiseScope, device_name, scale_from_derived
from harness.results.record import Record
from harness.results.run_files import read_events
from harness.results.store import Store

RUN_PROXIES = "`--proxies` runs the missing ones; `--without-forecast` starts without a forecast."
NO_PROXIES = "the job file has no `proxies`; `--without-forecast` starts without a forecast."


class JobForecast(msgspec.Struct, frozen=True, kw_only=True):
    """The forecasts of a job, each with the reason if it is missing."""

    forecast: Forecast | None = None
    no_forecast_reason: str | None = None
    envelope: LossEnvelope | None = None
    no_envelope_reason: str | None = None
    cost: Cost | None = None


def forecast_job(
    plan: JobPlan, store: Store, records: Sequence[Record], noise_model: NoiseModel
) -> JobForecast:
    """val_bpb, CORE and the loss envelope of the job from the completed proxies."""
    if not plan.proxies:
        return JobForecast(no_forecast_reason=NO_PROXIES)
    try:
        quality = _forecast(plan, records, noise_model)
    except ForecastError as error:
        return JobForecast(no_forecast_reason=f"{error} {RUN_PROXIES}")
    try:
        return JobForecast(forecast=quality, envelope=_envelope(plan, store, records))
    except ForecastError as error:
        return JobForecast(forecast=quality, no_envelope_reason=str(error))


def _forecast(plan: JobPlan, records: Sequence[Record], noise_model: NoiseModel) -> Forecast:
    recipe, file = plan.recipe, plan.file
    gpu = device_name(records[0].environment) if records else None
    scale = scale_from_derived(file.trainer, recipe.derived)
    return forecast(
        [proxy_of(record) for record in records],
        scale_of(recipe.derived),
        recipe=recipe_of(file.trainer, recipe.identity, recipe.tricks),
        noise=replicate_noise(noise_model, scale, gpu),
        core_target=file.target.core,
        text_tokens=recipe.text_tokens,
    )


def _envelope(plan: JobPlan, store: Store, records: Sequence[Record]) -> LossEnvelope:
    tables = [(record, store.curve(record.plan_id)) for record in records]
    curves = [curve_of(record, table) for record, table in tables if table is not None]
    return plan_envelope(curves, scale_of(plan.recipe.derived))


def estimate_cost(
    plan: JobPlan,
    store: Store,
    records: Sequence[Record],
    noise_model: NoiseModel,
    preflight: Preflight,
) -> Cost | None:
    """Time and money, from a step test in every stage of the job; None without one."""
    tests = preflight.steps
    if [test.at_step for test in tests] != plan.stages:
        return None
    ends = [*plan.stages[1:], plan.steps]
    scale = scale_from_derived(plan.file.trainer, plan.recipe.derived)
    return time_and_cost(
        [
            Stage(name=f"steps from {test.at_step:,}", steps=end - test.at_step, step_s=test.step_s)
            for test, end in zip(tests, ends, strict=True)
        ],
        _parts(plan, store, records, tests[0].startup_s),
        ranks=plan.file.ranks,
        launch=launch_row(noise_model, NoiseScope(scale=scale, device=tests[0].device)),
        price_usd_per_gpu_hour=plan.file.price_usd_per_gpu_hour,
    )


def _parts(plan: JobPlan, store: Store, records: Sequence[Record], startup_s: float) -> list[Part]:
    """Everything besides steps: start-up from the step test, the rest from the largest proxy."""
    start = Part(name="start-up", count=1, each_s=startup_s, source="as in the step test")
    if not records:
        unknown = Part(name="evaluations", count=plan.evaluations, each_s=None)
        return [start, unknown]
    largest = max(records, key=lambda record: record.tokens)
    events = read_events(store.run_dir(largest.plan_id, largest.attempt) / "events.jsonl")
    return [
        start,
        *parts_of(
            largest,
            events,
            plan.recipe.derived,
            ranks=plan.file.ranks,
            evaluations=plan.evaluations,
            cores=0 if largest.core is msgspec.UNSET else 1,
        ),
    ]
