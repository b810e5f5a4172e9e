"""What `harness baseline` does: record, accept, list, show.

A baseline begins with `record` and changes with `accept` only, which wants fresh replicates, says
by what evidence they take the place of the old ones, and keeps both. After `baseline`, beside
`commands`.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Optional

import msgspec
import typer
from rich.console import Console

from harness import errors
from harness.cli.console import new_console, print_line
from harness.cli.options import (
    BASELINES,
    NOISE_MODEL,
    STORE,
    BaselinesOption,
    JsonOption,
    NoiseModelOption,
    SetOption,
    StoreOption,
    open_store,
)
from harness.compare.compare import EXIT_CODES
from harness.compare.noise_model import NoiseModel
from harness.config.yaml_schema import parse_seeds, parse_sets
from harness.errors import TrainerError, UsageError
from harness.gate import baseline, history
from harness.gate.baseline import Baseline, BaselineEntry, Promotion
from harness.gate.metrics import of_replicates
from harness.gate.noise_sources import load_noise_model
from harness.gate.result import Looks, MetricVerdict
from harness.report.compare import print_judgements
from harness.results.logs import from_store
from harness.results.record import Record
from harness.results.store import Store
from harness.runner import replicates, worktree
from harness.runner.process import Stop
from harness.runner.trainer import NativeTrainer, by_name

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
BANK_ALPHA = 0.01  # stricter than a pull request's: a banked fluke would fail everybody after it
RUN_LIMIT_S = 3600.0
SHOWN = ("val_bpb", "val_loss", "core", "core_soft", "tokens_per_s", "peak_memory_bytes")
MEMBER = ":"  # between a store and STUDY/ARM


class ReplicateSet(NamedTuple):
    """Replicates with what is needed to make more of them."""

    records: list[Record]
    trainer: str
    config: dict[str, Any]
    commit: str | None


@app.command("record")
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
    found = _replicates(config, source, sets or [], seeds, trainer, store)
    known = load_noise_model(noise_model, open_store(store))
    raise typer.Exit(record(new_console(), baselines, name, found, known, why=why))


@app.command("accept")
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
    found = _replicates(config, source, sets or [], seeds, trainer, store)
    known = load_noise_model(noise_model, open_store(store))
    code = accept(
        new_console(), baselines, name, found, open_store(store), known, why=why, worse=worse
    )
    raise typer.Exit(code)


@app.command("list")
def baseline_list(baselines: BaselinesOption = BASELINES) -> None:
    """Every baseline, a line each."""
    raise typer.Exit(show_all(new_console(), baselines))


@app.command("show")
def baseline_show(
    name: Annotated[str, typer.Argument(help="A name, or its place as `list` shows it.")],
    baselines: BaselinesOption = BASELINES,
    json: JsonOption = False,
) -> None:
    """One baseline: why each entry was stored, by what evidence, and its runs."""
    raise typer.Exit(show(new_console(), baselines, name, json=json))


def _replicates(
    config: Path | None, source: str, sets: list[str], seeds: str, trainer: str, store: Path
) -> ReplicateSet:
    """Runs made now from a configuration file, or those of a study's arm. Raises UsageError."""
    if (config is None) == (not source):
        raise UsageError(
            "harness baseline",
            "a configuration file or --from STORE:STUDY/ARM, one of them",
            "both or none",
            "A file makes the runs now; --from takes those of a study.",
        )
    if config is None:
        return of_arm(source)
    chosen = parse_sets(sets)
    return made_now(
        new_console(), open_store(store), by_name(trainer), config, chosen, parse_seeds(seeds)
    )


# --- where replicates come from -------------------------------------------------------------------


def of_arm(words: str) -> ReplicateSet:
    """The runs of `STORE:STUDY/ARM`. Raises UsageError."""
    root, colon, study = words.rpartition(MEMBER)
    if not colon or not from_store.is_store(Path(root)):
        raise UsageError(
            f"--from {words}",
            "an arm of a stored study, as STORE:STUDY/ARM",
            f"no store at {root or words!r}",
            "Such as runs:smoke/base; `base` is meant where no arm is named.",
        )
    store = Store(Path(root))
    records = from_store.study_arm_records(Path(root), study, store.records())
    name, _, arm = study.partition("/")
    planned = store.study(name)
    chosen = planned.arm(arm or "base")
    checkout = Path(chosen.checkout)
    commit = worktree.clean_commit(checkout) if checkout.is_dir() else None
    return ReplicateSet(records, planned.trainer, chosen.config, commit)


def made_now(
    console: Console,
    store: Store,
    trainer: NativeTrainer,
    config: Path,
    sets: dict[str, Any],
    seeds: Sequence[int],
    spent: Sequence[str] = (),
) -> ReplicateSet:
    """Runs of a configuration file at these seeds, made as far as they are not recorded."""
    if not config.is_file():
        raise UsageError(
            str(config), "a configuration file", "no such file", "ablations/configs/ has some."
        )
    recipe = replicates.describe_recipe(trainer, str(config), str(config.resolve()), sets)
    records, stop = [], Stop()
    for seed in seeds:
        made = replicates.run_or_reuse(
            store, trainer, recipe.job(seed), stop, timeout_s=RUN_LIMIT_S, spent=spent
        )
        if made.status != "completed":
            raise TrainerError(
                f"seed {seed}",
                "a completed run",
                f"{made.status}: {made.reason}",
                made.hint or "See its log.txt in the store.",
            )
        print_line(console, f"seed {seed}: {made.wall_s:.0f} s")
        records.append(made)
    return ReplicateSet(
        records, trainer.name, recipe.config, worktree.clean_commit(trainer.checkout)
    )


# --- the commands ---------------------------------------------------------------------------------


def record(
    console: Console,
    root: Path,
    name: str,
    found: ReplicateSet,
    noise_model: NoiseModel,
    *,
    why: str,
) -> int:
    """Begins a baseline."""
    baseline.check_name(name)
    baseline.check_records(found.records, noise_model)
    made, path = baseline.append(
        root,
        name,
        found.records,
        trainer=found.trainer,
        config=found.config,
        commit=found.commit,
        why=why or "the first of this name",
        evidence=None,
        after=None,
    )
    _print_entry(console, made.now)
    print_line(console, f"{made.place}: {path}")
    return errors.PASS


def accept(
    console: Console,
    root: Path,
    name: str,
    found: ReplicateSet,
    store: Store,
    noise_model: NoiseModel,
    *,
    why: str,
    worse: bool,
) -> int:
    """Puts fresh replicates in the place of a baseline, with the evidence for it.

    The exit code is that of the comparison where it keeps the replicates out.
    """
    old = baseline.find(root, name)
    baseline.check_records(found.records, noise_model)
    baseline.refuse_foreign(old, found.records[0].identity, own_settings=True)
    baseline.refuse_stale(found.records, old, history.spent(history.load(store)))
    verdicts = of_replicates(
        old.now.records,
        found.records,
        Looks(looks=[len(found.records)]),
        noise_model,
        BANK_ALPHA,
        {},
    )
    outcome = _worst(verdicts)
    print_judgements(console, [one.judged for one in verdicts], BANK_ALPHA)
    refusal = _refusal(outcome, verdicts, worse)
    if refusal:
        print_line(console, f"not accepted: {refusal}")
        return EXIT_CODES["regression" if outcome == "regression" else "inconclusive"]
    evidence = Promotion(
        alpha=BANK_ALPHA, outcome=outcome, metrics=[one.judged for one in verdicts]
    )
    made, path = baseline.append(
        root,
        old.name,
        found.records,
        trainer=found.trainer,
        config=found.config,
        commit=found.commit,
        why=why,
        evidence=evidence,
        after=old,
    )
    _print_entry(console, made.now)
    print_line(console, f"{made.place}: {path}")
    return errors.PASS


def _worst(verdicts: Sequence[MetricVerdict]) -> str:
    outcomes = [one.outcome for one in verdicts if one.outcome is not None]
    order = ("regression", "inconclusive", "pass")
    return next((one for one in order if one in outcomes), "inconclusive")


def _refusal(outcome: str, verdicts: Sequence[MetricVerdict], worse: bool) -> str | None:
    if outcome == "regression" and not worse:
        return (
            "the replicates are worse than the baseline; --allow-regression accepts that on purpose"
        )
    if outcome == "inconclusive":
        open_ones = [one.judged for one in verdicts if one.outcome == "inconclusive"]
        more = [judged.more_runs for judged in open_ones if judged.more_runs]
        runs = f"about {max(more)} more runs a side settle it" if more else "it needs more runs"
        return f"the comparison is open; {runs}"
    return None


def show_all(console: Console, root: Path) -> int:
    """Every baseline, a line each."""
    paths = baseline.files(root)
    for path in paths:
        found = baseline.read(path)
        print_line(console, f"{found.place}  {_line(found)}")
    if not paths:
        print_line(console, f"none under {root}; `harness baseline record NAME CONFIG` makes one")
    return errors.PASS


def show(console: Console, root: Path, name: str, *, json: bool) -> int:
    """One baseline: its entries, newest last, and the runs of the one that counts."""
    found = baseline.find(root, name)
    if json:
        text = msgspec.json.format(msgspec.json.encode(found), indent=1).decode()
        console.file.write(text + "\n")
        return errors.PASS
    print_line(console, f"{found.place} on {found.gpu}")
    for entry in found.entries:
        _print_entry(console, entry)
    for one in found.now.records:
        values = ", ".join(
            f"{key} {value:,.6g}"
            for key, value in one.metrics.items()
            if value is not None and key in SHOWN
        )
        print_line(console, f"  seed {one.seed}: {values}")
    return errors.PASS


def _line(found: Baseline) -> str:
    entry = found.now
    entries = f"{len(found.entries)} entries" if len(found.entries) > 1 else "1 entry"
    return f"{len(entry.records)} runs, {_day(entry)}, {entries}: {entry.why}"


def _print_entry(console: Console, entry: BaselineEntry) -> None:
    code = f"commit {entry.commit[:10]}" if entry.commit else "uncommitted code"
    seeds = ", ".join(map(str, entry.seeds))
    head = f"entry {entry.number}, {_day(entry)}: {entry.why}"
    print_line(console, head)
    print_line(
        console, f"  {len(entry.records)} runs (seeds {seeds}), {code}, hash {entry.hash[:10]}"
    )
    if entry.evidence is not None:
        judged = [
            f"{one.metric} {one.estimate:+.3g} ({one.outcome or 'shown only'})"
            for one in entry.evidence.metrics
            if one.estimate is not None
        ]
        level = f"at {entry.evidence.alpha:g}"
        print_line(console, f"  evidence {level}: {entry.evidence.outcome}; {', '.join(judged)}")


def _day(entry: BaselineEntry) -> str:
    moment = datetime.datetime.fromtimestamp(entry.stored_at, datetime.UTC)
    return moment.strftime("%Y-%m-%d")
