"""The words of `harness gate` and `harness baseline`; the work is imported when they run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

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
    new_console,
    open_store,
)

if TYPE_CHECKING:
    from harness.cli.baseline import ReplicateSet

baseline_app = typer.Typer(no_args_is_help=True, help="What a configuration reached, stored.")


def gate(
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
    from rich.console import Console

    from harness.cli import compare as command
    from harness.cli.gating import GateOptions, run_gate
    from harness.config.yaml_schema import parse_sets
    from harness.gate.ab_mode import word_of as turns_word
    from harness.gate.sides import GateRequest, claim_of
    from harness.runner.environment import parse_env_mode as environments_word

    asked = GateRequest(
        config=config,
        trainer=trainer,
        set=parse_sets(sets or []),
        versus=parse_sets(candidate_set or []),
        head=head,
        base=base or None,
        claim=claim_of(claims),
        alpha=command.checked_alpha(alpha),
        margins=command.numbers(margin or [], "--margin"),
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
    raise typer.Exit(run_gate(new_console(), Console(stderr=True), asked, options))


@baseline_app.command("record")
def baseline_record(
    name: Annotated[str, typer.Argument(help="The name of the baseline.")],
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="A configuration file, to make the runs now."),
    ] = None,
    source: Annotated[str, typer.Option("--from", help="STORE:STUDY/ARM, runs made before.")] = "",
    sets: SetOption = None,
    seeds: Annotated[str, typer.Option(help="Such as 1-6, for the runs made now.")] = "1-6",
    why: Annotated[str, typer.Option(help="What it is for.")] = "",
    trainer: Annotated[str, typer.Option(help="The trainer: native or fake.")] = "native",
    store: StoreOption = STORE,
    noise_model: NoiseModelOption = NOISE_MODEL,
    baselines: BaselinesOption = BASELINES,
) -> None:
    """Stores what a configuration reaches, as replicates."""
    from harness.cli import baseline as banking
    from harness.gate import noise_sources

    found = _replicates(config, source, sets or [], seeds, trainer, store)
    known = noise_sources.load_noise_model(noise_model, open_store(store))
    raise typer.Exit(banking.record(new_console(), baselines, name, found, known, why=why))


@baseline_app.command("accept")
def baseline_accept(
    name: Annotated[str, typer.Argument(help="The name of the baseline.")],
    why: Annotated[str, typer.Option(help="Why it takes the place of the one before.")],
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="A configuration file, to make fresh runs now."),
    ] = None,
    source: Annotated[str, typer.Option("--from", help="STORE:STUDY/ARM, runs made before.")] = "",
    sets: SetOption = None,
    seeds: Annotated[str, typer.Option(help="Such as 7-12, for the runs made now.")] = "7-12",
    worse: Annotated[
        bool, typer.Option("--allow-regression", help="Although it is worse.")
    ] = False,
    trainer: Annotated[str, typer.Option(help="The trainer: native or fake.")] = "native",
    store: StoreOption = STORE,
    noise_model: NoiseModelOption = NOISE_MODEL,
    baselines: BaselinesOption = BASELINES,
) -> None:
    """Puts fresh replicates in the place of a baseline, with the evidence; keeps the old ones."""
    from harness.cli import baseline as banking
    from harness.gate import noise_sources

    found = _replicates(config, source, sets or [], seeds, trainer, store)
    known = noise_sources.load_noise_model(noise_model, open_store(store))
    code = banking.accept(
        new_console(), baselines, name, found, open_store(store), known, why=why, worse=worse
    )
    raise typer.Exit(code)


@baseline_app.command("list")
def baseline_list(baselines: BaselinesOption = BASELINES) -> None:
    """Every baseline, a line each."""
    from harness.cli import baseline as banking

    raise typer.Exit(banking.show_all(new_console(), baselines))


@baseline_app.command("show")
def baseline_show(
    name: Annotated[str, typer.Argument(help="A name, or its place as `list` shows it.")],
    baselines: BaselinesOption = BASELINES,
    json: JsonOption = False,
) -> None:
    """One baseline: why each entry was stored, by what evidence, and its runs."""
    from harness.cli import baseline as banking

    raise typer.Exit(banking.show(new_console(), baselines, name, json=json))


def _replicates(
    config: Path | None, source: str, sets: list[str], seeds: str, trainer: str, store: Path
) -> "ReplicateSet":
    """Runs made now from a configuration file, or those of a study's arm. Raises UsageError."""
    from harness.cli import baseline as banking
    from harness.config.yaml_schema import parse_seeds, parse_sets
    from harness.errors import UsageError
    from harness.runner.trainer import by_name

    if (config is None) == (not source):
        raise UsageError(
            "harness baseline",
            "a configuration file or --from STORE:STUDY/ARM, one of them",
            "both or none",
            "A file makes the runs now; --from takes those of a study.",
        )
    if config is None:
        return banking.of_arm(source)
    chosen = parse_sets(sets)
    return banking.made_now(
        new_console(), open_store(store), by_name(trainer), config, chosen, parse_seeds(seeds)
    )
