"""`harness gate`: compares a change with a baseline's quality and a base's speed."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.console import new_console
from harness.cli.gating import GateOptions, run_gate
from harness.cli.options import (
    BASELINES,
    NOISE_MODEL,
    STORE,
    AlphaOption,
    BaselinesOption,
    JsonOption,
    MarginOption,
    NoiseModelOption,
    PriceOption,
    SetOption,
    StoreOption,
    checked_alpha,
    metric_numbers,
)
from harness.config.yaml_schema import parse_sets
from harness.gate.ab_mode import word_of as turns_word
from harness.gate.sides import GateRequest, claim_of
from harness.runner.environment import parse_env_mode as environments_word


def command(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="A configuration file, where there is no baseline."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="The stored baseline to hold quality to.")] = "",
    head: Annotated[str, typer.Option(help="The candidate: a git ref, or . for this code.")] = ".",
    base: Annotated[
        str, typer.Option(help="The git ref whose speed is compared, side by side.")
    ] = "",
    sets: SetOption = None,
    candidate_set: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A setting of the candidate alone, such as model.softcap=null."),
    ] = None,
    claims: Annotated[
        str, typer.Option(help="What the change claims to be: refactor, systems or ml.")
    ] = "ml",
    budget_minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Buys no more than fits into this."),
    ] = None,
    margin: MarginOption = None,
    alpha: AlphaOption = 0.05,
    once: Annotated[
        bool, typer.Option("--no-confirm", help="A slowdown counts although one session shows it.")
    ] = False,
    open_ended: Annotated[
        bool,
        typer.Option("--always-valid", help="One by one until it is clear or the budget ends."),
    ] = False,
    ab: Annotated[
        str,
        typer.Option(help="interleaved: both sides at once; sequential: whole processes; or auto."),
    ] = "auto",
    env: Annotated[
        str,
        typer.Option(
            help="For a ref with other dependencies: isolated installs them, current does not."
        ),
    ] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Only time, cost and chances.")] = False,
    json: JsonOption = False,
    markdown: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write a summary for a pull request."),
    ] = None,
    bisect: Annotated[
        bool,
        typer.Option("--bisect", help="Exit codes for `git bisect run`; implies --no-confirm."),
    ] = False,
    price: PriceOption = None,
    run_minutes: Annotated[float, typer.Option(help="End a run after this long.")] = 60.0,
    trainer: Annotated[str, typer.Option(help="The trainer, where no baseline says.")] = "native",
    store: StoreOption = STORE,
    noise_model: NoiseModelOption = NOISE_MODEL,
    baselines: BaselinesOption = BASELINES,
) -> None:
    """Did a change make anything worse? A verdict for each metric, and an exit code."""

    request = GateRequest(
        config=config,
        trainer=trainer,
        set=parse_sets(sets or []),
        versus=parse_sets(candidate_set or []),
        head=head,
        base=base or None,
        claim=claim_of(claims),
        alpha=checked_alpha(alpha),
        margins=metric_numbers(margin, "--margin"),
        budget_s=None if budget_minutes is None else 60 * budget_minutes,
        price_usd_per_hour=price,
        once=once or bisect,
        rule="open" if open_ended else "looks",
        ab_mode=turns_word(ab),
        environments=environments_word(env),
        run_limit_s=60 * run_minutes,
    )
    options = GateOptions(
        store=store,
        noise_model=noise_model,
        baselines=baselines,
        baseline=baseline,
        plan_only=plan,
        json=json,
        markdown=markdown,
    )
    raise typer.Exit(run_gate(new_console(), new_console(stderr=True), request, options))
