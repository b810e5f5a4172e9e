"""The words of the command line: its commands, their options, their help.

Only reads words; commands.py does the work, and is imported when a command runs, so that
`harness --help` is instant.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperCommand

from harness.ci import cli as ci_cli
from harness.cluster import cli as cluster_cli

if TYPE_CHECKING:
    from rich.console import Console

    from harness.banking import Found
    from harness.store import Store

app = typer.Typer(
    name="harness",
    help="Says what each trick of a GPT-2 speedrun trainer is worth, with interval and price.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(ci_cli.app, name="ci")
app.command()(ci_cli.drift)
app.command()(cluster_cli.submit)

StoreOption = Annotated[Path, typer.Option("--store", help="Folder of all runs and records.")]
SetOption = Annotated[
    Optional[list[str]],  # noqa: UP045  (typer reads it at run time)
    typer.Option("--set", help="Override, such as dial.depth=8. May be repeated."),
]
STORE = Path("runs")
LedgerOption = Annotated[
    Path, typer.Option("--ledger", help="A ledger file beside the shipped rows, where it exists.")
]
LEDGER = Path("baselines/noise.csv")
BaselinesOption = Annotated[Path, typer.Option("--baselines", help="Folder of all baselines.")]
AlphaOption = Annotated[float, typer.Option(help="Error rate of each verdict.")]
MarginOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(help="Harm that matters, such as val_loss=0.002 or tokens_per_s=0.005."),
]
MaxMinutesOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Stop in time, between two runs; the same command goes on."),
]
PriceOption = Annotated[Optional[float], typer.Option(help="USD per GPU-hour.")]  # noqa: UP045
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BASELINES = Path("baselines")
baseline_app = typer.Typer(no_args_is_help=True, help="What a configuration reached, stored.")
app.add_typer(baseline_app, name="baseline")
BETWEEN = "\0--"  # no file can be called so


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A configuration file.")],
    sets: SetOption = None,
    seed: Annotated[int, typer.Option(help="The seed of the run.")] = 1,
    store: StoreOption = STORE,
    trainer: Annotated[str, typer.Option(help="The trainer: native or fake.")] = "native",
    timeout_minutes: Annotated[float, typer.Option(help="End it after this long.")] = 60.0,
    retry: Annotated[bool, typer.Option("--retry", help="Even if it is recorded.")] = False,
) -> None:
    """One run of one configuration."""
    from harness import commands
    from harness.config import parse_sets
    from harness.trainer import by_name

    code = commands.run(
        _console(),
        config,
        _store(store),
        trainer=by_name(trainer),
        sets=parse_sets(sets or []),
        seed=seed,
        timeout_minutes=timeout_minutes,
        retry=retry,
    )
    raise typer.Exit(code)


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="A study file, such as ablations/smoke.yaml.")],
    sets: SetOption = None,
    seeds: Annotated[str, typer.Option(help="Such as 1,2,5-7; in place of the file's.")] = "",
    name: Annotated[str, typer.Option(help="Another name for the study.")] = "",
    store: StoreOption = STORE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only runs, time, cost, smallest detectable effect.")
    ] = False,
    max_minutes: MaxMinutesOption = None,
    gpus: Annotated[str, typer.Option(help="Such as 0-7: one run at a time on each.")] = "",
    split_blocks: Annotated[
        bool, typer.Option("--split-blocks", help="Begin blocks that cannot finish in time.")
    ] = False,
    price: PriceOption = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Make diverged and out-of-memory runs again.")
    ] = False,
    no_html: Annotated[bool, typer.Option("--no-html", help="A report without the HTML.")] = False,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="A dry run that starts no trainer at all.")
    ] = False,
) -> None:
    """A study: every arm at every seed, and the report. Goes on where it was stopped."""
    from harness import commands
    from harness.config import parse_seeds, parse_sets
    from harness.study import Options

    changed = commands.changed(
        commands.load(file),
        name=name or None,
        seeds=parse_seeds(seeds) if seeds else None,
        sets=parse_sets(sets or []),
        price=price,
    )
    options = Options(
        retry=retry,
        max_minutes=max_minutes,
        split_blocks=split_blocks,
        gpus=[str(number) for number in parse_seeds(gpus)] if gpus else [],
    )
    if dry_run:
        code = commands.dry_run(
            _console(), changed, file, _store(store), options, measure=not no_measure
        )
    else:
        code = commands.study(_console(), changed, file, _store(store), options, html=not no_html)
    raise typer.Exit(code)


@app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="The name of a stored study.")],
    store: StoreOption = STORE,
    out: Annotated[Optional[Path], typer.Option(help="The HTML file.")] = None,  # noqa: UP045
    json: Annotated[Optional[Path], typer.Option(help="The JSON file.")] = None,  # noqa: UP045
    csv: Annotated[Optional[Path], typer.Option(help="The CSV file.")] = None,  # noqa: UP045
    no_html: Annotated[bool, typer.Option("--no-html", help="Leave the HTML out.")] = False,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A PNG of the attribution bars."),
    ] = None,
) -> None:
    """What a stored study says: table, HTML, JSON, CSV, picture."""
    from harness import commands

    code = commands.report(
        _console(),
        _store(store),
        name,
        out=out,
        json=json,
        csv=csv,
        no_html=no_html,
        picture=picture,
    )
    raise typer.Exit(code)


@app.command()
def search(
    file: Annotated[
        Path, typer.Argument(help="A search file, such as ablations/searches/fake.yaml.")
    ],
    sets: SetOption = None,
    store: StoreOption = STORE,
    storage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="URL of Optuna's storage; a SQLite file in the store without it."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only the space, the budget and the second look.")
    ] = False,
    max_minutes: MaxMinutesOption = None,
    gpus: Annotated[str, typer.Option(help="Such as 0-7: one trial at a time on each.")] = "",
    worker: Annotated[
        bool, typer.Option("--worker", help="Only trials, beside another command's.")
    ] = False,
    patience: Annotated[
        float, typer.Option(help="So many minutes a worker waits for the other's base.")
    ] = 0.0,
    report: Annotated[
        bool, typer.Option("--report", help="Only what is found so far; starts no run.")
    ] = False,
    price: PriceOption = None,
    no_html: Annotated[bool, typer.Option("--no-html", help="A report without the HTML.")] = False,
) -> None:
    """The best settings: Optuna proposes, held-out seeds decide. Goes on where it was stopped."""
    from harness import searching
    from harness.config import parse_seeds, parse_sets
    from harness.search.file import load_search

    asked = searching.changed(load_search(file), sets=parse_sets(sets or []), price=price)
    if dry_run:
        raise typer.Exit(searching.dry_run(_console(), asked, file, _store(store)))
    options = searching.Options(
        max_minutes=max_minutes,
        gpus=[str(number) for number in parse_seeds(gpus)] if gpus else [],
        storage=storage,
        worker=worker,
        patience_minutes=patience,
        report_only=report,
        html=not no_html,
    )
    raise typer.Exit(searching.search(_console(), asked, file, _store(store), options))


@app.command()
def full(
    file: Annotated[Path, typer.Argument(metavar="JOB", help="Such as ablations/full/toy.yaml.")],
    sets: SetOption = None,
    store: StoreOption = STORE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only needs and forecast; no GPU is taken.")
    ] = False,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Only what is looked at before a start.")
    ] = False,
    proxies: Annotated[
        bool, typer.Option("--proxies", help="Make the runs that the forecast rests on.")
    ] = False,
    without_forecast: Annotated[
        bool, typer.Option("--without-forecast", help="Start although none can be made.")
    ] = False,
    max_minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Stop in time, with a checkpoint; the same command goes on."),
    ] = None,
    price: PriceOption = None,
    evidence: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The tar to write with all that supports the row."),
    ] = None,
    json: JsonOption = False,
    ledger: LedgerOption = LEDGER,
    baselines: BaselinesOption = BASELINES,
) -> None:
    """The full job: preflight, forecast, launch, watch, the row. Goes on where it was stopped."""
    from rich.console import Console

    from harness import launching
    from harness.config import parse_sets
    from harness.full.file import changed, load_full

    asked = changed(load_full(file), sets=parse_sets(sets or []), price=price)
    options = launching.Options(
        ledger=ledger,
        baselines=baselines,
        dry_run=dry_run,
        preflight_only=preflight,
        proxies=proxies,
        without_forecast=without_forecast,
        max_minutes=max_minutes,
        evidence=evidence,
        json=json,
    )
    console = Console(stderr=True) if json else _console()
    raise typer.Exit(launching.full(console, asked, file, _store(store), options))


class _Sides(TyperCommand):
    """Keeps the `--` between the sides as a word: elsewhere it only ends the options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [BETWEEN if word == "--" else word for word in args])


@app.command(cls=_Sides)
def compare(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="A... -- B...",
            help="Logs, folders of logs, run directories, records, stores, STORE:STUDY/ARM.",
        ),
    ],
    margin: MarginOption = None,
    metric: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Only this metric. May be repeated."),
    ] = None,
    regex: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="NAME=PATTERN: reads a number from any log, the last match counts."),
    ] = None,
    higher_better: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A metric read by --regex of which more is better."),
    ] = None,
    sd: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="NAME=SD of one run, in place of the ledger's."),
    ] = None,
    alpha: AlphaOption = 0.05,
    store: StoreOption = STORE,
    ledger: LedgerOption = LEDGER,
    json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    core: Annotated[
        bool, typer.Option("--core", help="CORE task by task, on the same examples.")
    ] = False,
) -> None:
    """Is B worse than A? Logs of runs in, a verdict for each metric out."""
    from harness import compare as command
    from harness.judgement import Asked

    a, b = command.split(paths, BETWEEN)
    asked = Asked(
        alpha=command.checked_alpha(alpha),
        margins=command.numbers(margin or [], "--margin"),
        sds=command.numbers(sd or [], "--sd"),
        metrics=metric or [],
        higher_better=higher_better or [],
    )
    code = command.compare(
        _console(),
        a,
        b,
        asked,
        regex=regex or [],
        ledger=command.load_ledger(ledger, _store(store)),
        form="json" if json else "markdown" if markdown else "terminal",
        tasks=core,
    )
    raise typer.Exit(code)


@app.command()
def noise(
    store: StoreOption = STORE,
    ledger: LedgerOption = LEDGER,
    write: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Keep the rows of own records as a ledger file."),
    ] = None,
) -> None:
    """The noise ledger: how much equal runs differ, and what is not known yet."""
    from harness import compare as command

    raise typer.Exit(command.noise(_console(), ledger, _store(store), write=write))


@app.command()
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
    versus: Annotated[
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
        bool, typer.Option("--once", help="A slowdown counts although one session shows it.")
    ] = False,
    open_ended: Annotated[
        bool, typer.Option("--open", help="One by one until it is clear or the budget ends.")
    ] = False,
    turns: Annotated[
        str, typer.Option(help="resident: both sides at once; relay: whole processes; or auto.")
    ] = "auto",
    environments: Annotated[
        str,
        typer.Option(
            help="For a ref with other dependencies: own installs them, shared uses those here."
        ),
    ] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Only time, cost and chances.")] = False,
    json: JsonOption = False,
    markdown: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write a summary for a pull request."),
    ] = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Exit codes for `git bisect run`; implies --once.")
    ] = False,
    price: PriceOption = None,
    run_minutes: Annotated[float, typer.Option(help="End a run after this long.")] = 60.0,
    trainer: Annotated[str, typer.Option(help="The trainer, where no baseline says.")] = "native",
    store: StoreOption = STORE,
    ledger: LedgerOption = LEDGER,
    baselines: BaselinesOption = BASELINES,
) -> None:
    """Did a change make anything worse? A verdict for each metric, and an exit code."""
    from rich.console import Console

    from harness import compare as command
    from harness.config import parse_sets
    from harness.dependencies import word_of as environments_word
    from harness.gate.sides import Asked, claim_of
    from harness.gating import Options, run_gate
    from harness.turns import word_of as turns_word

    asked = Asked(
        config=config,
        trainer=trainer,
        set=parse_sets(sets or []),
        versus=parse_sets(versus or []),
        head=head,
        base=base or None,
        claim=claim_of(claims),
        alpha=command.checked_alpha(alpha),
        margins=command.numbers(margin or [], "--margin"),
        budget_s=None if budget_minutes is None else 60 * budget_minutes,
        price_usd_per_hour=price,
        once=once or bisect,
        rule="open" if open_ended else "looks",
        turns=turns_word(turns),
        environments=environments_word(environments),
        run_limit_s=60 * run_minutes,
    )
    options = Options(
        store=store,
        ledger=ledger,
        baselines=baselines,
        baseline=baseline,
        plan_only=plan,
        json=json,
        markdown=markdown,
    )
    raise typer.Exit(run_gate(_console(), Console(stderr=True), asked, options))


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
    ledger: LedgerOption = LEDGER,
    baselines: BaselinesOption = BASELINES,
) -> None:
    """Stores what a configuration reaches, as replicates."""
    from harness import banking
    from harness import compare as command

    found = _replicates(config, source, sets or [], seeds, trainer, store)
    known = command.load_ledger(ledger, _store(store))
    raise typer.Exit(banking.record(_console(), baselines, name, found, known, why=why))


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
    worse: Annotated[bool, typer.Option("--worse", help="Although it is worse.")] = False,
    trainer: Annotated[str, typer.Option(help="The trainer: native or fake.")] = "native",
    store: StoreOption = STORE,
    ledger: LedgerOption = LEDGER,
    baselines: BaselinesOption = BASELINES,
) -> None:
    """Puts fresh replicates in the place of a baseline, with the evidence; keeps the old ones."""
    from harness import banking
    from harness import compare as command

    found = _replicates(config, source, sets or [], seeds, trainer, store)
    known = command.load_ledger(ledger, _store(store))
    code = banking.accept(
        _console(), baselines, name, found, _store(store), known, why=why, worse=worse
    )
    raise typer.Exit(code)


@baseline_app.command("list")
def baseline_list(baselines: BaselinesOption = BASELINES) -> None:
    """Every baseline, a line each."""
    from harness import banking

    raise typer.Exit(banking.show_all(_console(), baselines))


@baseline_app.command("show")
def baseline_show(
    name: Annotated[str, typer.Argument(help="A name, or its place as `list` shows it.")],
    baselines: BaselinesOption = BASELINES,
    json: JsonOption = False,
) -> None:
    """One baseline: why each entry was stored, by what evidence, and its runs."""
    from harness import banking

    raise typer.Exit(banking.show(_console(), baselines, name, json=json))


@app.command()
def doctor(
    store: StoreOption = STORE,
    trainer: Annotated[str, typer.Option(help="The trainer: native or fake.")] = "native",
) -> None:
    """What this machine can run, and remedies for the rest."""
    from harness import commands
    from harness.trainer import by_name

    raise typer.Exit(commands.doctor(_console(), _store(store), by_name(trainer)))


@app.command()
def pack(
    out: Annotated[Path, typer.Argument(help="The tar to write.")],
    store: StoreOption = STORE,
    compact: Annotated[
        bool, typer.Option("--compact", help="To publish: no run directories, no paths.")
    ] = False,
) -> None:
    """A store as one tar."""
    from harness import commands

    raise typer.Exit(commands.pack(_console(), _store(store), out, compact=compact))


@app.command()
def unpack(
    source: Annotated[Path, typer.Argument(metavar="TAR", help="A tar that pack wrote.")],
    store: StoreOption = STORE,
) -> None:
    """Merges a packed store into another."""
    from harness import commands

    raise typer.Exit(commands.unpack(_console(), source, _store(store)))


def _replicates(
    config: Path | None, source: str, sets: list[str], seeds: str, trainer: str, store: Path
) -> "Found":
    """Runs made now from a configuration file, or those of a study's arm. Raises UsageError."""
    from harness import banking
    from harness.config import parse_seeds, parse_sets
    from harness.errors import UsageError
    from harness.trainer import by_name

    if (config is None) == (not source):
        raise UsageError(
            path="harness baseline",
            expected="a configuration file or --from STORE:STUDY/ARM, one of them",
            got="both or none",
            remedy="A file makes the runs now; --from takes those of a study.",
        )
    if config is None:
        return banking.of_arm(source)
    chosen = parse_sets(sets)
    return banking.made_now(
        _console(), _store(store), by_name(trainer), config, chosen, parse_seeds(seeds)
    )


def _console() -> "Console":
    from rich.console import Console

    return Console()


def _store(path: Path) -> "Store":
    from harness.store import Store

    return Store(path)
