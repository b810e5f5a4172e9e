"""`harness gate`: compares a change with the quality of a baseline and the speed of a base."""

import os
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from harness import errors, files
from harness.cli.console import new_console, print_line, progress_console
from harness.cli.options import (
    BASELINES,
    NOISE_MODEL,
    SHORTEST_MINUTES,
    STORE,
    AlphaOption,
    BaselinesOption,
    ExchangeOption,
    JsonOption,
    MarginOption,
    MarkdownFileOption,
    NoiseModelOption,
    PriceOption,
    SetOption,
    StoreOption,
    TargetOption,
    TargetPOption,
    checked_alpha,
    exchange_rate,
    metric_numbers,
    within,
)
from harness.config.field_types import LONGEST_MINUTES
from harness.config.yaml_schema import parse_sets
from harness.gate.ab_mode import parse_ab
from harness.gate.execution import GateListener
from harness.gate.request import GateRequest, parse_claim, parse_evaluate_with
from harness.gate.result import GatePlan
from harness.gate.run import GateInputs, plan_gate, run_gate
from harness.report.document import Document
from harness.report.export import document_json
from harness.report.gate.plan import build_plan
from harness.report.gate.result import build_result
from harness.report.markdown import as_markdown
from harness.report.terminal import print_document
from harness.runner.environment import parse_env_mode
from harness.runner.stepper import StepperStopped

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"  # the file that a workflow shows; changes no result


def command(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="Configuration file, instead of a baseline."),
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="Stored baseline to compare the candidate's quality with.")
    ] = "",
    head: Annotated[
        str, typer.Option(help="Candidate: a git ref, or . for the present code.")
    ] = ".",
    base: Annotated[
        str,
        typer.Option(
            help="Git ref to compare the candidate's speed with, on this host; without a "
            "baseline its quality too."
        ),
    ] = "",
    sets: SetOption = None,
    candidate_set: Annotated[
        list[str] | None,
        typer.Option(
            help="Override a setting of the candidate only, such as model.softcap=null. "
            "May be repeated."
        ),
    ] = None,
    claims: Annotated[
        str,
        typer.Option(
            help="What the change claims: refactor (equal losses), systems (faster, equal "
            "quality) or ml (no harm in any metric)."
        ),
    ] = "ml",
    budget_minutes: Annotated[
        float | None,
        typer.Option(callback=within(0, LONGEST_MINUTES), help="Stop before this many minutes."),
    ] = None,
    margin: MarginOption = None,
    exchange: ExchangeOption = None,
    target: TargetOption = None,
    target_p: TargetPOption = 0.01,
    alpha: AlphaOption = 0.05,
    no_confirm: Annotated[
        bool,
        typer.Option("--no-confirm", help="Count a slowdown that only one session has shown."),
    ] = False,
    always_valid: Annotated[
        bool,
        typer.Option(
            "--always-valid",
            help="Evaluate after each run until it is decided or the budget ends, instead of at "
            "three planned looks.",
        ),
    ] = False,
    ab: Annotated[
        str,
        typer.Option(
            help="Speed A/B: interleaved (both sides at once), sequential (whole processes) or "
            "auto."
        ),
    ] = "auto",
    env: Annotated[
        str,
        typer.Option(
            help="For a ref with other dependencies: isolated installs them, current uses the "
            "installed ones."
        ),
    ] = "",
    sandbox: Annotated[
        bool,
        typer.Option(
            "--sandbox",
            help="Run trainers in a container (bubblewrap): no network, and nothing writable but "
            "their own run.",
        ),
    ] = False,
    evaluate_with: Annotated[
        str,
        typer.Option(
            help="Whose code evaluates the candidate's final checkpoints: candidate, or base for "
            "code that is not trusted."
        ),
    ] = "candidate",
    plan: Annotated[
        bool, typer.Option("--plan", help="Show the plan, time and cost; start no run.")
    ] = False,
    json: JsonOption = False,
    markdown: MarkdownFileOption = None,
    bisect: Annotated[
        bool,
        typer.Option("--bisect", help="Exit codes for `git bisect run`; implies --no-confirm."),
    ] = False,
    price: PriceOption = None,
    run_minutes: Annotated[
        float,
        typer.Option(
            callback=within(SHORTEST_MINUTES, LONGEST_MINUTES),
            help="Stop a run that takes longer than this many minutes.",
        ),
    ] = 60.0,
    trainer: Annotated[
        str, typer.Option(help="The trainer, where no baseline names it: native or fake.")
    ] = "native",
    store: StoreOption = STORE,
    noise_model: NoiseModelOption = NOISE_MODEL,
    baselines: BaselinesOption = BASELINES,
) -> None:
    """Check a change for regressions of quality and speed.

    Exit code: 0 pass, 10 regression, 3 inconclusive, 4 could not run.
    """
    request = GateRequest(
        config=config,
        trainer=trainer,
        set=parse_sets(sets or []),
        candidate_set=parse_sets(candidate_set or []),
        head=head,
        base=base or None,
        claim=parse_claim(claims),
        alpha=checked_alpha(alpha),
        margins=metric_numbers(margin, "--margin"),
        budget_s=None if budget_minutes is None else 60 * budget_minutes,
        price_usd_per_hour=price,
        confirm=not (no_confirm or bisect),
        rule="always_valid" if always_valid else "group_sequential",
        ab=parse_ab(ab),
        env=parse_env_mode(env),
        exchange=exchange_rate(exchange),
        targets=metric_numbers(target, "--target"),
        target_p=target_p,
        run_timeout_s=60 * run_minutes,
        sandbox=sandbox,
        evaluate_with=parse_evaluate_with(evaluate_with),
    )
    inputs = GateInputs(
        store=store, noise_model=noise_model, baselines=baselines, baseline=baseline
    )
    progress = ConsoleListener(progress_console())
    if plan:
        planned = plan_gate(request, inputs, progress)
        if json:
            progress.planned(planned)
        _show(build_plan(planned), json=json)
        raise typer.Exit(planned.exit_code)
    try:
        result = run_gate(request, inputs, progress)
    except StepperStopped:
        text = "Stopped. Finished runs are kept: re-run the same command to resume."
        print_line(progress.console, text)
        raise typer.Exit(errors.STOPPED_AT_LIMIT) from None
    document = build_result(result)
    _show(document, json=json)
    _write(document, markdown)
    raise typer.Exit(result.exit_code)


class ConsoleListener(GateListener):
    """Prints the plan and the progress of a gate."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def planned(self, plan: GatePlan) -> None:
        """Prints the plan."""
        print_document(self.console, build_plan(plan))

    def message(self, text: str) -> None:
        """Prints one line."""
        print_line(self.console, text)


def _show(document: Document, *, json: bool) -> None:
    if json:
        new_console().file.write(document_json(document))
    else:
        print_document(new_console(), document)


def _write(document: Document, markdown: Path | None) -> None:
    """The Markdown file, and the summary of a GitHub workflow where one runs this."""
    if markdown is not None:
        files.write_text(markdown, as_markdown(document))
    if step_summary := os.environ.get(STEP_SUMMARY):
        with (
            files.disk_errors(Path(step_summary)),
            open(step_summary, "a", encoding="utf-8") as file,
        ):
            file.write(as_markdown(document))
