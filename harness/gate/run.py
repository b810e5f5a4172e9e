"""`run_gate` and `plan_gate`: a whole gate from its options to its result, without a terminal.

A failure that is not the candidate's fault (a trainer that stops, a missing package, a damaged
baseline, noise model or store) becomes a result with the outcome "could not run", so that a reader
of the JSON or of the summary finds the reason in the usual place.
"""

from pathlib import Path

import msgspec

from harness import errors
from harness.comparison.noise_model import NoiseModel
from harness.errors import HarnessError
from harness.gate import baseline, history, planning
from harness.gate.execution import GateExecution, GateListener
from harness.gate.noise_sources import load_noise_model, with_baseline_rows
from harness.gate.request import GateRequest
from harness.gate.result import GatePlan, GateResult, SideIdentity
from harness.gate.sides import PreparedGate, prepare
from harness.results.store import Store
from harness.runner.attempt import recover
from harness.runner.process import Stop, stop_on_signals


class GateInputs(msgspec.Struct, frozen=True, kw_only=True):
    """Where a gate finds stored data. `baseline`: a name; empty where quality is not compared."""

    store: Path
    noise_model: Path
    baselines: Path
    baseline: str = ""


def run_gate(
    request: GateRequest, inputs: GateInputs, listener: GateListener | None = None
) -> GateResult:
    """Plans and runs a gate, and stores its result.

    Raises:
        UsageError: the options contradict each other or name something that does not exist.
        StepperStopped: the user asked to stop; finished runs are kept.
    """
    listener = listener or GateListener()
    try:
        store = Store(inputs.store)
        prepared, plan, noise_model = _planned(request, inputs, store, listener)
        listener.planned(plan)
        if plan.blocked is not None:
            return _blocked(prepared, plan)
        with stop_on_signals(stop := Stop()):
            return GateExecution(prepared, plan, store, noise_model, stop, listener).execute()
    except HarnessError as error:
        if error.exit_code == errors.USAGE:
            raise
        return could_not_run(request, inputs.baseline or None, str(error))


def plan_gate(
    request: GateRequest, inputs: GateInputs, listener: GateListener | None = None
) -> GatePlan:
    """The plan of a gate; `blocked` where the gate could not run. Raises UsageError."""
    try:
        _, plan, _ = _planned(request, inputs, Store(inputs.store), listener or GateListener())
    except HarnessError as error:
        if error.exit_code == errors.USAGE:
            raise
        return GatePlan(
            parts=[], budget_s=request.budget_s, alpha=request.alpha, blocked=str(error)
        )
    return plan


def _planned(
    request: GateRequest, inputs: GateInputs, store: Store, listener: GateListener
) -> tuple[PreparedGate, GatePlan, NoiseModel]:
    if inputs.baseline:
        stored = baseline.find(inputs.baselines, inputs.baseline)
        request = msgspec.structs.replace(request, baseline=stored)
    recover(store)
    gates = history.load(store)
    noise_model = load_noise_model(inputs.noise_model, store)
    noise_model = with_baseline_rows(noise_model, request.baseline, gates)
    prepared = prepare(request, store, listener.message)
    for note in prepared.notes:
        listener.message(note)
    plan = planning.plan_gate(prepared, noise_model, gates, store.records())
    return prepared, plan, noise_model


def _blocked(prepared: PreparedGate, plan: GatePlan) -> GateResult:
    """A gate that started nothing: number 0, not stored."""
    return GateResult(
        key=prepared.key,
        number=0,
        outcome="inconclusive",
        reason=plan.blocked or "",
        alpha=prepared.request.alpha,
        claim=prepared.request.claim,
        a=prepared.reference,
        b=prepared.b.identity,
        metrics=[],
        plan=plan,
    )


def could_not_run(request: GateRequest, baseline_name: str | None, reason: str) -> GateResult:
    """A gate that failed through no fault of the candidate."""
    candidate_set = dict(request.candidate_set)
    return GateResult(
        key="",
        number=0,
        outcome="could not run",
        reason=reason,
        alpha=request.alpha,
        claim=request.claim,
        a=SideIdentity(code_id="", config_id="", ref=request.base, baseline=baseline_name),
        b=SideIdentity(code_id="", config_id="", ref=request.head or ".", set=candidate_set),
        metrics=[],
    )
