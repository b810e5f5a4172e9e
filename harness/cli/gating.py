"""What `harness gate` does: plan, carry out, print, write; an exit code of design for every end.

A trainer that breaks off for no fault of the candidate, a package that is missing, a baseline, a
noise model or a store that is damaged end with a result too, "could not run", so that whoever reads
JSON or a summary finds the reason where the verdict would have been. Beside `commands`.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness import errors, files
from harness.compare.noise_model import NoiseModel, measured_rows
from harness.errors import HarnessError
from harness.gate import baseline, gate, history
from harness.gate.noise_sources import load_noise_model
from harness.gate.planning import without_chance
from harness.gate.result import GatePlan, GateResult, Subject, as_json
from harness.gate.sides import GateRequest, Prepared, prepare
from harness.report.gate.render import as_markdown, print_plan, print_result
from harness.results.store import Store
from harness.runner.attempt import recover
from harness.runner.process import Stop, stop_on_signals
from harness.runner.stepper import StepperStopped

if TYPE_CHECKING:
    from rich.console import Console

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"  # where a workflow shows Markdown; changes no result


class GateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where a gate finds what is stored, and how it tells its verdict: nothing that decides one."""

    store: Path
    noise_model: Path
    baselines: Path
    baseline: str = ""  # its name; none where quality is not compared
    plan_only: bool = False
    json: bool = False
    markdown: Path | None = None


def run_gate(
    console: "Console", progress: "Console", asked: GateRequest, options: GateOptions
) -> int:
    """One gate. The verdict goes to `console`, plan and progress to `progress`."""
    try:
        result = _gated(console, progress, asked, options)
    except HarnessError as error:
        if error.exit_code == errors.USAGE:
            raise
        result = could_not_run(asked, options.baseline or None, str(error))
    except StepperStopped:
        progress.print("stopped; whole runs are kept, the same command goes on", markup=False)
        return errors.STOPPED_AT_LIMIT
    if result is None:
        return errors.PASS
    _write(console, result, options)
    return result.exit_code


def _gated(
    console: "Console", progress: "Console", asked: GateRequest, options: GateOptions
) -> GateResult | None:
    """The result; None where only the plan was wanted. Raises HarnessError and PaceStopped."""
    if options.baseline:
        stored = baseline.find(options.baselines, options.baseline)
        asked = msgspec.structs.replace(asked, baseline=stored)
    store = Store(options.store)
    recover(store)
    earlier = history.load(store)
    noise_model = with_own_rows(load_noise_model(options.noise_model, store), asked, earlier)
    say = _saying(progress)
    prepared = prepare(asked, store, say)
    for note in prepared.notes:
        say(note)
    planned = gate.plan(prepared, noise_model, earlier)
    only_plan = options.plan_only
    print_plan(console if only_plan and not options.json else progress, planned)
    if only_plan and options.json:
        console.file.write(as_json(planned) + "\n")
    return None if only_plan else _carried_out(prepared, planned, store, noise_model, progress)


def with_own_rows(
    noise_model: NoiseModel, asked: GateRequest, stored: Sequence[GateResult]
) -> NoiseModel:
    """The noise model with what the baseline's replicates and the launches of gates teach."""
    own = measured_rows(asked.baseline.now.records) if asked.baseline else []
    return NoiseModel(history.taught([*noise_model.rows, *own], stored))


def _carried_out(
    prepared: Prepared,
    planned: GatePlan,
    store: Store,
    noise_model: NoiseModel,
    progress: "Console",
) -> GateResult:
    if (why := without_chance(planned)) is not None:
        return _bare(prepared, planned, why)

    with stop_on_signals(stop := Stop()):
        return gate.Gate(prepared, planned, store, noise_model, stop, _saying(progress)).execute()


def _saying(progress: "Console") -> Callable[[str], None]:
    return lambda text: progress.print(text, markup=False, highlight=False, soft_wrap=True)


def _bare(prepared: Prepared, planned: GatePlan, why: str) -> GateResult:
    """A gate that spent nothing: number 0, and not stored."""
    return GateResult(
        key=prepared.key,
        number=0,
        outcome="inconclusive",
        reason=why,
        alpha=prepared.asked.alpha,
        claim=prepared.asked.claim,
        a=prepared.reference,
        b=prepared.b.subject,
        metrics=[],
        plan=planned,
    )


def could_not_run(asked: GateRequest, baseline: str | None, why: str) -> GateResult:
    """The result of a gate that broke off for no fault of the candidate."""
    return GateResult(
        key="",
        number=0,
        outcome="could not run",
        reason=why,
        alpha=asked.alpha,
        claim=asked.claim,
        a=Subject(code_id="", config_id="", ref=asked.base, baseline=baseline),
        b=Subject(code_id="", config_id="", ref=asked.head or ".", set=dict(asked.versus)),
        metrics=[],
    )


def _write(console: "Console", result: GateResult, options: GateOptions) -> None:
    if options.json:
        console.file.write(as_json(result) + "\n")
    else:
        print_result(console, result)
    if options.markdown is not None:
        files.write_text(options.markdown, as_markdown(result))
    if step_summary := os.environ.get(STEP_SUMMARY):
        with (
            files.disk_errors(Path(step_summary)),
            open(step_summary, "a", encoding="utf-8") as file,
        ):
            file.write(as_markdown(result))
