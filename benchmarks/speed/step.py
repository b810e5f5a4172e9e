"""Measures the step time of one configuration, or of several in interleaved segments.

    python -m benchmarks.speed.step ablations/configs/speedrun.yaml --set dial.depth=8 \\
        --candidate-set system.attention=flex \\
        --candidate-set system.attention=sdpa model.windows=null

Every configuration is a `model.pace` process. All start and compile at the same time, then take
turns in ABBA segments, so that a GPU that warms up or slows down affects both. A turn is the
smallest number of steps that takes --turn-seconds; the first turn of each is discarded. A
difference is one of ln(seconds per token) in per cent; slower is positive. Values that the dial
derives from a setting (batch, width) are derived here too. With one launch the interval covers
that launch alone; with --launches 2 or more everything is started again, in the opposite order, and
the interval covers the spread between launches (ab.py).

Exit code 0; 1 where a trainer failed or did not fit (--check-memory); 2 wrong usage.
"""

import argparse
import contextlib
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.ab import Comparison, compare
from benchmarks.speed.pace import Pace, Reply, StepperFailed, failure_text, first_answers
from harness.stats.ab_noise import log_ratio

MOST_MEMORY_SHARE = 0.9
MOST_LOADER_SHARE = 0.001  # above it a speed measures the host more than the trainer
TURN_SLACK = 20  # times the expected seconds, for a host that is busy with something else
LEAST_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One row of the table."""

    name: str
    overrides: list[str]


@dataclass(frozen=True, kw_only=True)
class Side:
    """Which configuration takes a turn, and by which word: `go` with its loader, or `same`."""

    configuration: int
    word: str = "go"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sides that take turns, and what their difference is called."""

    name: str
    a: Side
    b: Side


@dataclass(kw_only=True)
class Launch:
    """One set of freshly started trainers: their ready messages, environments and turns."""

    ready: list[Reply]
    environments: list[dict[str, Any]]
    turns: list[dict[str, Any]] = field(default_factory=list)


class DoesNotFit(Exception):
    """The trainers of one launch need more memory than the device should give."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, saves; the module's docstring has the exit codes."""
    parser = _parser()
    chosen = parser.parse_args(argv)
    if chosen.synthetic and chosen.loader_check:
        parser.error("--loader-check needs a loader, and --synthetic has none")
    configurations = _configurations(chosen)
    pairs = pairs_of(configurations, loader_check=chosen.loader_check)
    try:
        launches = [_launch(chosen, configurations, pairs, n) for n in range(chosen.launches)]
    except StepperFailed as error:
        print(f"error: {failure_text(error)}", file=sys.stderr)
        return 1
    except DoesNotFit as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = {pair.name: comparison(launches, pair) for pair in pairs}
    print_table(configurations, launches)
    print_comparisons(found)
    print_notes(configurations, launches)
    if chosen.out is not None:
        save(chosen, configurations, launches, found)
    return 0


def pairs_of(configurations: Sequence[Configuration], *, loader_check: bool) -> list[Pair]:
    """Every other configuration against the first; each with its loader against without."""
    pairs = [
        Pair(name=other.name, a=Side(configuration=0), b=Side(configuration=index))
        for index, other in enumerate(configurations)
        if index
    ]
    if loader_check:
        pairs += [
            Pair(
                name=f"{each.name}: its loader",
                a=Side(configuration=index, word="same"),
                b=Side(configuration=index),
            )
            for index, each in enumerate(configurations)
        ]
    return pairs


def _launch(
    chosen: argparse.Namespace,
    configurations: Sequence[Configuration],
    pairs: Sequence[Pair],
    number: int,
) -> Launch:
    """Starts, measures and ends all trainers once; the order of starting swaps."""
    order = list(range(len(configurations)))[:: -1 if number % 2 else 1]
    with (
        tempfile.TemporaryDirectory() as folder,
        _started(chosen, configurations, order, Path(folder)) as paces,
    ):
        ready = first_answers(paces, 60 * chosen.ready_minutes)
        launch = Launch(ready=ready, environments=[pace.file("environment.json") for pace in paces])
        if chosen.check_memory:
            require_room(ready)
        turns_of_launch = _turns(paces, ready, pairs, chosen)
        launch.turns = [{"launch": number, **turn} for turn in turns_of_launch]
        for pace in paces:
            pace.stop()
    return launch


@contextlib.contextmanager
def _started(
    chosen: argparse.Namespace,
    configurations: Sequence[Configuration],
    order: Sequence[int],
    folder: Path,
) -> Iterator[list[Pace]]:
    """All trainers, started in `order`; whatever happens, none outlives the block."""
    arguments = ["--synthetic"] if chosen.synthetic else []
    paces: dict[int, Pace] = {}
    with contextlib.ExitStack() as stack:
        for index in order:
            each = configurations[index]
            paces[index] = Pace(
                each.name, chosen.base, each.overrides, folder / str(index), arguments=arguments
            )
            stack.callback(paces[index].kill)
        yield [paces[index] for index in range(len(configurations))]


def _turns(
    paces: Sequence[Pace],
    ready: Sequence[Reply],
    pairs: Sequence[Pair],
    chosen: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """All turns of a launch as records, in the order in which they were taken."""
    steps = [
        enough_steps(pace, answer["step_s"], chosen.turn_seconds)
        for pace, answer in zip(paces, ready, strict=True)
    ]
    alone = Side(configuration=0)
    rounds = pairs or [Pair(name="alone", a=alone, b=alone)]
    for number in range(chosen.segments):
        for pair in rounds:
            for place, side in enumerate((pair.a, pair.b, pair.b, pair.a)):
                count = steps[side.configuration]
                turn = take_turn(paces[side.configuration], side.word, count, chosen.turn_seconds)
                where = {"pair": pair.name, "round": number, "place": place}
                yield {**where, "configuration": side.configuration, "word": side.word, **turn}


def enough_steps(pace: Pace, step_s: float, turn_s: float) -> int:
    """The fewest steps that fill a turn, from a first turn that counts for nothing else.

    `step_s`: seconds a step, as far as known before. Raises StepperFailed.
    """
    count = max(1, math.ceil(turn_s / step_s))
    turn = take_turn(pace, "go", count, turn_s)
    return max(1, math.ceil(turn_s / statistics.fmean(turn["step_s"])))


def take_turn(pace: Pace, word: str, steps: int, turn_s: float) -> Reply:
    """The answer to `go` or `same`, of a turn that should take `turn_s`. Raises StepperFailed."""
    return pace.ask(f"{word} {steps}", max(LEAST_TIMEOUT_S, TURN_SLACK * turn_s))


def require_room(ready: Sequence[Reply]) -> None:
    """Raises DoesNotFit when all together hold more than 90 % of the device's memory."""
    held = sum(answer["reserved_memory_bytes"] for answer in ready)
    room = MOST_MEMORY_SHARE * ready[0]["device_memory_bytes"]
    if held > room:
        each = " + ".join(f"{answer['reserved_memory_bytes'] / 1e9:.1f}" for answer in ready)
        raise DoesNotFit(
            f"expected trainers that hold at most {room / 1e9:.1f} GB together "
            f"({MOST_MEMORY_SHARE:.0%} of the device); got {each} = {held / 1e9:.1f} GB. "
            "Lower system.device_batch_rows for all of them, or compare fewer at a time."
        )


def comparison(launches: Sequence[Launch], pair: Pair) -> Comparison | None:
    """The difference of a pair; null when every window had a compilation in it."""
    ratios = [list(_log_ratios(launch, pair)) for launch in launches]
    ratios = [each for each in ratios if each]
    return compare(ratios) if ratios else None


def _log_ratios(launch: Launch, pair: Pair) -> Iterator[float]:
    """One for every A B B A in which nothing was compiled."""
    own = [turn for turn in launch.turns if turn["pair"] == pair.name]
    for start in range(0, len(own), 4):
        window = own[start : start + 4]
        if not any(turn["recompiled"] for turn in window):
            first, second, third, fourth = (_token_s(launch, turn) for turn in window)
            yield log_ratio(first, second, third, fourth)


def _token_s(launch: Launch, turn: dict[str, Any]) -> float:
    """Seconds a token, so that configurations of unequal batches can be compared."""
    tokens = turn["steps"] * launch.ready[turn["configuration"]]["batch_tokens"]
    return float(sum(turn["step_s"]) / tokens)


def rows_of(configurations: Sequence[Configuration], launches: Sequence[Launch]) -> list[list[str]]:
    """The table's rows; times of steps are means over all turns with the loader's own batches."""
    rows = []
    for index, each in enumerate(configurations):
        ready = [launch.ready[index] for launch in launches]
        every = _turns_of(launches, index)
        turns = [turn for turn in every if not turn["recompiled"]]
        times_s = [seconds for turn in turns for seconds in turn["step_s"]]
        step_s = statistics.fmean(times_s) if times_s else math.nan
        tokens_per_s = ready[0]["batch_tokens"] / step_s
        clocks = [turn["sm_clock_mhz"] for turn in turns if turn["sm_clock_mhz"] is not None]
        peak_flops = ready[0]["peak_flops"]
        mfu = tokens_per_s * ready[0]["flops_per_token"] / peak_flops if peak_flops else None
        rows.append(
            [
                each.name,
                f"{1e3 * step_s:,.2f}",
                f"{tokens_per_s:,.0f}",
                f"{mfu:.1%}" if mfu is not None else "–",
                f"{max(turn['peak_memory_bytes'] for turn in every) / 1e9:.2f}",
                f"{statistics.fmean(answer['startup_s'] for answer in ready):.1f}",
                f"{statistics.fmean(answer['compile_s'] for answer in ready):.1f}",
                f"{_loader_share(turns):.3%}",
                f"{statistics.median(clocks):,.0f}" if clocks else "–",
            ]
        )
    return rows


HEADS = [
    "configuration",
    "ms a step",
    "tokens/s",
    "MFU",
    "peak GB",
    "startup s",
    "compile s",
    "loader wait",
    "SM MHz",
]


def print_table(configurations: Sequence[Configuration], launches: Sequence[Launch]) -> None:
    """One row a configuration."""
    ready = launches[0].ready[0]
    batches = "the same batch at every step" if ready["synthetic"] else "batches from the loader"
    print(f"{ready['device']}, {batches}, step {ready['at_step']} of the schedule\n")
    lines = [HEADS, *rows_of(configurations, launches)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    for name, *cells in lines:
        numbers = "".join(
            f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)
        )
        print(f"{name:<{widths[0]}}{numbers}")
    print()


def print_comparisons(found: dict[str, Comparison | None]) -> None:
    """One line a pair: difference, interval, what the interval covers, what could be seen."""
    for name, each in found.items():
        print(f"{name}: {_comparison_text(each)}")


def _comparison_text(found: Comparison | None) -> str:
    if found is None:
        return "no window without a compilation, so no difference"
    middle, low, high = (
        100 * math.expm1(ratio) for ratio in (found.log_ratio, found.low, found.high)
    )
    difference = f"{middle:+.3f} % seconds a token"
    counts = f"{found.launches} launches, {found.windows} ABBA windows"
    if found.within_one_launch:
        counts = f"{found.windows} ABBA windows of one launch"
    if not found.df:
        return f"{difference}; no interval from {counts}"
    interval = f"[{low:+.3f}, {high:+.3f}]"
    label = "95 % between launches"
    if found.within_one_launch:
        label = "95 % within this launch; another launch may differ by more"
    seen = f"smallest detectable {100 * found.detectable:.3f} %"
    return f"{difference} {interval} ({label}; {counts}; {seen})"


def print_notes(configurations: Sequence[Configuration], launches: Sequence[Launch]) -> None:
    """What a reader has to know before believing the table."""
    for index, each in enumerate(configurations):
        turns = _turns_of(launches, index)
        share, graphs = _loader_share(turns), sum(turn["recompiled"] for turn in turns)
        if share > MOST_LOADER_SHARE:
            waited = f"waited for its loader {100 * share:.2f} % of the time"
            limit = f"over {100 * MOST_LOADER_SHARE:.1f} %"
            print(f"note: {each.name} {waited}, {limit}: its differences are inconclusive")
        if graphs:
            print(f"note: {each.name} compiled {graphs} graphs during turns, which are left out")
    missing = launches[0].ready[0]["sm_clock"]["missing"]
    if missing is not None:
        print(f"note: no SM clock: {missing}")


def _turns_of(launches: Sequence[Launch], configuration: int) -> list[dict[str, Any]]:
    """CosSin with the loader's batches (or the only batch there is)."""
    turns = [turn for launch in launches for turn in launch.turns]
    return [t for t in turns if t["configuration"] == configuration and t["word"] == "go"]


def _loader_share(turns: Sequence[dict[str, Any]]) -> float:
    total = sum(sum(turn["step_s"]) for turn in turns)
    return sum(sum(turn["loader_wait_s"]) for turn in turns) / total if total else math.nan


def save(
    chosen: argparse.Namespace,
    configurations: Sequence[Configuration],
    launches: Sequence[Launch],
    found: dict[str, Comparison | None],
) -> None:
    """Everything as JSON: environments, what was ready, every turn, the differences."""
    record = {
        "base": str(chosen.base),
        "turn_seconds": chosen.turn_seconds,
        "configurations": [asdict(each) for each in configurations],
        "launches": [asdict(launch) for launch in launches],
        "comparisons": {
            name: asdict(each) if each is not None and each.df else None
            for name, each in found.items()
        },
    }
    chosen.out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _configurations(chosen: argparse.Namespace) -> list[Configuration]:
    base = Configuration(name=chosen.base.stem, overrides=chosen.set)
    others = [
        Configuration(name=" ".join(settings), overrides=[*chosen.set, *settings])
        for settings in chosen.candidate_set
    ]
    return [base, *others]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.step", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("base", type=Path, metavar="BASE", help="YAML or JSON")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="in every configuration"
    )
    parser.add_argument(
        "--candidate-set",
        action="append",
        nargs="+",
        default=[],
        metavar="A.B=C",
        help="one more configuration: the base with these; may be given several times",
    )
    parser.add_argument("--launches", type=positive, default=1)
    parser.add_argument(
        "--segments", type=positive, default=8, help="ABBA segments a launch and pair"
    )
    parser.add_argument("--turn-seconds", type=float, default=2.0)
    parser.add_argument("--ready-minutes", type=float, default=30.0, help="limit of starting")
    parser.add_argument("--synthetic", action="store_true", help="one random batch, no data")
    parser.add_argument(
        "--loader-check",
        action="store_true",
        help="also each configuration with its loader against the same batch at every step",
    )
    parser.add_argument(
        "--check-memory", action="store_true", help="stop where all need over 90 %% of the memory"
    )
    parser.add_argument("--out", type=Path, help="save all records as JSON")
    return parser


def positive(text: str) -> int:
    """A number of 1 or more, for argparse."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
